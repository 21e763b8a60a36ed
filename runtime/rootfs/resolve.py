"""Paths inside a container, resolved by the kernel below a held root descriptor.

Everything that ``runtime.rootfs`` and ``runtime.users`` open in a container's root
goes through here: symlinks and ``..`` are confined to the root (openat2(2)
RESOLVE_IN_ROOT), magic links of procfs are refused, and what was found is acted
on by its descriptor, never by its path again. What is missing is made by
``launch.c``: the deepest directory that exists is opened; what follows is made
one by one below descriptors, or, where a link dangles, its text takes its place
in the path and the search begins anew, as often as the kernel follows links.

Modes are subject to the umask, which ``runtime.child.leave_monitor`` sets to 0: a
chmod afterwards could hit what was put there meanwhile.

Invariant: no name is created, opened or mounted on outside the tree below
``root_fd``, whatever the image contains and whoever renames in it meanwhile.
"""

from __future__ import annotations

import errno
import os
import struct

from runtime.errors import Fault, StartRefused
from runtime.linux.files import (
    RESOLVE_BENEATH,
    RESOLVE_IN_ROOT,
    RESOLVE_NO_MAGICLINKS,
    RESOLVE_NO_SYMLINKS,
    openat2,
)
from runtime.linux.script import IS_DIRECTORY, LEADS_OUT, NO_PLACE, Refusals, Script, Slot

_IN_ROOT = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS
EXACT = RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS
_HOW = struct.Struct("=QQQ")
HOW_BYTES = _HOW.size
# What the image or the request is to blame for. The last three are what a file system says
# in which nothing can be made, procfs for one.
_REFUSED = (
    errno.ELOOP,
    errno.ENOTDIR,
    errno.ENAMETOOLONG,
    errno.EROFS,
    errno.EXDEV,
    errno.ENOENT,
    errno.EACCES,
    errno.EPERM,
)
_REFUSALS: dict[int, tuple[type[Fault], str]] = {
    **dict.fromkeys(_REFUSED, (StartRefused, "")),
    errno.ELOOP: (StartRefused, "too many levels of symbolic links"),
    LEADS_OUT: (StartRefused, "leads back out of a directory that does not exist"),
    IS_DIRECTORY: (StartRefused, "is a directory, not a file"),
    NO_PLACE: (StartRefused, "is no place for a mount"),
}


def open_in_root(root_fd: int, path: str, flags: int = os.O_PATH, mode: int = 0) -> int:
    """Open ``path`` as a process chrooted to ``root_fd`` would, magic links refused.

    Raises:
        SyscallError: with the errno of openat2; ELOOP also for a magic link.
    """
    return openat2(root_fd, path or ".", flags, _IN_ROOT, mode)


def open_exact(dir_fd: int, path: str, flags: int = os.O_PATH) -> int:
    """Open ``path`` below ``dir_fd`` where no component may be a symlink or lead out."""
    return openat2(dir_fd, path or ".", flags, EXACT)


def open_in(script: Script, root: Slot, path: str, flags: int = os.O_PATH, refuse: Refusals | None = None) -> Slot:
    """``open_in_root``, written into a script."""
    return script.opened("openat2", root, path or ".", how(flags, _IN_ROOT), _HOW.size, object=path, refuse=refuse)


def open_exactly(script: Script, root: Slot, path: str, flags: int = os.O_PATH, refuse: Refusals | None = None) -> Slot:
    """``open_exact``, written into a script; a leading slash of ``path`` counts for nothing."""
    name = path.lstrip("/") or "."
    return script.opened("openat2", root, name, how(flags, EXACT), _HOW.size, object=path, refuse=refuse)


def how(flags: int, resolve: int = _IN_ROOT) -> bytes:
    """struct open_how."""
    return _HOW.pack(flags | os.O_CLOEXEC, 0, resolve)


def make_dirs_in_root(script: Script, root: Slot, path: str, mode: int = 0o755) -> Slot:
    """An O_PATH descriptor of the directory ``path``; what is missing of it is made.

    A symlink that dangles (``/var/run -> /run`` in an image without ``/run``) has
    its target made inside the root. Directories made are root's, with ``mode``.
    Refused where a component is a file or a loop, or lies where nothing can be made.
    """
    return script.opened("MAKE_DIRECTORY", root, path, mode, object=path, refuse=_REFUSALS)


def make_file_in_root(script: Script, root: Slot, path: str, mode: int = 0o644) -> Slot:
    """An O_PATH descriptor of the file ``path``, made empty if it is missing, with its directories.

    Refused as :func:`make_dirs_in_root`, and where ``path`` is a directory.
    """
    return script.opened("MAKE_FILE", root, path, mode, object=path, refuse=_REFUSALS)


def make_exact_directory(script: Script, root: Slot, path: str) -> Slot:
    """An O_PATH descriptor of the directory ``path`` that must be no symlink, nor lie behind one.

    For the places where procfs, sysfs and /dev go. Refused where the image has something else there.
    """
    return script.opened("MAKE_EXACT", root, path, 0o755, object=path, refuse=_REFUSALS)
