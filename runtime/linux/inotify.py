"""inotify(7): hearing of changes in a directory.

Who listens takes the descriptor into its loop and calls ``drain``; what has changed is
for it to look up, as a queue that overflowed says nothing of what.

Invariant: the descriptor is non-blocking and close-on-exec.
"""

from __future__ import annotations

import ctypes
import os

from runtime.linux.libc import cstring, failed, function

IN_MODIFY = 0x2
IN_ATTRIB = 0x4
IN_CLOSE_WRITE = 0x8
IN_MOVED_FROM = 0x40
IN_MOVED_TO = 0x80
IN_CREATE = 0x100
IN_DELETE = 0x200
IN_DELETE_SELF = 0x400
IN_MOVE_SELF = 0x800
IN_ONLYDIR = 0x01000000

CHANGES = (
    IN_ATTRIB | IN_CLOSE_WRITE | IN_MOVED_FROM | IN_MOVED_TO | IN_CREATE | IN_DELETE | IN_DELETE_SELF | IN_MOVE_SELF
)
"""What changes a directory's names, the contents of its files, or where it is."""

_init = function("inotify_init1", ctypes.c_int)
_add = function("inotify_add_watch", ctypes.c_int, ctypes.c_char_p, ctypes.c_uint32)


def inotify_init1() -> int:
    """A descriptor without watches.

    Raises:
        SyscallError: EMFILE, for example: as many as one user may have.
    """
    fd = int(_init(os.O_NONBLOCK | os.O_CLOEXEC))
    if fd < 0:
        raise failed("inotify_init1")
    return fd


def inotify_add_watch(fd: int, directory: str, mask: int = CHANGES) -> None:
    """
    Raises:
        SyscallError: ENOENT, ENOTDIR, ENOSPC (as many as one user may have).
    """
    if _add(fd, cstring(directory), mask | IN_ONLYDIR) < 0:
        raise failed("inotify_add_watch", directory)


def drain(fd: int) -> bool:
    """Take all events off the queue; whether there was one."""
    found = False
    while True:
        try:
            found |= bool(os.read(fd, 65536))
        except BlockingIOError:
            return found
