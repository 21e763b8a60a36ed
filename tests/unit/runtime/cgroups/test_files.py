from __future__ import annotations

import errno
from pathlib import Path

import pytest

from runtime.cgroups import files
from runtime.errors import HostFault


def test_what_was_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "memory.max"
    path.touch()
    files.write(str(path), "max", "limit")
    assert files.read(str(path), "limit") == "max"


def test_a_failed_write_names_step_file_value_and_errno(tmp_path: Path) -> None:
    with pytest.raises(HostFault) as caught:
        files.write(str(tmp_path / "pids.max"), "17", "limit the cgroup")
    assert (caught.value.call, caught.value.errno) == ("write", errno.ENOENT)
    for said in ("limit the cgroup", "pids.max", "'17'", "ENOENT"):
        assert said in str(caught.value)


def test_a_failed_read_names_step_file_and_errno(tmp_path: Path) -> None:
    with pytest.raises(HostFault) as caught:
        files.read(str(tmp_path), "limit the cgroup")
    assert (caught.value.call, caught.value.errno) == ("read", errno.EISDIR)
    assert str(tmp_path) in str(caught.value)
