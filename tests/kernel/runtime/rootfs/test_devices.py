from __future__ import annotations

import os
import stat
import struct
from pathlib import Path

import pytest

from runtime.errors import HostFault, StartRefused
from runtime.linux import trees
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Script, Slot
from runtime.rootfs import devices
from runtime.spec import UNMAPPED, Device, IdMapping
from tests.kernel.runtime.launched import carried_out
from tests.kernel.runtime.rootfs.held import come_between, left_open
from tests.kernel.runtime.rootfs.mountns import in_mount_namespace, tmpfs_root


def device(path: str, kind: str = "c", major: int = 10, minor: int = 229, **changes: int) -> Device:
    made: Device = {"path": path, "type": kind, "major": major, "minor": minor, "fileMode": 0o640, "uid": 0, "gid": 0}
    made.update(changes)  # type: ignore[typeddict-item]
    return made


def fill_dev(dev: int, extra: list[Device]) -> None:
    planned = devices.plan_devices(extra)
    carried_out(lambda script: devices.fill_dev(script, script.given["dev"], planned), {"dev": dev})


def make_device(root: Path, path: str, made: Device) -> None:
    fd = os.open(root, os.O_PATH)
    umask = os.umask(0)
    try:
        carried_out(lambda script: devices.make_device(script, script.given["root"], path, made), {"root": fd})
    finally:
        os.umask(umask)
        os.close(fd)


def test_a_new_dev_has_the_default_nodes_and_links(tmp_path: Path) -> None:
    def work() -> dict[str, str]:
        fill_dev(tmpfs_root(tmp_path), [])
        return {entry.name: describe(entry) for entry in tmp_path.iterdir()}

    assert in_mount_namespace(work) == {
        "null": "c 1:3 666",
        "zero": "c 1:5 666",
        "full": "c 1:7 666",
        "random": "c 1:8 666",
        "urandom": "c 1:9 666",
        "tty": "c 5:0 666",
        "ptmx": "-> pts/ptmx",
        "fd": "-> /proc/self/fd",
        "stdin": "-> /proc/self/fd/0",
        "stdout": "-> /proc/self/fd/1",
        "stderr": "-> /proc/self/fd/2",
        "core": "-> /proc/kcore",
    }


def describe(path: Path) -> str:
    if path.is_symlink():
        return f"-> {os.readlink(path)}"
    found = path.lstat()
    kind = "c" if stat.S_ISCHR(found.st_mode) else "b" if stat.S_ISBLK(found.st_mode) else "p"
    return f"{kind} {os.major(found.st_rdev)}:{os.minor(found.st_rdev)} {stat.S_IMODE(found.st_mode):o}"


def test_an_extra_device_gets_its_mode_and_owner(tmp_path: Path) -> None:
    def work() -> tuple[str, str, int, int, str]:
        extra = [device("/dev/snd/x", uid=5, gid=6), device("/dev/loop7", "b", 7, 7), device("/dev/pipe", "p")]
        fill_dev(tmpfs_root(tmp_path), extra)
        found = (tmp_path / "snd/x").stat()
        described = [describe(tmp_path / name) for name in ("snd/x", "loop7", "pipe")]
        return described[0], described[1], found.st_uid, found.st_gid, described[2]

    assert in_mount_namespace(work) == ("c 10:229 640", "b 7:7 640", 5, 6, "p 0:0 640")


def test_a_request_wins_over_a_default_and_ours_are_left_out() -> None:
    extra = [
        device(path) for path in ("/dev/null", "/dev/ptmx", "/dev/console", "/dev/pts/0", "/dev/shm/x", "/dev/kvm")
    ]
    planned = {each["path"]: each["minor"] for each in devices.plan_devices(extra)}
    assert planned["/dev/null"] == 229 and planned["/dev/zero"] == 5
    assert not {"/dev/ptmx", "/dev/console", "/dev/pts/0", "/dev/shm/x"} & set(planned)


def test_a_symlink_in_the_way_is_replaced_and_its_target_left_alone(tmp_path: Path) -> None:
    """CVE-2025-31133: a /dev/null that is a symlink to a file of procfs."""
    target = tmp_path / "core_pattern"
    target.write_text("core")
    (tmp_path / "null").symlink_to(target)
    make_device(tmp_path, "null", devices.DEFAULT_DEVICES[0])
    assert stat.S_ISCHR((tmp_path / "null").lstat().st_mode)
    assert target.read_text() == "core"


def test_a_node_outside_of_dev_is_made_inside_the_root(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root/opt").symlink_to("../..")
    make_device(tmp_path / "root", "/opt/x/node", device("/opt/x/node"))
    assert stat.S_ISCHR((tmp_path / "root/x/node").stat().st_mode)


def test_a_directory_in_the_way_is_refused(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    with pytest.raises(StartRefused, match="in the way") as refused:
        make_device(tmp_path, "/node", device("/node"))
    assert refused.value.object == "/node"


@pytest.mark.parametrize("path", ["/dev/..", "/dev/.", "/", ".."])
def test_what_is_no_name_for_a_device_is_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(StartRefused, match="no name"):
        make_device(tmp_path, path, device(path))


def test_a_large_number_is_made_whole(tmp_path: Path) -> None:
    numbers = ((4095, 1048575), (259, 256), (1, 65536), (511, 255))
    for major, minor in numbers:
        make_device(tmp_path, f"/{major}", device(f"/{major}", "b", major, minor))
        found = (tmp_path / str(major)).stat()
        assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == (major, minor)


def test_a_node_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    def write(script: Script) -> None:
        script.call("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))
        devices.make_device(script, script.given["root"], "/x", device("/x"))

    root = os.open(tmp_path, os.O_PATH)
    try:
        with pytest.raises(HostFault) as failed:
            carried_out(write, {"root": root})
    finally:
        os.close(root)
    assert (failed.value.object, failed.value.call) == ("/x", "mknodat")


def put_instead(script: Script, root: Slot, name: str, kind: int, number: int) -> None:
    """Somebody replaces the node as soon as it is made."""

    def replace() -> None:
        script.call("unlinkat", root, name, 0)
        if kind == stat.S_IFLNK:
            script.call("symlinkat", "/dev/null", root, name)
        else:
            script.call("mknodat", root, name, kind | 0o666, number)

    come_between(script, "mknodat", replace)


@pytest.mark.parametrize(
    ("kind", "number"),
    [
        (stat.S_IFCHR, os.makedev(1, 5)),
        (stat.S_IFBLK, os.makedev(1, 3)),
        (stat.S_IFIFO, 0),
        (stat.S_IFREG, 0),
        (stat.S_IFLNK, 0),
    ],
)
@pytest.mark.parametrize("path", ["null", "/dir/null"])
def test_another_device_than_the_one_made_is_noticed(tmp_path: Path, kind: int, number: int, path: str) -> None:
    (tmp_path / "dir").mkdir()
    root = os.open(tmp_path, os.O_PATH)
    directory = os.open((tmp_path / path.lstrip("/")).parent, os.O_PATH)

    def write(script: Script) -> None:
        put_instead(script, script.given["directory"], "null", kind, number)
        devices.make_device(script, script.given["root"], path, devices.DEFAULT_DEVICES[0])

    try:
        with pytest.raises(HostFault, match="is not the device that was just made") as failed:
            carried_out(write, {"root": root, "directory": directory})
        assert failed.value.object == "/dev/null"
    finally:
        os.close(root)
        os.close(directory)


def test_the_owner_of_what_was_put_there_meanwhile_is_not_changed(tmp_path: Path) -> None:
    """A symlink that somebody puts in the place of the node is not followed."""
    target = tmp_path / "target"
    target.touch()
    root = os.open(tmp_path, os.O_PATH)

    def write(script: Script) -> None:
        def replace() -> None:
            script.call("unlinkat", script.given["root"], "node", 0)
            script.call("symlinkat", str(target), script.given["root"], "node")

        come_between(script, "mknodat", replace)
        devices.make_device(script, script.given["root"], "node", device("/node", uid=5, gid=6))

    try:
        with pytest.raises(HostFault, match="is not the device"):
            carried_out(write, {"root": root})
    finally:
        os.close(root)
    assert (target.stat().st_uid, target.stat().st_gid) == (0, 0)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def write(script: Script) -> None:
        for path in ("/dev/one", "two", "/a/b/three"):
            devices.make_device(script, script.given["root"], path, device(path))
        devices.fill_dev(script, script.given["root"], devices.plan_devices([device("/dev/sub/four")]))

    root = os.open(tmp_path, os.O_PATH)
    try:
        assert left_open(write, {"root": root}) == {}
    finally:
        os.close(root)


IDS: IdMapping = {"host": 5000, "size": 100}


def test_the_owners_of_nodes_are_those_that_the_containers_ids_have_on_the_host(tmp_path: Path) -> None:
    extra = [device("/dev/a/b/c", uid=7, gid=100), device("/dev/disk", uid=UNMAPPED, gid=UNMAPPED)]
    planned = devices.plan_owned(devices.plan_devices(extra), IDS)

    def write(script: Script) -> None:
        devices.make_directories(script, script.given["dev"], planned, IDS)
        devices.make_nodes(script, script.given["dev"], planned)

    def work() -> dict[str, tuple[int, int]]:
        carried_out(write, {"dev": tmpfs_root(tmp_path)})
        found = {name: (tmp_path / name).stat() for name in ("null", "a", "a/b", "a/b/c", "disk")}
        return {name: (each.st_uid, each.st_gid) for name, each in found.items()}

    assert in_mount_namespace(work) == {
        "null": (5000, 5000),
        "a": (5000, 5000),
        "a/b": (5000, 5000),
        "a/b/c": (5007, 0),
        "disk": (0, 0),
    }


def test_nodes_for_elsewhere_are_trees_to_be_mounted(tmp_path: Path) -> None:
    planned = devices.plan_owned([device("/opt/one"), device("/dev/two"), device("/three", "b", 7, 7)], IDS)
    paths: list[str] = []

    def write(script: Script) -> list[Slot]:
        with trees.in_mount_namespace_aside(script):
            made = devices.make_elsewhere(script, planned, str(tmp_path))
            script.call("mkdirat", AT_FDCWD, str(tmp_path / "nothing-is-mounted"), 0o755)
        paths.extend(path for path, _ in made)
        return [tree for _, tree in made]

    found = carried_out(write)
    assert paths == ["/opt/one", "/three"] and os.listdir(tmp_path) == ["nothing-is-mounted"]
    assert [os.fstat(tree).st_rdev for tree in found] == [os.makedev(10, 229), os.makedev(7, 7)]
    assert [os.fstat(tree).st_uid for tree in found] == [5000, 5000]
    for tree in found:
        os.close(tree)
    assert devices.make_elsewhere(Script(), planned[1:2], str(tmp_path)) == []
