"""Files, trees and mounts below a pod's own directory, as the steps make and remove them.

Used by the other modules of ``cri.steps`` and by ``cri.fsck``. These directories are
root's alone; what is in them may all the same be missing, or be replaced by hand.

Invariant: removing what is not there, or is not what it was, is no error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import shutil

from runtime.errors import HostFault
from runtime.linux import mount

HOST_FILE_LIMIT = 1024 * 1024
MOUNTS_LIMIT = 16
"""Mounts on one path, more than which nobody has put there by mistake."""


def read_host_file(path: str) -> bytes:
    """A copy of the host's file for the pod; a host without one gives an empty file."""
    try:
        with open(path, "rb") as file:
            return file.read(HOST_FILE_LIMIT)
    except FileNotFoundError:
        return b""


def write_file(path: str, content: bytes, owner: int = 0) -> None:
    """World-readable, since the container's user reads it; the directory above is private."""
    fd = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o644)
    try:
        os.fchmod(fd, 0o644)
        if owner:
            os.fchown(fd, owner, owner)
        left = memoryview(content)
        while left:
            left = left[os.write(fd, left) :]
    finally:
        os.close(fd)


def make_directory(path: str) -> None:
    """Mode 0755, whatever the daemon's umask: containers look at it from inside."""
    os.mkdir(path, 0o755)
    os.chmod(path, 0o755)


def remove_tree(path: str) -> None:
    """Delete a directory; absent is fine, and so is what goes by itself meanwhile: an ending
    monitor takes its socket away."""
    while os.path.lexists(path):
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(path)


def unmount_all(path: str) -> None:
    """Detach every mount on ``path``; none, or no such path, is fine."""
    for _ in range(MOUNTS_LIMIT):
        try:
            mount.umount2(path, mount.MNT_DETACH | mount.UMOUNT_NOFOLLOW)
        except OSError as error:
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.ENOTDIR):  # not a mount, or not even there
                return
            raise HostFault(step="unmount", object=path, call="umount2", errno=error.errno or 0) from error
    raise HostFault(f"more than {MOUNTS_LIMIT} mounts on it", step="unmount", object=path)


def unmount_and_unlink(path: str) -> None:
    """What somebody has put in its place goes too; a directory goes with the pod's."""
    unmount_all(path)
    with contextlib.suppress(FileNotFoundError, NotADirectoryError, IsADirectoryError):
        os.unlink(path)
