"""What tests ask of a process from outside."""

from __future__ import annotations

import time
from pathlib import Path


def wait_command_line(pid: int | None, *args: str, seconds: float = 10) -> None:
    """Until it shows the arguments ``args``: an execve closes what it has to before the process shows them."""
    path, wanted, until = Path(f"/proc/{pid}/cmdline"), "".join(f"{arg}\0" for arg in args), time.monotonic() + seconds
    while (found := path.read_text()) != wanted:
        assert time.monotonic() < until, found
        time.sleep(0.001)


def wait_asleep(pid: int, seconds: float = 10) -> None:
    """Until it waits for something: a signal before that may meet a program that has not yet begun."""
    until = time.monotonic() + seconds
    while (state := Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]) != "S":
        assert time.monotonic() < until, state
        time.sleep(0.001)
