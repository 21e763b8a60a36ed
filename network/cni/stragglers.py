"""Plugins that outlived the daemon that ran them.

A daemon that is killed in ADD leaves a plugin that goes on, with nobody to end it; a DEL
beside it might free what it is about to take. ``provider`` ends them before its first DEL.

Invariant: only a process whose environment names a sandbox id of ours as its container is
killed, by a descriptor that cannot name another.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
import signal
import time
from collections.abc import Collection, Iterator

from network.cni.environment import CONTAINER_ID

_LOG = logging.getLogger("crisp.network")
_MAX_ENVIRONMENT = 65536


def end_stragglers(sandbox_ids: Collection[str], seconds: float) -> int:
    """Kill them and wait until they are gone, ``seconds`` at most; how many there were. Blocking."""
    end, killed = time.monotonic() + seconds, 0
    while found := list(_find(sandbox_ids)):  # again, for each may have started one more
        for pidfd, pid, sandbox_id in found:
            try:
                _LOG.warning("ended the plugin %d that a killed daemon left with pod %s", pid, sandbox_id[:12])
                killed += 1
                with contextlib.suppress(ProcessLookupError):
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                select.select([pidfd], [], [], max(0.0, end - time.monotonic()))
            finally:
                os.close(pidfd)
        if time.monotonic() > end:
            break
    return killed


def _find(sandbox_ids: Collection[str]) -> Iterator[tuple[int, int, str]]:
    """pidfd, pid and sandbox id of each."""
    wanted = {f"{CONTAINER_ID}={each}".encode(): each for each in sandbox_ids}
    for name in os.listdir("/proc") if wanted else ():
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            pidfd = os.pidfd_open(int(name))
            try:  # the descriptor first: whose environment is read afterwards is that process, or it is over
                named = [wanted[each] for each in _environment(name) if each in wanted]
                alive = not select.select([pidfd], [], [], 0)[0]
            except BaseException:
                os.close(pidfd)
                raise
            if named and alive:
                yield pidfd, int(name), named[0]
            else:
                os.close(pidfd)


def _environment(pid: str) -> list[bytes]:
    with open(f"/proc/{pid}/environ", "rb") as file:
        return file.read(_MAX_ENVIRONMENT).split(b"\0")
