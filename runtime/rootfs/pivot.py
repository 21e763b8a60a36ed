"""Entering the container's root for good.

Invariant: afterwards the host's mounts are not in this mount namespace any more,
and neither the root nor the working directory is outside the new root.
"""

from __future__ import annotations

import os

from runtime.linux import mount
from runtime.linux.libc import AT_FDCWD
from runtime.linux.script import Script, Slot


def enter_root(script: Script, root: Slot) -> None:
    """pivot_root(2) to ``root``, which is a mount of the process's mount namespace.

    The old root is stacked on the new one and taken off it, as the man page
    describes for ``pivot_root(".", ".")``, so that no directory is needed for it.
    """
    old = script.opened("openat", AT_FDCWD, "/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0)
    script.call("fchdir", root)
    script.call("pivot_root", ".", ".")
    script.call("fchdir", old)
    script.close(old)
    script.call("umount2", ".", mount.MNT_DETACH)
    script.call("chdir", "/")
