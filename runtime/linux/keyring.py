"""The session keyring of a process: keyctl(2).

Invariant: after :func:`leave_session` no key of the caller's session is within reach of
what it executes, unless the kernel lets nobody reach any.
"""

from __future__ import annotations

import errno
import os
from ctypes import c_int, c_void_p

from runtime.linux import libc

_NR_KEYCTL = {"x86_64": 250, "aarch64": 219}.get(os.uname().machine, -1)
_JOIN_SESSION_KEYRING = 1
_UNREACHABLE = frozenset({errno.ENOSYS, errno.EPERM})
"""A kernel without keys, or a seccomp filter around all of us: what is executed meets the same."""

_keyctl = libc.syscall(c_int, c_void_p)


def leave_session() -> None:
    """Have a new and empty session keyring: the caller's is inherited by all that it starts (session-keyring(7)).

    Raises:
        SyscallError: the kernel refused, for its quota for example.
    """
    if _keyctl(_NR_KEYCTL, _JOIN_SESSION_KEYRING, None) < 0:
        error = libc.failed("keyctl")
        if error.errno not in _UNREACHABLE:
            raise error
