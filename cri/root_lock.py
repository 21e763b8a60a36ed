"""One daemon a root, and one root a state directory: advisory locks on ``lock`` in both.

The root's holds its owner's pid, the state directory's the root that it belongs to.
``cri.assembly`` takes both for a daemon's life; ``crisp fsck`` to work offline.

Invariant: whoever holds the lock wrote its pid into the file; the kernel releases
the lock with the process, so a stale file never refuses anybody.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from runtime.errors import FailedPrecondition, HostFault


class RootLock:
    """Held from construction until ``release``."""

    def __init__(self, root: Path) -> None:
        """Raises FailedPrecondition naming the pid of the daemon that holds it."""
        self.path = root / "lock"
        self._fd = open_lock(self.path)
        if not take(self._fd):
            with os.fdopen(self._fd) as file:
                raise refusal(root, file.read(32))
        write(self._fd, f"{os.getpid()}\n")

    def release(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


class StateLock:
    """Held from construction until ``release``. What lives below ``state`` would be nobody's,
    and be removed, for a daemon of another root."""

    def __init__(self, state: Path, root: str) -> None:
        """``root`` is a real path.

        Raises:
            FailedPrecondition: a daemon of another root uses ``state`` or has left pods there.
        """
        self._fd = open_lock(state / "lock")
        owner = os.pread(self._fd, 4096, 0).decode(errors="surrogateescape").strip()
        held = not take(self._fd)
        if held or (owner not in ("", root) and has_entries(state / "pods")):
            os.close(self._fd)
            what = "is used by" if held else "has pods of"
            message = f"{what} the crisp instance with the root {owner or 'unknown'}; set another state directory"
            raise FailedPrecondition(message, step="lock", object=str(state))
        write(self._fd, f"{root}\n")

    def release(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def refuse_held_root(root: Path) -> None:
    """For who was refused something else already: makes nothing.

    Raises:
        FailedPrecondition: a daemon uses this root; with its pid.
    """
    with contextlib.suppress(OSError), open(root / "lock") as file:
        if not take(file.fileno()):
            raise refusal(root, file.read(32))


def refusal(root: Path, pid: str) -> FailedPrecondition:
    message = f"another crisp daemon (pid {pid.strip() or 'unknown'}) uses this root"
    return FailedPrecondition(message, step="lock", object=str(root))


def open_lock(path: Path) -> int:
    """Raises HostFault."""
    try:
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise HostFault(step="lock", object=str(path), call="open", errno=error.errno or 0) from error


def take(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def write(fd: int, words: str) -> None:
    os.ftruncate(fd, 0)
    os.pwrite(fd, words.encode(errors="surrogateescape"), 0)


def has_entries(folder: Path) -> bool:
    try:
        return bool(os.listdir(folder))
    except FileNotFoundError:
        return False
