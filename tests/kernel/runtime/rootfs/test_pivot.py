from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.errors import HostFault
from runtime.linux import namespaces, trees
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Script, Slot
from runtime.rootfs import pivot
from tests.kernel.runtime.launched import carried_out
from tests.kernel.runtime.rootfs.held import left_open
from tests.kernel.runtime.rootfs.mountns import in_mount_namespace, tmpfs_root

LISTED = os.O_RDONLY | os.O_DIRECTORY


def test_nothing_of_the_host_is_left(tmp_path: Path) -> None:
    def work() -> tuple[list[list[str]], bytes, list[str]]:
        root = tmpfs_root(tmp_path)
        (tmp_path / "inside").touch()
        proc = os.open("/proc", os.O_PATH)
        reads, writes = os.pipe()

        def write(script: Script) -> list[Slot]:
            pivot.enter_root(script, script.given["root"])
            cwd = script.room(4096)
            script.call("getcwd", cwd, 4096)
            script.call("write", script.given["cwd"], cwd, 4096)
            mountinfo = script.opened("openat", script.given["proc"], "self/mountinfo", os.O_RDONLY, 0)
            return [*(script.opened("openat", AT_FDCWD, path, LISTED, 0) for path in ("/", ".", "../..")), mountinfo]

        *directories, mountinfo = carried_out(write, {"root": root, "proc": proc, "cwd": writes})
        mounts = [line.split()[4] for line in os.read(mountinfo, 65536).decode().splitlines()]
        return [os.listdir(fd) for fd in directories], os.read(reads, 4096).rstrip(b"\0"), mounts

    assert in_mount_namespace(work) == ([["inside"]] * 3, b"/", ["/"])


def test_dots_end_at_the_new_root(tmp_path: Path) -> None:
    def write(script: Script) -> Slot:
        pivot.enter_root(script, script.given["root"])
        script.call("chdir", "../../..")
        return script.opened("openat", AT_FDCWD, ".", LISTED, 0)

    def work() -> list[str]:
        (found,) = carried_out(write, {"root": tmpfs_root(tmp_path)})
        return os.listdir(found)

    assert in_mount_namespace(work) == []


def test_no_descriptor_of_the_host_is_left_open(tmp_path: Path) -> None:
    def write(script: Script) -> None:
        trees.own_mount_namespace(script, namespaces.CLONE_NEWNS)
        trees.mount_at(script, "tmpfs", str(tmp_path), "tmpfs", 0)
        root = script.opened("openat", AT_FDCWD, str(tmp_path), os.O_PATH | os.O_CLOEXEC, 0)
        pivot.enter_root(script, root)
        script.close(root)

    assert left_open(write) == {}


def test_what_is_no_mount_is_not_entered(tmp_path: Path) -> None:
    (tmp_path / "plain").mkdir()

    def work() -> None:
        tmpfs_root(tmp_path)
        (tmp_path / "plain").mkdir()
        plain = os.open(tmp_path / "plain", os.O_PATH)
        carried_out(lambda script: pivot.enter_root(script, script.given["plain"]), {"plain": plain})

    with pytest.raises(HostFault) as failed:
        in_mount_namespace(work)
    assert failed.value.call == "pivot_root"
