"""Looking into the image of a container, in a forked child of the monitor.

Two things of an image are needed before its container starts: who a user is by its
passwd and group files, and what its volumes hold. Both work in python, on the layers
mounted read-only in a mount namespace of their own.

Invariant: the child that looks ends afterwards, whatever it has found.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import NoReturn, TypeVar

from runtime import users
from runtime.cgroups import kill
from runtime.children import tell
from runtime.errors import Fault
from runtime.linux import mount, namespaces, process
from runtime.rootfs import overlay, volumes
from runtime.spec import FillRequest, ResolveUserRequest, Rootfs

T = TypeVar("T")


def probe_rootfs(rootfs: Rootfs, use: Callable[[int], T]) -> T:
    """What ``use`` returns for a descriptor of the image's root, its layers mounted read-only.

    To be called in a forked child that ends afterwards: it stays in a mount
    namespace of its own. What ``use`` raises is passed on.
    """
    process.set_dumpable(False)
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount.mount("", "/", "", mount.MS_REC | mount.MS_SLAVE)
    root_fd = overlay.mount_layers(rootfs)
    try:
        return use(root_fd)
    finally:
        os.close(root_fd)


def resolve_user(request: ResolveUserRequest, report: int) -> NoReturn:
    """Tell who the user is, and end."""
    tell(report, dict(probe_rootfs(request["rootfs"], lambda root: users.resolve(root, request))))
    os._exit(0)


def fill_volumes(request: FillRequest, report: int) -> NoReturn:
    """Copy what the image has at its volumes, at the container's expense, and end."""

    def fill(root: int) -> None:
        budget = volumes.Budget()
        for volume in request["volumes"]:
            volumes.fill_volume(root, volume["destination"], volume["source"], budget)

    try:
        kill.join(request["cgroup"])
        os.umask(0)
        probe_rootfs(request["rootfs"], fill)
    except Fault as fault:
        fault.step = fault.step or "fill the volumes"
        raise
    tell(report, {})
    os._exit(0)
