"""Extended attributes that a layer may carry, and overlayfs's own.

Only ``apply`` uses it. File capabilities and user attributes are the image's;
what overlayfs, security modules or other privileged parties of the host read is
not an image's to say (rule: image data is never host control input).

Invariant: no attribute that the host's kernel takes for its own comes from an archive.
"""

from __future__ import annotations

import errno
import os

CAPABILITY = b"security.capability"
OPAQUE = b"trusted.overlay.opaque"
_USER = b"user."
_USER_OVERLAY = b"user.overlay."
_ACLS = frozenset({b"system.posix_acl_access", b"system.posix_acl_default"})
# The file system, or this kind of file, has no such attributes: the file is good without.
_UNSUPPORTED = frozenset({errno.ENOTSUP, errno.EPERM})


def is_kept(name: bytes) -> bool:
    """Whether an archive may set the attribute ``name``."""
    if name.startswith(_USER):
        return not name.startswith(_USER_OVERLAY)
    return name == CAPABILITY or name in _ACLS


def set_opaque(fd: int) -> None:
    """Make the directory ``fd`` hide the one below it."""
    os.setxattr(fd, OPAQUE, b"y")


def set_on(fd: int, attributes: dict[bytes, bytes]) -> int:
    """Set ``attributes`` on an open file or directory; the number that was dropped."""
    dropped = 0
    for name, value in attributes.items():
        dropped += not (is_kept(name) and _set(fd, name, value))
    return dropped


def set_beside(parent: int, name: bytes, attributes: dict[bytes, bytes]) -> int:
    """Set ``attributes`` on ``name`` in ``parent``, not followed. Changes the working directory:
    setxattr(2) takes no directory descriptor."""
    os.fchdir(parent)
    dropped = 0
    for attribute, value in attributes.items():
        dropped += not (is_kept(attribute) and _set(name, attribute, value))
    return dropped


def _set(target: int | bytes, name: bytes, value: bytes) -> bool:
    try:
        if isinstance(target, int):
            os.setxattr(target, name, value)
        else:
            os.setxattr(target, name, value, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
        return False
    return True
