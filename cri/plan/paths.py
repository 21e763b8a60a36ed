"""Paths inside a container as text: cleaned, compared, ordered.

Nothing here touches a file system, so a link in an image is not seen: the
container's init resolves every path below its root (``runtime.rootfs``).

Invariant: a cleaned path is absolute, has no ``.``, ``..`` or empty part, and
cannot climb above the root.
"""

from __future__ import annotations

import posixpath


def clean(path: str) -> str:
    """``path`` read as if from the container's root: ``/../x//y/`` is ``/x/y``."""
    return posixpath.normpath("/" + path.lstrip("/"))


def is_below(path: str, parent: str) -> bool:
    """Whether the cleaned ``path`` is strictly inside the cleaned ``parent``."""
    return path != parent and path.startswith(parent.rstrip("/") + "/")


def depth(path: str) -> int:
    """How many parts a cleaned path has; mounts are made in this order, parents first."""
    return 0 if path == "/" else path.count("/")
