"""Mounting: mount(2), the mount file descriptors of fsopen(2), pivot_root(2).

Used by ``runtime.rootfs`` inside a container's own mount namespace and by the
pins of namespaces. A "tree" is a descriptor of a detached or attached mount.

Invariant: every descriptor returned is close-on-exec.
"""

from __future__ import annotations

import errno
import struct
from ctypes import c_char_p, c_int, c_size_t, c_uint, c_ulong

from runtime.linux import libc
from runtime.linux.libc import SyscallError

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REMOUNT = 0x20
MS_BIND = 0x1000
MS_MOVE = 0x2000
MS_REC = 0x4000
MS_UNBINDABLE = 0x20000
MS_PRIVATE = 0x40000
MS_SLAVE = 0x80000
MS_SHARED = 0x100000

MNT_DETACH = 0x2
UMOUNT_NOFOLLOW = 0x8

OPEN_TREE_CLONE = 0x1
_OPEN_TREE_CLOEXEC = 0o2000000
_MOVE_MOUNT_F_EMPTY_PATH = 0x4
_MOVE_MOUNT_T_EMPTY_PATH = 0x40
_FSOPEN_CLOEXEC = 0x1
_FSMOUNT_CLOEXEC = 0x1
_FSCONFIG_SET_FLAG = 0
_FSCONFIG_SET_STRING = 1
_FSCONFIG_CMD_CREATE = 6

MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
MOUNT_ATTR__ATIME = 0x70
MOUNT_ATTR_RELATIME = 0x0
MOUNT_ATTR_NOATIME = 0x10
MOUNT_ATTR_STRICTATIME = 0x20
MOUNT_ATTR_NODIRATIME = 0x80
MOUNT_ATTR_IDMAP = 0x100000
MOUNT_ATTR_NOSYMFOLLOW = 0x200000

_MOUNT_ATTR = struct.Struct("=QQQQ")

_mount = libc.function("mount", c_char_p, c_char_p, c_char_p, c_ulong, c_char_p)
_umount2 = libc.function("umount2", c_char_p, c_int)
_pivot_root = libc.function("pivot_root", c_char_p, c_char_p)
_open_tree = libc.syscall(c_int, c_char_p, c_uint)
_move_mount = libc.syscall(c_int, c_char_p, c_int, c_char_p, c_uint)
_fsopen = libc.syscall(c_char_p, c_uint)
_fsconfig = libc.syscall(c_int, c_uint, c_char_p, c_char_p, c_int)
_fsmount = libc.syscall(c_int, c_uint, c_uint)
_mount_setattr = libc.syscall(c_int, c_char_p, c_uint, c_char_p, c_size_t)


def mount(source: str, target: str, fstype: str, flags: int, data: str = "") -> None:
    """mount(2). An empty ``source``, ``fstype`` or ``data`` is passed as NULL."""
    arguments = [libc.cstring(text) or None for text in (source, fstype, data)]
    if _mount(arguments[0], libc.cstring(target), arguments[1], flags, arguments[2]) < 0:
        raise libc.failed("mount", target)


def umount2(target: str, flags: int = 0) -> None:
    """umount2(2)."""
    if _umount2(libc.cstring(target), flags) < 0:
        raise libc.failed("umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2); ``(".", ".")`` stacks the old root on the new one."""
    if _pivot_root(libc.cstring(new_root), libc.cstring(put_old)) < 0:
        raise libc.failed("pivot_root", new_root)


def open_tree(dir_fd: int, path: str, flags: int = 0) -> int:
    """open_tree(2): a descriptor of the mount at ``path``; with OPEN_TREE_CLONE of a
    detached copy (AT_RECURSIVE: with all below it). An empty path means ``dir_fd`` itself."""
    if not path:
        flags |= libc.AT_EMPTY_PATH
    found = _open_tree(libc.NR_OPEN_TREE, dir_fd, libc.cstring(path), flags | _OPEN_TREE_CLOEXEC)
    if found < 0:
        raise libc.failed("open_tree", path)
    return int(found)


def move_mount(tree: int, target: int, name: str = "") -> None:
    """move_mount(2) of ``tree`` onto what the descriptor ``target`` names; no path is walked."""
    flags = _MOVE_MOUNT_F_EMPTY_PATH | _MOVE_MOUNT_T_EMPTY_PATH
    if _move_mount(libc.NR_MOVE_MOUNT, tree, b"", target, b"", flags) < 0:
        raise libc.failed("move_mount", name)


def fsopen(fstype: str) -> int:
    """fsopen(2): a descriptor of a file system context; close it after :func:`fsmount`."""
    found = _fsopen(libc.NR_FSOPEN, libc.cstring(fstype), _FSOPEN_CLOEXEC)
    if found < 0:
        raise libc.failed("fsopen", fstype)
    return int(found)


def fsconfig(context: int, option: str) -> None:
    """fsconfig(2) of one mount option, ``key=value`` or a flag."""
    key, separator, value = option.partition("=")
    command = _FSCONFIG_SET_STRING if separator else _FSCONFIG_SET_FLAG
    sent = libc.cstring(value) if separator else None
    if _fsconfig(libc.NR_FSCONFIG, context, command, libc.cstring(key), sent, 0) < 0:
        raise libc.failed("fsconfig", option)


def fsmount(context: int, attributes: int = 0) -> int:
    """Create the configured super block and return a detached tree of it.

    ``attributes`` are MOUNT_ATTR_* bits of the mount.
    """
    if _fsconfig(libc.NR_FSCONFIG, context, _FSCONFIG_CMD_CREATE, None, None, 0) < 0:
        raise libc.failed("fsconfig", "create")
    tree = _fsmount(libc.NR_FSMOUNT, context, _FSMOUNT_CLOEXEC, attributes)
    if tree < 0:
        raise libc.failed("fsmount")
    return int(tree)


def mount_setattr(
    tree: int, set: int = 0, clear: int = 0, propagation: int = 0, recursive: bool = False, user: int | None = None
) -> None:
    """mount_setattr(2) on the mount of descriptor ``tree``, with all below it if ``recursive``.

    ``set`` and ``clear`` are MOUNT_ATTR_* bits, ``propagation`` one of MS_PRIVATE,
    MS_SLAVE, MS_SHARED, MS_UNBINDABLE or 0. ``user`` is a descriptor of the user namespace
    that the detached mount is to be idmapped by; EINVAL is for a file system that cannot be.
    """
    if user is not None:
        set |= MOUNT_ATTR_IDMAP
    attributes = _MOUNT_ATTR.pack(set, clear, propagation, user or 0)
    flags = libc.AT_EMPTY_PATH | (libc.AT_RECURSIVE if recursive else 0)
    if _mount_setattr(libc.NR_MOUNT_SETATTR, tree, b"", flags, attributes, _MOUNT_ATTR.size) < 0:
        raise libc.failed("mount_setattr")


def has_mount_setattr() -> bool:
    """Whether the kernel has mount_setattr(2), and nothing around this process withholds it."""
    try:
        mount_setattr(-1, MOUNT_ATTR_RDONLY)
    except SyscallError as error:
        return error.errno == errno.EBADF
    return False  # it cannot have succeeded
