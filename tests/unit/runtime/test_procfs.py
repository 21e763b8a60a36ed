"""A process is known by its pid and the time it began."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runtime.errors import NotFound
from runtime.procfs import start_time


def test_the_start_time_is_that_of_the_process() -> None:
    assert start_time(os.getpid()) == start_time(os.getpid())
    assert start_time(os.getpid()) > start_time(1) - 1


def test_a_name_with_parentheses_and_blanks_does_not_shift_the_fields(tmp_path: Path) -> None:
    program = tmp_path / "a) R (b"
    program.symlink_to("/bin/sleep")
    process = subprocess.Popen([program, "30"])
    try:
        assert start_time(process.pid) >= start_time(os.getpid())
    finally:
        process.kill()
        process.wait()


def test_a_process_that_has_ended_is_not_found() -> None:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    with pytest.raises(NotFound, match=str(process.pid)):
        start_time(process.pid)
