"""Attributes for directories that a layer implies but does not have.

A layer with ``tmp/x`` and no ``tmp`` gets a directory that overlayfs shows instead of
the lower layer's. It must look like that one (owner, mode, times), or /tmp would lose
its sticky bit. ``layers`` calls this when the layers below are known.
Source: containerd does the same when it applies a layer (archive.WithParents).

Invariant: only directories below the new layer's own tree are changed; lower layers
are only looked at, each path resolved inside its layer without following links.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

from runtime.linux.files import RESOLVE_BENEATH, RESOLVE_NO_MAGICLINKS, RESOLVE_NO_SYMLINKS, openat2
from runtime.linux.syncfs import syncfs

_INSIDE = RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW
_ABSENT = frozenset({errno.ENOENT})
_NOT_THERE = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})


def adopt_directories(tree: str, below: Sequence[str], implied: Sequence[str]) -> None:
    """Give each of the ``implied`` paths in ``tree`` what the topmost of ``below`` (trees,
    topmost first) says of it. Blocking.

    Raises:
        OSError: the host refused a call.
    """
    if not implied or not below:
        return
    roots: list[int] = []
    try:
        for path in (tree, *below):
            roots.append(os.open(path, _DIRECTORY | os.O_CLOEXEC))
        for name in implied:
            _adopt(os.fsencode(name), roots[0], roots[1:])
        syncfs(roots[0])  # the worker synced the tree before this
    finally:
        for fd in roots:
            os.close(fd)


def _adopt(name: bytes, own: int, below: Sequence[int]) -> None:
    try:
        target = openat2(own, name, _DIRECTORY, _INSIDE)
    except OSError as error:
        if error.errno not in _NOT_THERE:
            raise
        return  # a later entry replaced it
    try:
        for root in below:
            try:
                source = openat2(root, name, _DIRECTORY, _INSIDE)
            except OSError as error:
                if error.errno in _ABSENT:
                    continue
                if error.errno in _NOT_THERE:
                    return  # something else is there, or hides what is below
                raise
            try:
                _copy(source, target)
            finally:
                os.close(source)
            return
    finally:
        os.close(target)


def _copy(source: int, target: int) -> None:
    status = os.fstat(source)
    os.fchown(target, status.st_uid, status.st_gid)
    for name in os.listxattr(source):
        if not name.startswith("trusted."):
            os.setxattr(target, name, os.getxattr(source, name))
    os.fchmod(target, status.st_mode & 0o7777)
    os.utime(target, ns=(status.st_mtime_ns, status.st_mtime_ns))
