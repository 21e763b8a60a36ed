"""Filling an image's VOLUME with what the image has there.

The copy goes from the container's mounted root into a private directory of ours,
by descriptors alone, with owners, modes, times and extended attributes; symlinks
are copied, never followed. Hard links become files of their own.

The caller's umask is 0 (``runtime.child.detach``).

Invariant: nothing outside the volume's directory is written, whatever the image
contains, and the copy ends: entries, bytes and depth are bounded. A copy that was
cut off is made good by the next one.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.errors import StartRefused
from runtime.linux.libc import SyscallError
from runtime.rootfs.resolve import open_in_root

MAX_ENTRIES = 1_000_000
MAX_BYTES = 16 << 30
MAX_DEPTH = 256

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
_CREATE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_CHUNK = 1 << 30


class Budget:
    """What may still be copied, in entries and bytes, over all volumes of a container."""

    def __init__(self, entries: int = MAX_ENTRIES, size: int = MAX_BYTES) -> None:
        self._entries = entries
        self._bytes = size

    def take(self, entries: int, size: int) -> None:
        """Raises StartRefused when there is no more."""
        self._entries -= entries
        self._bytes -= size
        if self._entries < 0:
            raise StartRefused("the image has too many files in its volumes")
        if self._bytes < 0:
            raise StartRefused("the image has too many bytes in its volumes")


def fill_volume(root_fd: int, destination: str, source: str, budget: Budget) -> None:
    """Copy the directory ``destination`` of the image into the host directory ``source``.

    An image that has nothing there leaves ``source`` as it is.

    Raises:
        StartRefused: ``destination`` is no directory in the image, or too large.
        OSError: the copy failed.
    """
    try:
        image = open_in_root(root_fd, destination, os.O_RDONLY | os.O_DIRECTORY)
    except SyscallError as error:
        if error.errno == errno.ENOENT:
            return
        if error.errno in (errno.ENOTDIR, errno.ELOOP):
            raise StartRefused("the image's volume is not a directory", object=destination) from error
        raise
    try:
        volume = os.open(source, _DIRECTORY)
        try:
            _copy_directory(image, volume, budget, MAX_DEPTH)
        finally:
            os.close(volume)
    finally:
        os.close(image)


def _copy_directory(image: int, volume: int, budget: Budget, depth: int) -> None:
    if depth == 0:
        raise StartRefused("the image's volume is too deep")
    with os.scandir(image) as entries:
        for entry in entries:
            budget.take(1, 0)
            _copy_entry(image, volume, entry.name, budget, depth)
    _copy_attributes(image, volume, os.fstat(image))


def _copy_entry(image: int, volume: int, name: str, budget: Budget, depth: int) -> None:
    found = os.stat(name, dir_fd=image, follow_symlinks=False)
    if stat.S_ISDIR(found.st_mode):
        _copy_below(image, volume, name, budget, depth)
        return
    _remove(volume, name)
    if stat.S_ISREG(found.st_mode):
        _copy_file(image, volume, name, budget)
        return
    if stat.S_ISLNK(found.st_mode):
        os.symlink(os.readlink(name, dir_fd=image), name, dir_fd=volume)
    else:
        os.mknod(name, found.st_mode, found.st_rdev, dir_fd=volume)
    os.chown(name, found.st_uid, found.st_gid, dir_fd=volume, follow_symlinks=False)
    os.utime(name, ns=(found.st_atime_ns, found.st_mtime_ns), dir_fd=volume, follow_symlinks=False)


def _copy_below(image: int, volume: int, name: str, budget: Budget, depth: int) -> None:
    below = os.open(name, _DIRECTORY, dir_fd=image)
    try:
        try:
            os.mkdir(name, 0o700, dir_fd=volume)
        except FileExistsError:
            _remove(volume, name)  # a file of a copy that was cut off makes room; a directory stays
            if not _is_directory(volume, name):
                os.mkdir(name, 0o700, dir_fd=volume)
        copy = os.open(name, _DIRECTORY, dir_fd=volume)
        try:
            _copy_directory(below, copy, budget, depth - 1)
        finally:
            os.close(copy)
    finally:
        os.close(below)


def _copy_file(image: int, volume: int, name: str, budget: Budget) -> None:
    source = os.open(name, _READ, dir_fd=image)
    try:
        found = os.fstat(source)
        budget.take(0, found.st_size)
        copy = os.open(name, _CREATE, 0o600, dir_fd=volume)
        try:
            left = found.st_size
            while left > 0:
                sent = os.sendfile(copy, source, None, min(left, _CHUNK))
                if sent == 0:
                    break
                left -= sent
            _copy_attributes(source, copy, found)
        finally:
            os.close(copy)
    finally:
        os.close(source)


def _copy_attributes(source: int, copy: int, found: os.stat_result) -> None:
    """Owner first: chown(2) clears setuid bits and capabilities, which follow."""
    os.fchown(copy, found.st_uid, found.st_gid)
    for name in os.listxattr(source):
        try:
            os.setxattr(copy, name, os.getxattr(source, name))
        except OSError as error:
            if error.errno != errno.ENOTSUP:
                raise
    os.fchmod(copy, stat.S_IMODE(found.st_mode))
    os.utime(copy, ns=(found.st_atime_ns, found.st_mtime_ns))


def _is_directory(dir_fd: int, name: str) -> bool:
    try:
        return stat.S_ISDIR(os.stat(name, dir_fd=dir_fd, follow_symlinks=False).st_mode)
    except FileNotFoundError:
        return False


def _remove(dir_fd: int, name: str) -> None:
    """Unlink ``name`` unless it is a directory or absent."""
    try:
        os.unlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        pass
    except IsADirectoryError:
        pass
