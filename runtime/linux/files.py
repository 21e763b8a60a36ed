"""Files by descriptor: openat2(2), fstatfs(2), sealed memfds.

``runtime.rootfs.resolve`` builds the rules for paths in a container on this.

Invariant: every descriptor returned is close-on-exec.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import struct
from ctypes import c_char_p, c_int, c_size_t

from runtime.linux import libc

RESOLVE_NO_XDEV = 0x01
RESOLVE_NO_MAGICLINKS = 0x02
RESOLVE_NO_SYMLINKS = 0x04
RESOLVE_BENEATH = 0x08
RESOLVE_IN_ROOT = 0x10
RESOLVE_CACHED = 0x20

PROC_SUPER_MAGIC = 0x9FA0
SYSFS_MAGIC = 0x62656572
TMPFS_MAGIC = 0x01021994
DEVPTS_SUPER_MAGIC = 0x1CD1
OVERLAYFS_SUPER_MAGIC = 0x794C7630
CGROUP_SUPER_MAGIC = 0x27E0EB
CGROUP2_SUPER_MAGIC = 0x63677270
NSFS_MAGIC = 0x6E736673

_RACES = 128  # how often a lookup is repeated that a rename elsewhere disturbed

_OPEN_HOW = struct.Struct("=QQQ")
_STATFS_BYTES = 256  # struct statfs is 120 bytes on 64-bit machines

_openat2 = libc.syscall(c_int, c_char_p, c_char_p, c_size_t)
_fstatfs = libc.function("fstatfs", c_int, c_char_p)


def openat2(dir_fd: int, path: str | bytes, flags: int, resolve: int, mode: int = 0) -> int:
    """openat2(2): open ``path`` below ``dir_fd`` under the RESOLVE_* rules ``resolve``.

    EAGAIN, which the kernel returns when a rename elsewhere disturbed a lookup of
    "..", is retried a bounded number of times.
    """
    how = _OPEN_HOW.pack(flags | os.O_CLOEXEC, mode, resolve)
    name = libc.cstring(path)
    for _ in range(_RACES):
        found = _openat2(libc.NR_OPENAT2, dir_fd, name, how, _OPEN_HOW.size)
        if found >= 0:
            return int(found)
        if ctypes.get_errno() not in (errno.EAGAIN, errno.EINTR):
            break
    raise libc.failed("openat2", path)


_LOOKS = 3
"""A mount or a rename anywhere on the host that falls into a look makes it useless; three in a row hardly do."""


def is_known_directory(path: str) -> bool | None:
    """Whether ``path`` is a directory, links followed, as far as the kernel knows by heart.

    None: it would have to ask the disk or a server first, which may take any time (openat2(2),
    RESOLVE_CACHED); there is no such path; or the kernel is older than 5.12.
    """
    how = _OPEN_HOW.pack(os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, RESOLVE_CACHED)
    for _ in range(_LOOKS):
        found = _openat2(libc.NR_OPENAT2, libc.AT_FDCWD, libc.cstring(path), how, _OPEN_HOW.size)
        if found >= 0:
            os.close(found)
            return True
        if ctypes.get_errno() != errno.EAGAIN:
            break
    return False if ctypes.get_errno() == errno.ENOTDIR else None


def magic(fd: int) -> int:
    """The type of the file system that ``fd`` (O_PATH is enough) lies on; see statfs(2)."""
    buffer = ctypes.create_string_buffer(_STATFS_BYTES)
    if _fstatfs(fd, buffer) < 0:
        raise libc.failed("fstatfs")
    return int.from_bytes(buffer.raw[:8], "little") & 0xFFFFFFFF


def sealed_memfd(name: str, content: bytes) -> int:
    """A memfd with ``content`` that nobody can change, grow, shrink or unseal."""
    fd = os.memfd_create(name, os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        written = 0
        while written < len(content):
            written += os.pwrite(fd, content[written:], written)
        seals = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_SEAL
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
    except BaseException:
        os.close(fd)
        raise
    return fd
