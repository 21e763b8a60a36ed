from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runtime.errors import HostFault, StartRefused
from runtime.linux import mount
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Script, Slot
from runtime.rootfs import console
from runtime.rootfs.mounts import attach, create_filesystem
from runtime.rootfs.options import parse_options
from runtime.spec import Mount
from tests.descriptors import open_descriptors
from tests.kernel.runtime.containers import read_until
from tests.kernel.runtime.launched import carried_out
from tests.kernel.runtime.rootfs.held import held, left_open
from tests.kernel.runtime.rootfs.mountns import in_mount_namespace, tmpfs_root

DEVPTS: Mount = {"destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": []}
OPTIONS = ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620"]


def root_with_devpts(path: Path) -> int:
    def write(script: Script) -> None:
        tree = create_filesystem(script, "devpts", "devpts", parse_options(OPTIONS))
        attach(script, script.given["root"], tree, DEVPTS)

    root = tmpfs_root(path)
    carried_out(write, {"root": root})
    return root


def open_terminal(root: int) -> tuple[int, int]:
    master, peer = carried_out(lambda script: console.open_terminal(script, script.given["root"]), {"root": root})
    return master, peer


def bound_console(script: Script) -> tuple[Slot, Slot]:
    master, peer = console.open_terminal(script, script.given["root"])
    console.bind_console(script, script.given["root"], peer)
    return master, peer


def test_a_terminal_of_the_container_s_own_devpts_works(tmp_path: Path) -> None:
    def write(script: Script) -> None:
        master, peer = bound_console(script)
        script.call("setsid")
        console.take(script, master, peer)
        own = script.opened("openat", AT_FDCWD, "/dev/tty", os.O_WRONLY | os.O_CLOEXEC, 0)
        for number, text in ((1, b"out,"), (2, b"err,"), (own, b"tty,")):
            script.call("write", number, text, len(text))
        script.close(own)

    def work() -> tuple[bytes, str, list[str]]:
        root = root_with_devpts(tmp_path)
        with held(write, {"root": root}) as process:
            (master,) = process.handed
            with open(tmp_path / "dev/console", "wb", buffering=0) as file:
                file.write(b"hello\n")
            streams = [os.readlink(f"/proc/{process.pid}/fd/{number}") for number in range(3)]
            return read_until(master, b"\n"), ",".join(sorted(os.listdir(tmp_path / "dev/pts"))), streams

    assert in_mount_namespace(work) == (b"out,err,tty,hello\r\n", "0,ptmx", [f"{tmp_path}/dev/pts/0"] * 3)


def test_a_terminal_that_was_taken_leaves_nothing_else_open(tmp_path: Path) -> None:
    def write(script: Script) -> None:
        master, peer = bound_console(script)
        script.call("setsid")
        console.take(script, master, peer)

    assert in_mount_namespace(lambda: left_open(write, {"root": root_with_devpts(tmp_path)})) == {}


def test_both_ends_go_when_a_program_is_executed(tmp_path: Path) -> None:
    def write(script: Script) -> None:
        bound_console(script)

    found = in_mount_namespace(lambda: left_open(write, {"root": root_with_devpts(tmp_path)}))
    assert list(found.values()) == [True, True]


def test_the_peer_is_a_terminal_of_that_devpts(tmp_path: Path) -> None:
    def work() -> tuple[bool, int, bytes]:
        master, peer = open_terminal(root_with_devpts(tmp_path))
        os.write(peer, b"x")
        return os.isatty(peer), (tmp_path / "dev/pts/0").stat().st_rdev - os.fstat(peer).st_rdev, os.read(master, 10)

    assert in_mount_namespace(work) == (True, 0, b"x")


def test_the_console_is_the_terminal_itself(tmp_path: Path) -> None:
    def work() -> bool:
        _, peer = carried_out(bound_console, {"root": root_with_devpts(tmp_path)})
        return (tmp_path / "dev/console").stat().st_rdev == os.fstat(peer).st_rdev

    assert in_mount_namespace(work)


def test_without_a_devpts_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(StartRefused, match="no devpts"):
        in_mount_namespace(lambda: open_terminal(tmpfs_root(tmp_path)))


def test_a_symlink_to_the_host_s_multiplexer_is_refused(tmp_path: Path) -> None:
    def work() -> None:
        root = tmpfs_root(tmp_path)
        (tmp_path / "dev/pts").mkdir(parents=True)
        (tmp_path / "dev/pts/ptmx").symlink_to("/dev/ptmx")
        open_terminal(root)

    with pytest.raises(StartRefused, match="no devpts"):
        in_mount_namespace(work)


def test_a_node_of_the_image_that_is_no_devpts_is_refused(tmp_path: Path) -> None:
    """CVE-2025-52565: what stands at /dev/pts/ptmx is checked before it is used."""

    def work(number: int) -> None:
        root = tmpfs_root(tmp_path)
        (tmp_path / "dev/pts").mkdir(parents=True)
        os.mknod(tmp_path / "dev/pts/ptmx", stat.S_IFCHR | 0o666, number)
        open_terminal(root)

    for number in (os.makedev(1, 3), os.makedev(5, 2)):
        with pytest.raises((StartRefused, HostFault)):
            in_mount_namespace(lambda number=number: work(number))  # type: ignore[misc]


def test_a_console_that_is_a_symlink_is_bound_inside_the_root(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("host")
    (tmp_path / "root").mkdir()

    def work() -> str:
        root = root_with_devpts(tmp_path / "root")
        (tmp_path / "root/dev/console").symlink_to(outside)
        carried_out(bound_console, {"root": root})
        return outside.read_text()

    assert in_mount_namespace(work) == "host"


def test_no_terminal_to_control_is_an_error() -> None:
    def write(script: Script) -> None:
        script.call("setsid")
        console.take(script, script.given["master"], script.given["null"])

    null, master = os.open("/dev/null", os.O_RDWR), os.open("/dev/null", os.O_RDWR)
    try:
        with pytest.raises(HostFault) as failed:
            carried_out(write, {"null": null, "master": master})
        assert failed.value.call == "ioctl"
    finally:
        os.close(null)
        os.close(master)


@pytest.mark.parametrize("number", [os.makedev(1, 3), os.makedev(5, 2), os.makedev(5, 0)])
def test_a_multiplexer_that_is_bound_from_elsewhere_is_refused(tmp_path: Path, number: int) -> None:
    """On a devpts it has to be the multiplexer, and the multiplexer has to be on a devpts."""

    def work() -> None:
        root = root_with_devpts(tmp_path)
        (tmp_path / "elsewhere").mkdir()
        os.mknod(tmp_path / "elsewhere/ptmx", stat.S_IFCHR | 0o666, number)
        mount.mount(str(tmp_path / "elsewhere/ptmx"), str(tmp_path / "dev/pts/ptmx"), "", mount.MS_BIND)
        open_terminal(root)

    with pytest.raises((StartRefused, HostFault)):
        in_mount_namespace(work)


def test_a_terminal_that_is_bound_over_the_multiplexer_is_refused(tmp_path: Path) -> None:
    """It is of a devpts, but not the multiplexer."""

    def work() -> None:
        root = root_with_devpts(tmp_path)
        kept = open_terminal(root)
        mount.mount(str(tmp_path / "dev/pts/0"), str(tmp_path / "dev/pts/ptmx"), "", mount.MS_BIND)
        assert kept
        open_terminal(root)

    with pytest.raises(StartRefused, match="multiplexer"):
        in_mount_namespace(work)


def test_a_failure_leaves_nothing_open(tmp_path: Path) -> None:
    def work() -> int:
        root = tmpfs_root(tmp_path)
        (tmp_path / "dev/pts").mkdir(parents=True)
        (tmp_path / "dev/pts/ptmx").touch()
        before = len(open_descriptors())
        with pytest.raises(StartRefused, match="multiplexer"):
            open_terminal(root)
        mount.umount2(str(tmp_path), mount.MNT_DETACH)
        return len(open_descriptors()) - before

    assert in_mount_namespace(work) == 0
