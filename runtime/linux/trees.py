"""The mount descriptors of fsopen(2), written into a script.

``runtime.linux.mount`` makes the same calls at once. A "tree" is the slot of a
descriptor of a detached or attached mount.

Invariant: every descriptor is close-on-exec.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections.abc import Iterable, Iterator

from runtime.errors import StartRefused
from runtime.linux import libc, mount, namespaces
from runtime.linux.script import Refusals, Script, Slot, plus

_CLOEXEC = 1
_SET_FLAG, _SET_STRING, _CREATE = 0, 1, 6
_MOVE = 0x4 | 0x40  # MOVE_MOUNT_F_EMPTY_PATH, MOVE_MOUNT_T_EMPTY_PATH
_ATTRIBUTES = struct.Struct("=QQQQ")
_USER = 24  # of userns_fd in struct mount_attr
_NOT_IDMAPPED = {errno.EINVAL: (StartRefused, "is on a file system that cannot be idmapped")}


def open_tree(script: Script, at: Slot | int, path: str, flags: int = 0) -> Slot:
    """open_tree(2); an empty path means ``at`` itself."""
    if not path:
        flags |= libc.AT_EMPTY_PATH
    return script.opened("open_tree", at, path, flags | os.O_CLOEXEC, object=path)


def move_mount(script: Script, tree: Slot, target: Slot, name: str = "") -> None:
    """move_mount(2) of ``tree`` onto what ``target`` is a descriptor of; no path is walked."""
    script.call("move_mount", tree, "", target, "", _MOVE, object=name)


def create(
    script: Script, fstype: str, options: Iterable[str], attributes: int = 0, refuse: Refusals | None = None
) -> Slot:
    """A detached tree of a new file system: fsopen, fsconfig of each option, fsmount with MOUNT_ATTR_* bits."""
    context = script.opened("fsopen", fstype, _CLOEXEC, object=fstype)
    for option in options:
        key, separator, value = option.partition("=")
        command, sent = (_SET_STRING, value) if separator else (_SET_FLAG, None)
        script.call("fsconfig", context, command, key, sent, 0, object=option, refuse=refuse)
    script.call("fsconfig", context, _CREATE, None, None, 0, object="create")
    tree = script.opened("fsmount", context, _CLOEXEC, attributes)
    script.close(context)
    return tree


def set_attributes(
    script: Script,
    tree: Slot,
    set: int = 0,
    clear: int = 0,
    propagation: int = 0,
    recursive: bool = False,
    name: str = "",
) -> None:
    """mount_setattr(2); the arguments are those of ``mount.mount_setattr``."""
    attributes = script.data(_ATTRIBUTES.pack(set, clear, propagation, 0))
    flags = libc.AT_EMPTY_PATH | (libc.AT_RECURSIVE if recursive else 0)
    script.call("mount_setattr", tree, "", flags, attributes, _ATTRIBUTES.size, object=name)


def set_idmap(script: Script, tree: Slot, user: Slot, recursive: bool = False, name: str = "") -> None:
    """Have the detached ``tree`` show the ids of its file system through the user namespace ``user``: what is 0's
    on the disk is the namespace's root's. Refused where the file system cannot be idmapped."""
    attributes = script.room(_ATTRIBUTES.size)
    script.fill(attributes, _ATTRIBUTES.pack(mount.MOUNT_ATTR_IDMAP, 0, 0, 0))
    script.store(plus(attributes, _USER), user)
    flags = libc.AT_EMPTY_PATH | (libc.AT_RECURSIVE if recursive else 0)
    script.call("mount_setattr", tree, "", flags, attributes, _ATTRIBUTES.size, object=name, refuse=_NOT_IDMAPPED)


def mount_at(
    script: Script, source: str, target: str, fstype: str, flags: int, data: str = "", refuse: Refusals | None = None
) -> None:
    """mount(2). An empty ``source``, ``fstype`` or ``data`` is passed as NULL."""
    script.call("mount", source or None, target, fstype or None, flags, data or None, object=target, refuse=refuse)


def own_mount_namespace(script: Script, flags: int) -> None:
    """Unshare ``flags``; nothing that is mounted from here on is seen by the host, what the host unmounts goes."""
    script.call("unshare", flags)
    mount_at(script, "", "/", "", mount.MS_REC | mount.MS_SLAVE)


@contextlib.contextmanager
def in_mount_namespace_aside(script: Script) -> Iterator[None]:
    """What is mounted meanwhile is mounted in a mount namespace that ends when the process is back in its own."""
    with script.step("mount aside"):
        own = script.opened("openat", libc.AT_FDCWD, "/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC, 0)
        own_mount_namespace(script, namespaces.CLONE_NEWNS)
    yield
    with script.step("mount aside"):
        script.call("setns", own, namespaces.CLONE_NEWNS)
        script.close(own)
