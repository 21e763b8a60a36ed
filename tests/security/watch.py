"""What is opened, read and executed in a file system, by fanotify(7).

Invariant: only watches; an event's descriptor is closed as soon as its path is known.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

_LIBC = ctypes.CDLL(None, use_errno=True)
_CLOEXEC, _NONBLOCK = 0x1, 0x2
_ADD, _FILESYSTEM = 0x1, 0x100
_ACCESS, _MODIFY, _OPEN, _OPEN_EXEC, _ON_DIRECTORY = 0x1, 0x2, 0x20, 0x1000, 0x40000000
_EVENT = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata
_WORDS = {_ACCESS: "read", _MODIFY: "write", _OPEN: "open", _OPEN_EXEC: "execute"}


@dataclass(frozen=True, slots=True, order=True)
class Seen:
    """``what`` was done to ``path``, as its file system names it."""

    what: str
    path: str


class Watch:
    """Collects; ``seen`` tells what there was since the last call."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def seen(self) -> set[Seen]:
        found: set[Seen] = set()
        while True:
            try:
                events = os.read(self._fd, 1 << 16)
            except BlockingIOError:
                return found
            at = 0
            while at < len(events):
                length, _, _, _, mask, fd, _ = _EVENT.unpack_from(events, at)
                at += length
                try:
                    path = os.readlink(f"/proc/self/fd/{fd}")
                finally:
                    os.close(fd)
                found |= {Seen(word, path) for bit, word in _WORDS.items() if mask & bit}


@contextlib.contextmanager
def watching(path: str) -> Iterator[Watch]:
    """Watch the whole file system that ``path`` is in, whoever has it mounted where."""
    fd = _LIBC.fanotify_init(_CLOEXEC | _NONBLOCK, os.O_RDONLY | os.O_CLOEXEC)
    if fd < 0:
        raise OSError(ctypes.get_errno(), "fanotify_init")
    try:
        mask = ctypes.c_uint64(_ACCESS | _MODIFY | _OPEN | _OPEN_EXEC | _ON_DIRECTORY)
        if _LIBC.fanotify_mark(fd, _ADD | _FILESYSTEM, mask, -100, path.encode()):
            raise OSError(ctypes.get_errno(), f"fanotify_mark {path}")
        yield Watch(fd)
    finally:
        os.close(fd)
