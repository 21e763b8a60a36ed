"""Hearing of changes in a directory."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.linux import inotify
from runtime.linux.libc import SyscallError


@pytest.fixture
def fd() -> Iterator[int]:
    found = inotify.inotify_init1()
    yield found
    os.close(found)


def test_a_new_file_is_heard_of_once(fd: int, tmp_path: Path) -> None:
    inotify.inotify_add_watch(fd, str(tmp_path))
    assert not inotify.drain(fd)
    (tmp_path / "x").write_text("y")
    assert inotify.drain(fd)
    assert not inotify.drain(fd)
    (tmp_path / "x").rename(tmp_path / "z")
    assert inotify.drain(fd)


def test_what_is_no_directory_is_refused_with_its_name(fd: int, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SyscallError) as raised:
        inotify.inotify_add_watch(fd, str(tmp_path / "file"))
    assert (raised.value.call, raised.value.errno) == ("inotify_add_watch", errno.ENOTDIR)
    with pytest.raises(SyscallError) as raised:
        inotify.inotify_add_watch(fd, str(tmp_path / "none"))
    assert raised.value.errno == errno.ENOENT


def test_the_descriptor_is_not_inherited(fd: int) -> None:
    assert not os.get_inheritable(fd)
    assert not os.get_blocking(fd)
