from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import time
from pathlib import Path

import pytest

from runtime.linux import files
from runtime.linux.libc import SyscallError
from tests.descriptors import open_descriptors


def test_a_path_is_opened_below_the_descriptor_and_closed_on_exec(tmp_path: Path) -> None:
    (tmp_path / "f").write_text("x")
    (tmp_path / "link").symlink_to("/f")
    root = os.open(tmp_path, os.O_PATH)
    fd = files.openat2(root, "link", os.O_RDONLY, files.RESOLVE_IN_ROOT)
    assert os.read(fd, 10) == b"x"
    assert not os.get_inheritable(fd)
    os.close(fd)
    with pytest.raises(SyscallError) as failed:
        files.openat2(root, "link", os.O_RDONLY, files.RESOLVE_BENEATH)
    assert (failed.value.call, failed.value.errno, failed.value.filename) == ("openat2", errno.EXDEV, "link")
    os.close(root)


@pytest.mark.parametrize(("path", "magic"), [("/proc", files.PROC_SUPER_MAGIC), ("/sys", files.SYSFS_MAGIC)])
def test_the_file_system_of_a_descriptor_is_told(path: str, magic: int) -> None:
    fd = os.open(path, os.O_PATH)
    assert files.magic(fd) == magic
    os.close(fd)
    with pytest.raises(SyscallError, match="fstatfs"):
        files.magic(fd)


def test_a_sealed_memfd_cannot_be_changed() -> None:
    fd = files.sealed_memfd("test", b"content" * 1000)
    try:
        assert os.pread(fd, 7, 0) == b"content"
        assert fcntl.fcntl(fd, fcntl.F_GET_SEALS) & fcntl.F_SEAL_WRITE
        for change in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 0), lambda: os.ftruncate(fd, 1 << 20)):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(fd)


def test_no_memfd_is_left_when_sealing_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    before = open_descriptors()

    def refuse(*arguments: object) -> int:
        raise OSError(errno.EPERM, "refused")

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    with pytest.raises(OSError, match="refused"):
        files.sealed_memfd("test", b"x")
    assert open_descriptors() == before


def test_a_directory_is_known_links_followed_and_what_is_absent_is_not(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(".")
    later = time.time() + 60  # an access that is older than the link's change would have to be noted down
    os.utime(tmp_path / "link", (later, later - 3600), follow_symlinks=False)
    before = open_descriptors()
    found = [files.is_known_directory(f"{tmp_path}/{name}") for name in ("", "link", "file", "link/file", "absent")]
    assert found == [True, True, False, False, None]
    assert open_descriptors() == before


def test_what_the_kernel_would_have_to_look_up_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = []

    def ask(*arguments: object) -> int:
        looks.append(arguments)
        ctypes.set_errno(errno.EAGAIN)
        return -1

    monkeypatch.setattr(files, "_openat2", ask)
    assert files.is_known_directory("/tmp") is None
    assert len(looks) == 3  # a mount elsewhere in the same moment is the usual reason
