"""The jail of a worker: nothing but one directory, no network, few rights, bounded.

``worker`` enters it after it has imported what it needs and before it reads the
first byte from outside. A bug in a decompressor or in the applier reaches the
directory of one layer and nothing else.

Invariant: once :func:`enter` has returned, no path leads out, no module can be
imported (the directory's content is an image's), no right can be regained.
"""

from __future__ import annotations

import errno
import os
import resource
import signal
import sys
from collections.abc import Iterable
from dataclasses import dataclass

from runtime.images import jailfilter
from runtime.linux import capabilities, mount, namespaces, process, seccomp

UNPACK_CAPABILITIES = (
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_MKNOD",
    "CAP_SETFCAP",
    "CAP_SYS_ADMIN",  # trusted.overlay.opaque
)
DELETE_CAPABILITIES = ("CAP_DAC_OVERRIDE", "CAP_FOWNER")

_PR_SET_PDEATHSIG = 1
_NAMESPACES = namespaces.CLONE_NEWNS | namespaces.CLONE_NEWNET | namespaces.CLONE_NEWIPC | namespaces.CLONE_NEWUTS
_ATTRIBUTES = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC


@dataclass(frozen=True, slots=True)
class Limits:
    """Upper bounds of the process: ``memory`` and ``file_size`` in bytes, ``cpu`` in seconds."""

    memory: int
    file_size: int
    cpu: int
    descriptors: int = 512


def enter(directory: int, limits: Limits, rights: Iterable[str]) -> None:
    """Make the directory that the descriptor ``directory`` names this process's whole world.

    Afterwards the same descriptor is the new root's: what it was would lead out. ``rights``
    are the only capabilities that stay. The process must have one thread, and no other
    descriptor of a directory (the zygote closes what was not given to a worker).

    Raises:
        OSError: the host refused a call; the process must end then.
    """
    process.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    process.set_dumpable(False)
    os.umask(0)
    tree = mount.open_tree(directory, "", mount.OPEN_TREE_CLONE)  # before: a descriptor stays in its namespace
    try:
        namespaces.unshare(_NAMESPACES)
        mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
        _pivot(tree)
    finally:
        os.close(tree)
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    os.dup2(root, directory, inheritable=False)
    os.close(root)
    _forget_imports()
    _limit(limits)
    _drop_rights(capabilities.mask(rights))


def _pivot(tree: int) -> None:
    """The detached mount ``tree`` (without what was mounted below it) becomes the root."""
    mount.mount_setattr(tree, set=_ATTRIBUTES)
    covered = os.open("/", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        mount.move_mount(tree, covered)
    finally:
        os.close(covered)
    os.fchdir(tree)
    try:
        mount.pivot_root(".", ".")
        mount.umount2(".", mount.MNT_DETACH)
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        os.chroot(".")  # the host runs from its initial ramfs, which stays, covered by the tree
    os.chdir("/")


def _forget_imports() -> None:
    sys.path.clear()
    sys.meta_path.clear()
    sys.path_hooks.clear()
    sys.path_importer_cache.clear()


def _limit(limits: Limits) -> None:
    wanted = {
        resource.RLIMIT_AS: limits.memory,
        resource.RLIMIT_FSIZE: limits.file_size,
        resource.RLIMIT_CPU: limits.cpu,
        resource.RLIMIT_NOFILE: limits.descriptors,
        resource.RLIMIT_CORE: 0,
    }
    for which, value in wanted.items():
        hard = resource.getrlimit(which)[1]
        bound = value if hard == resource.RLIM_INFINITY else min(value, hard)
        resource.setrlimit(which, (bound, bound))


def _drop_rights(keep: int) -> None:
    permitted = capabilities.capget()[1]
    capabilities.set_ambient(0)
    capabilities.limit_bounding(keep)
    capabilities.capset(keep & permitted, keep & permitted, 0)
    process.set_no_new_privs()
    program = jailfilter.assemble(os.uname().machine)
    if program:
        seccomp.load(program)
