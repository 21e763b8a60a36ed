"""Processes: clone3(2) with fork's meaning, prctl(2), pidfds, descriptors, execve(2).

``runtime.monitor`` forks with :func:`fork_into`; ``runtime.identity`` ends with
:func:`execve`.

Invariant: a child that :func:`fork_into` returns in is in the cgroup and in the
namespaces that were asked for, whichever call made it.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import struct
from collections.abc import Callable, Iterable
from ctypes import c_char_p, c_int, c_long, c_size_t, c_uint, c_ulong, c_void_p

from runtime.linux import libc
from runtime.linux.namespaces import CLONE_NEWPID, setns, unshare

CLONE_INTO_CGROUP = 0x200000000
CLOSE_RANGE_CLOEXEC = 0x4

_PR_SET_DUMPABLE = 4
_PR_SET_KEEPCAPS = 8
_PR_SET_CHILD_SUBREAPER = 36
_PR_SET_NO_NEW_PRIVS = 38

_CLONE_ARGS = struct.Struct("=11Q")
_CLONE3_REFUSED = frozenset({errno.ENOSYS, errno.EPERM, errno.EINVAL, errno.E2BIG})

_prctl = libc.function("prctl", c_int, c_ulong, c_ulong, c_ulong, c_ulong)
_clone3 = libc.libc_holding_lock["syscall"]
_clone3.argtypes = (c_long, c_char_p, c_size_t)
_clone3.restype = c_long
_close_range = libc.syscall(c_uint, c_uint, c_uint)
_pidfd_open = libc.syscall(c_int, c_uint)
_pidfd_send_signal = libc.syscall(c_int, c_int, c_void_p, c_uint)
_pidfd_getfd = libc.syscall(c_int, c_int, c_uint)
_execve = libc.function("execve", c_char_p, c_void_p, c_void_p)
_execveat = libc.function("execveat", c_int, c_char_p, c_void_p, c_void_p, c_int)


def prctl(option: int, arg2: int = 0, arg3: int = 0, arg4: int = 0, arg5: int = 0) -> int:
    """prctl(2); the value it returned."""
    result = _prctl(option, arg2, arg3, arg4, arg5)
    if result < 0:
        raise libc.failed("prctl", str(option))
    return int(result)


def set_dumpable(dumpable: bool) -> None:
    """Whether others may trace this process and read its /proc files; until the next execve."""
    prctl(_PR_SET_DUMPABLE, int(dumpable))


def set_keepcaps(keep: bool) -> None:
    """Whether the permitted capabilities survive leaving uid 0."""
    prctl(_PR_SET_KEEPCAPS, int(keep))


def set_no_new_privs() -> None:
    """No later execve gains privileges; cannot be taken back."""
    prctl(_PR_SET_NO_NEW_PRIVS, 1)


def set_child_subreaper(subreaper: bool) -> None:
    """Whether orphans below this process become its children."""
    prctl(_PR_SET_CHILD_SUBREAPER, int(subreaper))


def fork_into(
    cgroup_fd: int | None, flags: int = 0, *, refused: Callable[[libc.SyscallError], None] | None = None
) -> int:
    """fork(2) into the v2 cgroup of ``cgroup_fd`` and new namespaces ``flags``: 0 in the child, its pid here.

    With neither it is os.fork. Where clone3 is refused as such (an old kernel, a
    seccomp filter), ``refused`` is told why and the same is done by fork and by
    writing the child's pid to cgroup.procs, which takes 10 ms; of ``flags`` that
    way knows CLONE_NEWPID only. The caller must have one thread only.

    Raises:
        SyscallError: neither way worked; there is no child then.
    """
    if cgroup_fd is None and not flags:
        return os.fork()
    try:
        return _clone(cgroup_fd, flags)
    except libc.SyscallError as error:
        if error.errno not in _CLONE3_REFUSED or flags & ~CLONE_NEWPID:
            raise
        if refused is not None:
            refused(error)
    return _fork_and_join(cgroup_fd, flags)


def _clone(cgroup_fd: int | None, flags: int) -> int:
    into = 0 if cgroup_fd is None else CLONE_INTO_CGROUP
    arguments = _CLONE_ARGS.pack(flags | into, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, cgroup_fd or 0)
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


def _fork_and_join(cgroup_fd: int | None, flags: int) -> int:
    """The child waits on a pipe until its parent has put it into the cgroup."""
    waits, releases = os.pipe()
    own = os.open("/proc/self/ns/pid", os.O_RDONLY) if flags else -1
    try:
        pid = _fork_with(flags, own)
        if pid == 0:
            os.close(releases)
            if os.read(waits, 1) != b"1":
                os._exit(127)  # the parent could not, and has said so
            return 0
        _release(pid, cgroup_fd, releases)
        return pid
    finally:
        for fd in (waits, own):
            if fd >= 0:
                os.close(fd)


def _fork_with(flags: int, own_pid_namespace: int) -> int:
    """fork, the child as pid 1 of a new PID namespace where ``flags`` says so."""
    if not flags:
        return os.fork()
    unshare(CLONE_NEWPID)
    pid = -1
    try:
        pid = os.fork()
    finally:
        if pid != 0:
            setns(own_pid_namespace, CLONE_NEWPID)
    return pid


def _release(pid: int, cgroup_fd: int | None, releases: int) -> None:
    joined = False
    try:
        if cgroup_fd is not None:
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


def pidfd_open(pid: int) -> int:
    """pidfd_open(2)."""
    found = _pidfd_open(libc.NR_PIDFD_OPEN, pid, 0)
    if found < 0:
        raise libc.failed("pidfd_open", str(pid))
    return int(found)


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """pidfd_send_signal(2): ESRCH once the process has been reaped or is a zombie."""
    if _pidfd_send_signal(libc.NR_PIDFD_SEND_SIGNAL, pidfd, number, None, 0) < 0:
        raise libc.failed("pidfd_send_signal", str(number))


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """pidfd_getfd(2): a close-on-exec duplicate of another process's descriptor."""
    found = _pidfd_getfd(libc.NR_PIDFD_GETFD, pidfd, fd, 0)
    if found < 0:
        raise libc.failed("pidfd_getfd", str(fd))
    return int(found)


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


def execve(path: str, args: list[str], env: list[str]) -> None:
    """execve(2) with exactly these vectors; os.execve would drop repeated variables."""
    arguments, environment = _vector(args), _vector(env)
    _execve(libc.cstring(path), arguments, environment)
    raise libc.failed("execve", path)


def execveat(fd: int, args: list[str], env: list[str]) -> None:
    """execveat(2) of the program that ``fd`` has open."""
    arguments, environment = _vector(args), _vector(env)
    _execveat(fd, b"", arguments, environment, libc.AT_EMPTY_PATH)
    raise libc.failed("execveat", args[0] if args else "")


def _vector(strings: list[str]) -> ctypes.Array[c_char_p]:
    return (c_char_p * (len(strings) + 1))(*[libc.cstring(text) for text in strings], None)
