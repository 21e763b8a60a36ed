"""A mount namespace of its own for a test's child process, and roots to mount on."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from runtime.linux import mount, namespaces
from tests.kernel.runtime.forked import in_child

T = TypeVar("T")


def enter() -> None:
    """What ``runtime.init`` does: nothing that is mounted from here on is seen outside."""
    os.umask(0)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount.mount("", "/", "", mount.MS_REC | mount.MS_SLAVE)


def in_mount_namespace(work: Callable[[], T]) -> T:
    """What ``work`` returns in a child with a mount namespace of its own."""

    def entered() -> T:
        enter()
        return work()

    return in_child(entered)


def tmpfs_root(path: Path) -> int:
    """Mount an empty tmpfs on ``path``; a descriptor of its root."""
    mount.mount("tmpfs", str(path), "tmpfs", 0, "size=4m,mode=755")
    return os.open(path, os.O_PATH | os.O_DIRECTORY)
