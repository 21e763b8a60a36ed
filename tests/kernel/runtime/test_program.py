"""What crisp executes near containers cannot be written by way of /proc/PID/exe."""

from __future__ import annotations

import errno
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import HostFault
from runtime.program import open_program


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    shutil.copy("/bin/sleep", tmp_path / "program")
    return tmp_path / "program"


def overwrite(pid: int) -> None:
    """What CVE-2019-5736 does once the program has ended: open it for writing by its magic link."""
    link = os.open(f"/proc/{pid}/exe", os.O_PATH)
    try:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        os.close(os.open(f"/proc/self/fd/{link}", os.O_WRONLY))
    finally:
        os.close(link)


@pytest.fixture
def descriptor(copy: Path) -> Iterator[int]:
    opened = open_program(str(copy))
    yield opened
    os.close(opened)


def executed(descriptor: int) -> int:
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.execve(descriptor, ["sleep", "100"], {})
    os.close(write)
    os.read(read, 1)  # ends with the execve
    os.close(read)
    return pid


def test_a_plain_program_can_be_overwritten(copy: Path) -> None:
    plain = os.open(copy, os.O_RDONLY | os.O_CLOEXEC)
    pid = executed(plain)
    os.close(plain)
    overwrite(pid)


def test_a_sealed_program_cannot(descriptor: int) -> None:
    with pytest.raises(OSError) as refused:
        overwrite(executed(descriptor))
    assert refused.value.errno == errno.EROFS


def test_the_descriptor_closes_on_exec_and_the_mount_has_no_path(descriptor: int, copy: Path) -> None:
    assert not os.get_inheritable(descriptor)
    assert str(copy) not in Path("/proc/self/mountinfo").read_text()


def test_a_link_leads_to_the_program_itself(copy: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(copy)
    opened = open_program(str(tmp_path / "link"))
    assert os.path.samestat(os.fstat(opened), os.stat(copy))
    os.close(opened)


def test_a_missing_program_is_a_fault_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(HostFault, match=r"seal a program: .*/absent: open_tree: no such file"):
        open_program(str(tmp_path / "absent"))
