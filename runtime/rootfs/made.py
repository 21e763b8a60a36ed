"""What a layer of mountpoints may hold: directories and empty files.

``cri.mountpoints`` asks before it gives the layer its name.

Invariant: nothing of a layer that passes hides or replaces anything of the layers below it.
"""

from __future__ import annotations

import os
import stat

from runtime.errors import HostFault

MAX_ENTRIES = 4096
_OVERLAY = "trusted.overlay."
_HARMLESS = frozenset(_OVERLAY + name for name in ("origin", "impure", "uuid", "opaque"))
"""What the kernel says of directories that it has copied up, or made where there was none."""


def check_layer(path: str) -> None:
    """Of the upper directory ``path``, in which mountpoints were made and which nobody mounts.

    Raises:
        HostFault: there is something else in it.
        OSError: it cannot be read.
    """
    pending, left = [path], MAX_ENTRIES
    while pending:
        folder = pending.pop()
        _check_attributes(folder)
        with os.scandir(folder) as entries:
            for entry in entries:
                left -= 1
                if left < 0:
                    raise HostFault(f"has more than {MAX_ENTRIES} entries", step="check the mountpoints", object=path)
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)
                else:
                    _check_file(entry.path)


def _check_file(path: str) -> None:
    found = os.stat(path, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode) or found.st_size or found.st_nlink != 1:
        raise HostFault("is no empty file", step="check the mountpoints", object=path)
    _check_attributes(path)


def _check_attributes(path: str) -> None:
    for name in os.listxattr(path, follow_symlinks=False):
        if name.startswith(_OVERLAY) and name not in _HARMLESS:
            raise HostFault(f"has the attribute {name}", step="check the mountpoints", object=path)
