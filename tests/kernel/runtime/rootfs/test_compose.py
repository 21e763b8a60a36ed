from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import Fault, HostFault, StartRefused
from runtime.idmap import make_user_namespace
from runtime.linux import trees
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Script, Slot
from runtime.requests import StartRequest, Volume
from runtime.rootfs import compose
from runtime.spec import IdMapping, Mount
from tests.kernel.runtime.containers import MASKED, READONLY, bind, default_mounts
from tests.kernel.runtime.launched import Writer, carried_out
from tests.kernel.runtime.rootfs.held import left_open
from tests.kernel.runtime.rootfs.mountns import in_mount_namespace

IDS: IdMapping = {"host": 9000, "size": 100}
NODE = {"path": "/opt/node", "type": "c", "major": 1, "minor": 3, "fileMode": 0o600, "uid": 3, "gid": 3}


def request(mounts: list[Mount], devices: list[Any] | None = None, volumes: list[Volume] | None = None) -> StartRequest:
    linux = {
        "namespaces": [{"type": "cgroup"}],
        "devices": devices or [],
        "maskedPaths": MASKED,
        "readonlyPaths": READONLY,
    }
    made: Any = {
        "spec": {"mounts": mounts, "linux": linux},
        "volumes": volumes or [],
        "cgroup": {"v1": [], "v2": None},
    }
    result: StartRequest = made
    return result


def composing(path: Path, wanted: StartRequest, links: dict[str, str] | None = None) -> Writer:
    """Open the host sides, mount a root at ``path`` that has ``links``, and put it together."""

    def write(script: Script) -> None:
        opened = compose.open_mounts(script, wanted)
        trees.mount_at(script, "tmpfs", str(path), "tmpfs", 0, "size=4m,mode=755")
        root = script.opened("openat", AT_FDCWD, str(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0)
        for name, target in (links or {}).items():
            script.call("symlinkat", target, root, name)
        compose.mount_all(script, root, wanted["spec"], opened)
        script.close(root)

    return write


def composed(path: Path, wanted: StartRequest, look: Any) -> Any:
    """What ``look`` says of a root at ``path`` that is put together as ``wanted``."""

    def work() -> Any:
        carried_out(composing(path, wanted))
        return look()

    return in_mount_namespace(work)


def test_everything_that_a_container_expects_is_there(tmp_path: Path) -> None:
    def look() -> list[bool]:
        return [
            (tmp_path / "proc/self/status").exists(),
            (tmp_path / "dev/null").is_char_device(),
            os.readlink(tmp_path / "dev/ptmx") == "pts/ptmx",
            (tmp_path / "dev/pts/ptmx").exists(),
            (tmp_path / "dev/mqueue").is_mount(),
            (tmp_path / "sys/kernel").is_dir(),
        ]

    assert all(composed(tmp_path, request(default_mounts()), look))


def test_masks_cover_and_read_only_paths_refuse(tmp_path: Path) -> None:
    def look() -> tuple[bytes, list[str], int | None]:
        number = None
        try:
            (tmp_path / "proc/sys/kernel/hostname").write_text("x")
        except OSError as error:
            number = error.errno
        return (tmp_path / "proc/keys").read_bytes(), os.listdir(tmp_path / "sys/firmware"), number

    assert composed(tmp_path, request(default_mounts()), look) == (b"", [], errno.EROFS)


def test_a_read_only_dev_gets_its_nodes_and_mount_points_first(tmp_path: Path) -> None:
    mounts = default_mounts()
    mounts[1]["options"].append("ro")

    def look() -> tuple[bool, bool, int | None]:
        number = None
        try:
            (tmp_path / "dev/new").touch()
        except OSError as error:
            number = error.errno
        return (tmp_path / "dev/zero").is_char_device(), (tmp_path / "dev/pts").is_mount(), number

    assert composed(tmp_path, request(mounts), look) == (True, True, errno.EROFS)


def test_a_bind_over_dev_keeps_what_its_source_has(tmp_path: Path) -> None:
    """CVE-2025-31133: a volume at /dev whose ``null`` is a symlink gets no node made or followed."""
    source, root = tmp_path / "source", tmp_path / "root"
    source.mkdir()
    root.mkdir()
    (source / "null").symlink_to("/proc/sys/kernel/core_pattern")
    mounts = [mount for mount in default_mounts() if not mount["destination"].startswith("/dev")]

    def look() -> tuple[str, list[str]]:
        return os.readlink(root / "dev/null"), os.listdir(root / "dev")

    assert composed(root, request([*mounts, bind(source, "/dev")]), look) == (
        "/proc/sys/kernel/core_pattern",
        ["null"],
    )
    assert os.listdir(source) == ["null"]


def test_devices_outside_of_dev_are_made_too(tmp_path: Path) -> None:
    extra = {"path": "/opt/fuse", "type": "c", "major": 10, "minor": 229, "fileMode": 0o600, "uid": 0, "gid": 0}
    wanted = request(default_mounts(), [extra])
    assert composed(tmp_path, wanted, lambda: (tmp_path / "opt/fuse").is_char_device())


def test_binds_and_volumes_are_mounted_in_order(tmp_path: Path) -> None:
    root = tmp_path / "root"
    for name in ("root", "outer", "inner", "volume"):
        (tmp_path / name).mkdir()
        (tmp_path / name / f"is-{name}").touch()
    mounts = [bind(tmp_path / "outer", "/data"), bind(tmp_path / "inner", "/data/volume/inner")]
    wanted = request(mounts, volumes=[{"destination": "/data/volume", "source": str(tmp_path / "volume")}])

    def look() -> list[list[str]]:
        return [sorted(os.listdir(root / path)) for path in ("data", "data/volume", "data/volume/inner")]

    assert composed(root, wanted, look) == [["is-outer", "volume"], ["inner", "is-volume"], ["is-inner"]]


def test_control_groups_are_mounted(tmp_path: Path) -> None:
    entry: Mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro", "nosuid"]}
    assert composed(tmp_path, request([*default_mounts(), entry]), lambda: (tmp_path / "sys/fs/cgroup").is_mount())


@pytest.mark.parametrize("name", ["proc", "sys", "dev"])
def test_a_symlink_of_the_image_is_refused_with_the_mount_s_name(tmp_path: Path, name: str) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "outside").mkdir()

    def work() -> list[str]:
        links = {name: str(tmp_path / "outside")}
        with pytest.raises(StartRefused) as refused:
            carried_out(composing(tmp_path / "root", request(default_mounts()), links))
        lines = Path("/proc/self/mountinfo").read_text().splitlines()
        mounted = [line.split()[4] for line in lines if line.split()[4].startswith(str(tmp_path / "outside"))]
        return [refused.value.step, refused.value.object, *mounted]

    assert in_mount_namespace(work) == ["mount", f"/{name}"]


def test_a_source_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(HostFault) as failed:
        in_mount_namespace(lambda: carried_out(composing(tmp_path, request([bind("/nowhere", "/x")]))))
    assert (failed.value.object, failed.value.call) == ("/nowhere", "open_tree")


def test_a_mount_option_that_is_unknown_fails_the_mount(tmp_path: Path) -> None:
    bad: Mount = {"destination": "/t", "type": "tmpfs", "source": "tmpfs", "options": ["rubbish"]}
    with pytest.raises(Fault) as failed:
        composed(tmp_path, request([bad]), lambda: None)
    assert failed.value.step == "mount"


def test_every_descriptor_is_closed(tmp_path: Path) -> None:
    entry: Mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"]}
    (tmp_path / "root").mkdir()

    read_only_dev = default_mounts()
    read_only_dev[1]["options"].append("ro")

    def work(mounts: list[Mount]) -> dict[str, bool]:
        wanted = request([*mounts, entry, bind(tmp_path, "/mnt")])
        return in_mount_namespace(lambda: left_open(composing(tmp_path / "root", wanted)))

    assert [work(mounts) for mounts in (default_mounts(), read_only_dev)] == [{}, {}]


def test_with_a_user_namespace_the_hosts_side_has_dev_with_its_nodes_and_binds_are_idmapped(tmp_path: Path) -> None:
    (tmp_path / "source").mkdir()
    wanted = request([*default_mounts(), bind(tmp_path / "source", "/data", "ridmap")], [NODE])
    wanted["spec"]["linux"]["uidMappings"] = [{"containerID": 0, "hostID": 9000, "size": 100}]
    wanted["rootfs"] = {"lowerdirs": [], "upperdir": "", "workdir": "", "staging": str(tmp_path / "source")}
    user = make_user_namespace(IDS)
    found: list[str] = []

    def write(script: Script) -> list[Slot]:
        side = compose.open_mounts(script, wanted, script.given["user"])
        with trees.in_mount_namespace_aside(script):
            compose.make_nodes(script, wanted, side, IDS)
        opened = [(each.entry["destination"], each.tree) for each in side.mounts] + list(side.nodes)
        found.extend(place for place, tree in opened if tree is not None)
        return [tree for _, tree in opened if tree is not None]

    made = carried_out(write, {"user": user})
    assert found == ["/dev", "/data", "/opt/node"]
    dev = Path(f"/proc/self/fd/{made[0]}")
    assert sorted(os.listdir(dev)) == ["full", "null", "random", "tty", "urandom", "zero"]
    assert {(dev / name).stat().st_uid for name in ("", "null", "tty")} == {9000}
    assert [os.fstat(tree).st_uid for tree in made] == [9000, 9000, 9003]
    for descriptor in (user, *made):
        os.close(descriptor)
