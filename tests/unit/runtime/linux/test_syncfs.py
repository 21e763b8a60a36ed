"""syncfs(2)."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runtime.linux.libc import SyscallError
from runtime.linux.syncfs import syncfs


def test_a_file_system_is_synced(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    syncfs(fd)
    os.close(fd)


def test_a_closed_descriptor_is_an_error() -> None:
    with pytest.raises(SyscallError) as raised:
        syncfs(-1)
    assert (raised.value.call, raised.value.errno) == ("syncfs", errno.EBADF)
