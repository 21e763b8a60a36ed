"""The process that keeps a scope: systemd makes one of processes only, and ends it with the last.

A container's limits, figures and counters are to be there from its creation to its removal,
as they are without systemd. So each scope has a process that does nothing: ``pause``, two pages,
started by the daemon, moved into the scope by systemd and ended with it. It is the daemon's
child; that of a daemon which has gone is PID 1's.

Invariant: a keeper is in its scope, or ends: one of a daemon that was killed between the two is
found by its name (``strays``).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess

from runtime.errors import HostFault
from runtime.pause import PAUSE
from runtime.program import open_program


class Keepers:
    """Those that this daemon has started, by their scopes."""

    def __init__(self) -> None:
        self._program = -1
        self._started: dict[str, list[subprocess.Popen[bytes]]] = {}

    def start(self, scope: str) -> int:
        """The pid of one, still where the daemon is.

        Raises:
            HostFault: it cannot be executed.
        """
        if self._program < 0:
            self._program = open_program(PAUSE)
        try:
            process = subprocess.Popen(
                [f"keeper of {scope}"],
                executable=f"/proc/self/fd/{self._program}",
                env={},
                cwd="/",
                pass_fds=(self._program,),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            raise HostFault(step="keep the scope", object=scope, call="execve", errno=error.errno or 0) from error
        self._started.setdefault(scope, []).append(process)
        return process.pid

    async def end(self, scope: str) -> None:
        """All of a scope that has ended; fine if this daemon has started none for it."""
        for process in self._started.pop(scope, ()):
            process.kill()
            await asyncio.to_thread(process.wait)

    def close(self) -> None:
        """They stay."""
        for process in (each for started in self._started.values() for each in started):
            process.returncode = 0  # nobody waits: it outlives its parent, and is no leak
        self._started.clear()
        if self._program >= 0:
            os.close(self._program)
            self._program = -1


def strays(cgroup: str, instance: str) -> list[tuple[int, str]]:
    """Keepers in the directory ``cgroup``, which is the daemon's own: pid and scope of each."""
    found = []
    for pid in _pids(cgroup):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().rstrip(b"\0").decode(errors="replace")
            if words.startswith(f"keeper of crisp-{instance}-"):
                found.append((pid, words.removeprefix("keeper of ")))
    return found


def end_stray(pid: int, scope: str) -> None:
    """Kill it if it still is what ``strays`` has found."""
    with contextlib.suppress(OSError):
        pidfd = os.pidfd_open(pid)
        try:
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                if file.read().rstrip(b"\0").decode(errors="replace") == f"keeper of {scope}":
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        finally:
            os.close(pidfd)


def _pids(cgroup: str) -> list[int]:
    try:
        with open(f"{cgroup}/cgroup.procs", encoding="ascii") as file:
            return [int(line) for line in file]
    except OSError:
        return []
