"""Loading a compiled seccomp program; ``runtime.seccomp`` compiles them.

Invariant: a program that is not whole instructions never reaches the kernel.
"""

from __future__ import annotations

import ctypes

from runtime.linux.process import prctl

_PR_SET_SECCOMP = 22
_SECCOMP_MODE_FILTER = 2
_INSTRUCTION_BYTES = 8  # struct sock_filter
_BPF_MAXINSNS = 4096


class _SockFprog(ctypes.Structure):
    _fields_ = (("len", ctypes.c_ushort), ("filter", ctypes.c_char_p))


def load(program: bytes) -> None:
    """Put the calling thread under ``program``, an array of struct sock_filter, for good.

    Needs no_new_privs or CAP_SYS_ADMIN; see seccomp(2).

    Raises:
        ValueError: ``program`` is empty, too long or cut off.
    """
    count, rest = divmod(len(program), _INSTRUCTION_BYTES)
    if rest or not 0 < count <= _BPF_MAXINSNS:
        raise ValueError(f"a seccomp program of {len(program)} bytes is not 1 to {_BPF_MAXINSNS} instructions")
    loaded = _SockFprog(count, program)
    prctl(_PR_SET_SECCOMP, _SECCOMP_MODE_FILTER, ctypes.addressof(loaded))
