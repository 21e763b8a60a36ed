"""Looking into the image of a container, in a forked child of the monitor.

Three things of an image are needed before its container starts: who a user is by its
passwd and group files, what its volumes hold, and whether it has the part of it that
another container mounts. All work in python, on the layers mounted read-only in a mount
namespace of their own.

Invariant: the child that looks ends afterwards, whatever it has found.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable
from typing import NoReturn, TypeVar

from runtime import users
from runtime.cgroups import kill
from runtime.children import tell
from runtime.errors import FailedPrecondition, Fault
from runtime.linux import mount, namespaces, process
from runtime.linux.libc import SyscallError
from runtime.looks import FillRequest, FindRequest, Found, ResolveUserRequest
from runtime.requests import Rootfs
from runtime.rootfs import overlay, resolve, volumes

T = TypeVar("T")

_NOT_THERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG)


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


def find(request: FindRequest, report: int) -> NoReturn:
    """Tell what is at a path of the image, and end."""
    tell(report, dict(probe_rootfs(request["rootfs"], lambda root: find_in_root(root, request["path"]))))
    os._exit(0)


def find_in_root(root: int, path: str) -> Found:
    """What ``path`` is below ``root``, links followed inside.

    Raises:
        FailedPrecondition: there is nothing, or neither a directory nor a file.
    """
    try:
        fd = resolve.open_in_root(root, path)
    except SyscallError as error:
        if error.errno not in _NOT_THERE:
            raise
        why = os.strerror(error.errno).lower()
        raise FailedPrecondition(f"is not in the image: {why}", object=path) from error
    try:
        mode = os.fstat(fd).st_mode
    finally:
        os.close(fd)
    if not (stat.S_ISDIR(mode) or stat.S_ISREG(mode)):
        raise FailedPrecondition("is neither a directory nor a file in the image", object=path)
    return {"directory": stat.S_ISDIR(mode)}


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
