"""Giving a volume the SELinux context of the container that it is for.

``cri.steps.relabel`` asks for it where the request does (``selinux_relabel``). Source: the
``security.selinux`` attribute in xattr(7).

Invariant: nothing outside the volume is touched: every file is reached from the descriptor of
its folder, and no link is followed but at the volume's own path. What the system itself is
made of is refused as a volume.
"""

from __future__ import annotations

import errno
import os

from runtime.errors import FailedPrecondition, HostFault, ResourceExhausted

ATTRIBUTE = "security.selinux"
MAX_FILES = 1_000_000
MAX_DEPTH = 200
SYSTEM = frozenset(
    {"/", "/bin", "/boot", "/dev", "/etc", "/home", "/lib", "/lib64", "/proc", "/root", "/run", "/sbin", "/srv"}
    | {"/sys", "/tmp", "/usr", "/var", "/var/lib", "/var/log", "/var/run"}
)
"""A wrong context on one of them stops the host."""

_STEP = "label the volume"
_FOUND = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_GONE = (errno.ENOENT, errno.ESTALE)
_NONE_HERE = (errno.EOPNOTSUPP, errno.EROFS)


def relabel(path: str, label: str) -> int:
    """Give ``path`` and all below it the context ``label``; how many files that were. Blocking.

    A file system without such attributes, or read-only, is left as it is, and so are files that
    go meanwhile.

    Raises:
        FailedPrecondition: a folder of the system.
        ResourceExhausted: more than a million files, or folders too deep.
        HostFault: an attribute cannot be set.
    """
    real = os.path.realpath(path)
    if real in SYSTEM:
        raise FailedPrecondition("is a folder of the system, and keeps its SELinux context", step=_STEP, object=real)
    walk = _Walk(real, label)
    try:
        found = os.open(real, _FOUND)
        try:
            walk.label(found)
        finally:
            os.close(found)
        if os.path.isdir(real):
            folder = os.open(real, _FOLDER)
            try:
                walk.below(folder, 1)
            finally:
                os.close(folder)
    except OSError as error:
        raise HostFault(step=_STEP, object=path, call="setxattr", errno=error.errno or 0) from error
    return walk.count


class _Walk:
    def __init__(self, path: str, label: str) -> None:
        self._path, self._value = path, label.encode() + b"\0"
        self.count = 0

    def label(self, fd: int) -> None:
        """Of what the O_PATH descriptor ``fd`` is, a symbolic link too: it is not followed."""
        self.count += 1
        if self.count > MAX_FILES:
            raise ResourceExhausted(f"has more than {MAX_FILES} files", step=_STEP, object=self._path)
        try:
            os.setxattr(f"/proc/self/fd/{fd}", ATTRIBUTE, self._value)
        except OSError as error:
            if error.errno not in _NONE_HERE:
                raise

    def below(self, folder: int, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise ResourceExhausted(f"has more than {MAX_DEPTH} levels", step=_STEP, object=self._path)
        with os.scandir(folder) as entries:
            for entry in entries:
                try:
                    self._one(folder, entry.name, depth)
                except OSError as error:
                    if error.errno not in _GONE:
                        raise

    def _one(self, folder: int, name: str, depth: int) -> None:
        found = os.open(name, _FOUND, dir_fd=folder)
        try:
            self.label(found)
        finally:
            os.close(found)
        try:
            child = os.open(name, _FOLDER, dir_fd=folder)
        except OSError as error:
            if error.errno in (errno.ENOTDIR, errno.ELOOP):
                return
            raise
        try:
            self.below(child, depth + 1)
        finally:
            os.close(child)
