"""Join a cgroup, kill one, read its OOM counter: what the monitor and init need.

The names, all of them synchronous and bounded:

* ``join(dirs)``: the calling process enters every v1 directory of ``dirs``
  (v2 is entered at birth, by CLONE_INTO_CGROUP with ``open_v2(dirs)``).
* ``kill(dirs)``: SIGKILL to every process in ``dirs`` and below. It returns when
  all have been signalled, not when all are gone.
* ``pids(directory)``: the processes of one directory and of those below it.
* ``oom_kills(path)``: the ``oom_kill`` counter of StartRequest.memory_events.

Neighbours: ``layout`` computes ``dirs``, ``tree`` makes and removes them. This
module is loaded by the zygote, hence imports nothing but errno, os, signal and time.

Invariant: a directory that does not exist holds no process; that is never an error.
"""

from __future__ import annotations

import errno
import os
import signal
import time

TYPE_CHECKING = False  # a constant of its own: importing typing for it would cost the monitor memory
if TYPE_CHECKING:
    from runtime.requests import CgroupDirs

FREEZE_PATIENCE = 0.05
"""Seconds to wait for FROZEN. A task in an uninterruptible call may never get there."""

KILL_ROUNDS = 100
"""How often a cgroup that could not be frozen is read again for processes not yet signalled."""

_GONE = (errno.ENOENT, errno.ENODEV)


def join(dirs: CgroupDirs) -> None:
    """Move the calling thread into every v1 directory of ``dirs``.

    A write of 0 to ``tasks`` by the thread itself takes microseconds; one to
    ``cgroup.procs`` from outside waits for an RCU grace period, about 10 ms.

    Raises:
        OSError: with ``filename`` set to the ``tasks`` file that refused.
    """
    for directory in dirs["v1"]:
        path = f"{directory}/tasks"
        try:
            fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(fd, b"0")
            finally:
                os.close(fd)
        except OSError as error:
            raise OSError(error.errno, error.strerror, path) from None


def open_v2(dirs: CgroupDirs) -> int | None:
    """A descriptor for clone3's CLONE_INTO_CGROUP, None where the host has no v2 tree."""
    if dirs["v2"] is None:
        return None
    return os.open(dirs["v2"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)


def kill(dirs: CgroupDirs) -> None:
    """SIGKILL to every process in ``dirs`` and in the cgroups below; none escapes by forking.

    v2 has ``cgroup.kill``. On v1 the tree is frozen, signalled and thawed; where
    the freezer does not get there in time, it is signalled until no process is
    left that had not been.

    Raises:
        OSError: the kernel refused for another reason than that all are gone.
    """
    killed = dirs["v2"] is not None and _kill_v2(dirs["v2"])
    freezer = next((path for path in dirs["v1"] if os.path.exists(f"{path}/freezer.state")), None)
    if freezer is None:
        if dirs["v1"] and _is_one_cgroup(dirs):
            _signal_all(dirs["v1"][0])
        return
    if killed:
        # Freezing what is dying would only hold it up, as it does where somebody has frozen it:
        # the v2 kill thaws v2 alone. A straggler in v1 alone gets its signal.
        _write(f"{freezer}/freezer.state", b"THAWED")
        _signal_all(freezer)
        return
    _kill_frozen(freezer)


def pids(directory: str) -> list[int]:
    """The processes in ``directory`` and in all cgroups below it; empty where it is gone.

    Processes that the reader's PID namespace does not show read as 0: left out,
    for a signal to 0 would reach the caller's own process group.
    """
    found: list[int] = []
    pending = [directory]
    while pending:
        path = pending.pop()
        text = _read(f"{path}/cgroup.procs")
        if text is None:
            continue
        found += [pid for pid in map(int, text.split()) if pid > 0]
        try:
            with os.scandir(path) as entries:
                pending += [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            continue
    return found


def oom_kills(path: str) -> int:
    """Processes that the kernel's OOM killer has ended (v2 memory.events, v1 memory.oom_control).

    0 where the file, or its ``oom_kill`` line, does not exist.
    """
    for line in (_read(path) or b"").splitlines():
        key, _, value = line.partition(b" ")
        if key == b"oom_kill":
            return int(value)
    return 0


def _is_one_cgroup(dirs: CgroupDirs) -> bool:
    """False for an exec that has a directory of its own in v2 alone: what is in v1 is the container's."""
    return dirs["v2"] is None or os.path.basename(dirs["v1"][0]) == os.path.basename(dirs["v2"])


def _kill_v2(directory: str) -> bool:
    """True when the kernel has killed all; False: there is no ``cgroup.kill`` or no directory."""
    return _write(f"{directory}/cgroup.kill", b"1")


def _kill_frozen(freezer: str) -> None:
    """Freeze, signal, thaw; frozen processes neither fork nor exit, so the list is complete."""
    state = f"{freezer}/freezer.state"
    try:
        if not _write(state, b"FROZEN"):
            return
        deadline = time.monotonic() + FREEZE_PATIENCE
        while (_read(state) or b"FROZEN").strip() != b"FROZEN" and time.monotonic() < deadline:
            time.sleep(0.001)
        _signal_all(freezer)
    finally:
        _write(state, b"THAWED")
    _signal_all(freezer)


def _signal_all(directory: str) -> None:
    """SIGKILL to all below ``directory`` until a reading shows none that was not signalled."""
    signalled: set[int] = set()
    for _ in range(KILL_ROUNDS):
        fresh = set(pids(directory)) - signalled
        if not fresh:
            return
        for pid in fresh:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue
        signalled |= fresh


def _read(path: str) -> bytes | None:
    """All of a cgroup file; None where the cgroup is gone (before or after the open)."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            chunks = []
            while chunk := os.read(fd, 65536):
                chunks.append(chunk)
            return b"".join(chunks)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _GONE:
            return None
        raise


def _write(path: str, value: bytes) -> bool:
    """False where the cgroup, or the file, is gone."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value)
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in _GONE:
            return False
        raise
    return True
