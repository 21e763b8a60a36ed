"""The jail: what is inside stays inside."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.images import jail
from runtime.linux import capabilities, mount, process
from tests.kernel.runtime.images.workers import SubprocessRunner

PROBE = "tests.kernel.runtime.images.probes:break_out"


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "outside").write_text("host")
    os.symlink("../outside", inside / "out")
    os.mknod(inside / "null", 0o020666, os.makedev(1, 3))
    (inside / "planted.py").write_text("")
    (inside / "tool").write_bytes(Path("/bin/true").read_bytes())
    os.chmod(inside / "tool", 0o755)
    fd = os.open(inside, os.O_RDONLY)
    yield fd
    os.close(fd)


def test_outside_of_the_jail_all_of_it_leads_out(directory: int, tmp_path: Path) -> None:
    """The weak variant: a worker that unpacks where the daemon lives."""
    outside = str(tmp_path / "outside")
    for name in ("../../../../../../../../.." + outside, outside, "out"):
        fd = os.open(name, os.O_RDONLY, dir_fd=directory)
        assert os.read(fd, 4) == b"host"
        os.close(fd)
    assert subprocess.run([f"/proc/self/fd/{directory}/tool"], pass_fds=[directory]).returncode == 0
    socket.socket(socket.AF_INET).close()


async def test_nothing_leads_out(directory: int, tmp_path: Path) -> None:
    args = {"outside": str(tmp_path / "outside"), "rights": jail.UNPACK_CAPABILITIES}
    found = await SubprocessRunner().run_worker(PROBE, args, [directory])
    assert found.pop("root") == ["null", "out", "planted.py", "tool"]
    assert found.pop("given descriptor") == "worked: ['null', 'out', 'planted.py', 'tool']"
    assert found.pop("chown") == "worked: None"
    assert found.pop("mknod") == "worked: None"
    assert found.pop("status") == "worked: True"
    assert found == {
        "dotdot": "FileNotFoundError",
        "absolute": "FileNotFoundError",
        "link": "FileNotFoundError",
        "proc": "FileNotFoundError",
        "device": "PermissionError",
        "import": "ModuleNotFoundError",
        "lazy import": "ModuleNotFoundError",
        "program": "PermissionError",
        "execve": "PermissionError",
        "socket": "PermissionError",
        "mount": "SyscallError",
        "namespace": "SyscallError",
        "chroot": "PermissionError",
        "more memory": "MemoryError",
        "large file": "OSError",
        "more rights": "ValueError",
    }
    assert os.lstat(tmp_path / "inside/out").st_uid == 1


async def test_rights_that_are_not_needed_are_gone(directory: int, tmp_path: Path) -> None:
    args = {"outside": str(tmp_path / "outside"), "rights": jail.DELETE_CAPABILITIES}
    found = await SubprocessRunner().run_worker(PROBE, args, [directory])
    assert found["chown"] == found["mknod"] == "PermissionError"


@pytest.fixture
def in_a_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[tuple[int, tuple[int, int]]]]:
    """Makes what the jail changes in the whole process come back or not happen at all."""
    limits: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "setrlimit", lambda which, value: limits.append((which, value)))
    monkeypatch.setattr(process, "set_dumpable", lambda dumpable: None)
    path, finders, hooks = list(sys.path), list(sys.meta_path), list(sys.path_hooks)
    yield limits
    sys.path[:], sys.meta_path[:], sys.path_hooks[:] = path, finders, hooks


def enter(directory: int, seen: dict[str, object]) -> None:
    def run() -> None:
        try:
            jail.enter(directory, jail.Limits(1 << 30, 5, 7), jail.DELETE_CAPABILITIES)
            seen["root"] = sorted(os.listdir("/"))
            seen["rights"] = capabilities.capget(), capabilities.bounding()
        except OSError as error:
            seen["error"] = error

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()


def test_a_thread_that_enters_is_alone_inside(directory: int, in_a_thread: list[tuple[int, tuple[int, int]]]) -> None:
    seen: dict[str, object] = {}
    enter(directory, seen)
    keep = capabilities.mask(jail.DELETE_CAPABILITIES)
    assert seen == {"root": ["null", "out", "planted.py", "tool"], "rights": ((keep, keep, 0), keep)}
    assert dict(in_a_thread)[resource.RLIMIT_FSIZE] == (5, 5)
    assert dict(in_a_thread)[resource.RLIMIT_CPU] == (7, 7)
    assert Path("/proc").is_dir()  # for us nothing has changed


def test_where_the_root_cannot_be_pivoted_it_is_covered(
    directory: int, in_a_thread: list[tuple[int, tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(new_root: str, put_old: str) -> None:
        raise OSError(errno.EINVAL, "initial ramfs")

    monkeypatch.setattr(mount, "pivot_root", refuse)
    seen: dict[str, object] = {}
    enter(directory, seen)
    assert seen["root"] == ["null", "out", "planted.py", "tool"]


def test_any_other_refusal_is_an_error(
    directory: int, in_a_thread: list[tuple[int, tuple[int, int]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(new_root: str, put_old: str) -> None:
        raise OSError(errno.EPERM, "no")

    monkeypatch.setattr(mount, "pivot_root", refuse)
    seen: dict[str, object] = {}
    enter(directory, seen)
    assert isinstance(seen["error"], OSError)
    assert "root" not in seen
