"""Processes: clone3(2) with fork's meaning, prctl(2), descriptors.

``runtime.children`` forks with :func:`fork_into`, ``runtime.linux.spawn`` starts what is no python.

Invariant: a child that :func:`fork_into` returns in is in the cgroup that was asked
for, whichever call made it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Callable, Iterable
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong

from runtime.linux import libc

CLONE_INTO_CGROUP = 0x200000000
CLOSE_RANGE_CLOEXEC = 0x4

_PR_SET_DUMPABLE = 4
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_CLONE_ARGS = struct.Struct("=11Q")
_CLONE3_REFUSED = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG})

_prctl = libc.function("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_clone3 = libc.libc_holding_lock["syscall"]
_clone3.argtypes = (c_long, c_char_p, c_size_t)
_clone3.restype = c_long
_close_range = libc.syscall(c_uint, c_uint, c_uint)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2); the value it returned."""
    result = _prctl(option, arg2, arg3, arg4, arg5)
    if result < 0:
        raise libc.failed("prctl", str(option))
    return int(result)


def set_dumpable(dumpable: bool) -> None:
    """Whether others may trace this process and read its /proc files; until the next execve."""
    prctl(_PR_SET_DUMPABLE, int(dumpable))


def set_no_new_privs() -> None:
    """No later execve gains privileges; cannot be taken back."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_child_subreaper(subreaper: bool) -> None:
    """Whether orphans below this process become its children."""
    prctl(_PR_SET_CHILD_SUBREAPER, int(subreaper))


def fork_into(cgroup_fd: int | None, *, refused: Callable[[libc.SyscallError], None] | None = None) -> int:
    """fork(2) into the v2 cgroup of ``cgroup_fd``: 0 in the child, its pid here.

    Without a cgroup it is os.fork. Where clone3 is refused as such (an old kernel, a
    seccomp filter), ``refused`` is told why and the same is done by fork and by
    writing the child's pid to cgroup.procs, which takes 10 ms. The caller must have one thread only.

    Raises:
        SyscallError: neither way worked; there is no child then.
    """
    if cgroup_fd is None:
        return os.fork()
    try:
        return _clone(cgroup_fd)
    except libc.SyscallError as error:
        if error.errno not in _CLONE3_REFUSED:
            raise
        if refused is not None:
            refused(error)
    return _fork_and_join(cgroup_fd)


def _clone(cgroup_fd: int) -> int:
    arguments = _CLONE_ARGS.pack(CLONE_INTO_CGROUP, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd)
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = _clone3(libc.NR_CLONE3, arguments, len(arguments))
    if pid == 0:
        api.PyOS_AfterFork_Child()
        return 0
    error = libc.failed("clone3") if pid < 0 else None
    api.PyOS_AfterFork_Parent()
    if error is not None:
        raise error
    return int(pid)


def _fork_and_join(cgroup_fd: int) -> int:
    """The child waits on a pipe until its parent has put it into the cgroup."""
    waits, releases = os.pipe()
    try:
        pid = os.fork()
        if pid == 0:
            os.close(releases)
            if os.read(waits, 1) != b"1":
                os._exit(127)  # the parent could not, and has said so
            return 0
        _release(pid, cgroup_fd, releases)
        return pid
    finally:
        os.close(waits)


def _release(pid: int, cgroup_fd: int, releases: int) -> None:
    joined = False
    try:
        procs = os.open("cgroup.procs", os.O_WRONLY, dir_fd=cgroup_fd)
        try:
            os.write(procs, b"%d" % pid)
        finally:
            os.close(procs)
        os.write(releases, b"1")
        joined = True
    finally:
        os.close(releases)
        if not joined:
            os.waitpid(pid, 0)


def close_range(first: int, last: int = 0xFFFFFFFF, flags: int = 0) -> None:
    """close_range(2): close the descriptors ``first`` to ``last`` or mark them close-on-exec."""
    if first <= last and _close_range(libc.NR_CLOSE_RANGE, first, last, flags) < 0:
        raise libc.failed("close_range")


def close_all_but(keep: Iterable[int]) -> None:
    """Close every descriptor that is not in ``keep``."""
    first = 0
    for fd in sorted(set(keep)):
        close_range(first, fd - 1)
        first = fd + 1
    close_range(first)
