"""Directories below a held root, for the one process that changes them.

``apply`` finds the parent of each entry here, ``worker`` empties trees here.
Symbolic links in a parent's path are followed inside the root, never out of it.

Invariant: nothing outside the root is opened, made, changed or removed: every
path is resolved by openat2(2) with RESOLVE_IN_ROOT below a descriptor.
"""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Callable, Iterator
from itertools import islice

from runtime.linux.files import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_XDEV, openat2

OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
MAX_OPEN = 128
MAX_LINKS = 40
_BELOW_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_ONE_STEP = RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV
_BATCH = 512
_ATTEMPTS = 5


def normalise(name: bytes) -> bytes:
    """``name`` as a path below the root: no slash at either end, no empty, ``.`` or ``..`` part.

    ``..`` goes up lexically and stops at the root.
    """
    if b"." not in name and b"//" not in name:
        return name.strip(b"/")
    parts: list[bytes] = []
    for part in name.split(b"/"):
        if part == b"..":
            if parts:
                parts.pop()
        elif part not in (b"", b"."):
            parts.append(part)
    return b"/".join(parts)


class Tree:
    """Opens directories below ``root`` and keeps the latest open.

    ``on_implied`` is called with each directory that had to be made without an entry of its own.
    """

    def __init__(self, root: int, on_implied: Callable[[bytes], None]) -> None:
        self._root = root
        self._on_implied = on_implied
        self._open: dict[bytes, int] = {}

    def directory(self, path: bytes, *, make: bool = True) -> int:
        """A descriptor of the directory at the normalised ``path``. It stays this object's,
        and is good until ``MAX_OPEN`` others were asked for.

        Raises:
            OSError: ENOTDIR, ELOOP; ENOENT unless ``make``.
        """
        if not path:
            return self._root
        fd = self._open.pop(path, None)
        if fd is None:
            try:
                fd = openat2(self._root, path, OPEN_DIRECTORY, _BELOW_ROOT)
            except OSError as error:
                if error.errno != errno.ENOENT or not make:
                    raise
                fd = self._make(path)
            if len(self._open) >= MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
        self._open[path] = fd  # the latest used is the last to be closed
        return fd

    def forget(self) -> None:
        """Close all: what the paths name has changed."""
        for fd in self._open.values():
            os.close(fd)
        self._open.clear()

    def _make(self, path: bytes) -> int:
        """Make what is missing of ``path``; a dangling link's target is made inside the root."""
        pending, links = path.split(b"/"), 0
        done: list[bytes] = []
        fd = os.dup(self._root)
        try:
            while pending:
                part = pending.pop(0)
                below, link = self._step(fd, done, part)
                if below is None:
                    links += 1
                    if links > MAX_LINKS:
                        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                    target = normalise(link if link.startswith(b"/") else b"/".join([*done, link]))
                    pending, done = [*target.split(b"/"), *pending] if target else pending, []
                    below = os.dup(self._root)
                else:
                    done.append(part)
                os.close(fd)
                fd = below
            return fd
        except BaseException:
            os.close(fd)
            raise

    def _step(self, fd: int, done: list[bytes], part: bytes) -> tuple[int | None, bytes]:
        """One part further down, made if missing: its descriptor, or None and the link found there."""
        made = False
        try:
            os.mkdir(part, 0o755, dir_fd=fd)
            made = True
        except FileExistsError:
            pass
        if made:
            self._on_implied(b"/".join([*done, part]))
        else:
            try:
                return None, os.readlink(part, dir_fd=fd)
            except OSError as error:
                if error.errno != errno.EINVAL:  # it is no link
                    raise
        return openat2(fd, part, OPEN_DIRECTORY | os.O_NOFOLLOW, _ONE_STEP), b""


def remove(parent: int, name: bytes, pace: Callable[[int], None] = lambda removed: None) -> None:
    """Remove ``name`` in ``parent``, whatever it is, with all below it. Absent is fine.

    Links are removed, not followed; other file systems are not entered. Descriptors and
    stack stay bounded at any depth: nested directories are moved up before they are emptied.
    ``pace`` is called with the number of entries removed since its last call.

    Raises:
        OSError: EXDEV or EBUSY at a mount point.
    """
    for attempts_left in reversed(range(_ATTEMPTS)):
        try:
            _remove(parent, name, pace)
            return
        except OSError as error:
            # A worker that was just killed can have made one more entry.
            if error.errno != errno.ENOTEMPTY or not attempts_left:
                raise


def _remove(parent: int, name: bytes, pace: Callable[[int], None]) -> None:
    try:
        os.unlink(name, dir_fd=parent)
        return
    except FileNotFoundError:
        return
    except IsADirectoryError:
        pass
    top = openat2(parent, name, OPEN_DIRECTORY | os.O_NOFOLLOW, _ONE_STEP)
    try:
        unique = _unique_names()
        while batch := _names(top):
            for child in batch:
                _remove_flat(top, child, unique, pace)
            pace(len(batch))
    finally:
        os.close(top)
    os.rmdir(name, dir_fd=parent)


def _remove_flat(top: int, name: bytes, unique: Iterator[bytes], pace: Callable[[int], None]) -> None:
    """Remove ``name`` in ``top``; the directories right below it become entries of ``top``."""
    try:
        os.unlink(name, dir_fd=top)
        return
    except IsADirectoryError:
        pass
    fd = openat2(top, name, OPEN_DIRECTORY | os.O_NOFOLLOW, _ONE_STEP)
    try:
        while batch := _names(fd):
            for child in batch:
                try:
                    os.unlink(child, dir_fd=fd)
                except IsADirectoryError:
                    os.rename(child, next(unique), src_dir_fd=fd, dst_dir_fd=top)
            pace(len(batch))
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=top)


def _names(fd: int) -> list[bytes]:
    """Some of the names in a directory, always from its start: what was listed gets removed."""
    with os.scandir(fd) as entries:
        return [os.fsencode(entry.name) for entry in islice(entries, _BATCH)]


def _unique_names() -> Iterator[bytes]:
    """Names that nobody else has: a random part, and a number."""
    prefix = secrets.token_hex(16)
    number = 0
    while True:
        number += 1
        yield f".{prefix}-{number}".encode()
