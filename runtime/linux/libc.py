"""The one door to the C library: how a system call is called and how it fails.

The other modules of this folder have one wrapper per call, with the kernel's
spelling. They live in the zygote, so this imports ctypes and os only.

Invariant: a wrapper either did what it says or raised :class:`SyscallError`; no
return code leaves this folder, and no string with a NUL byte reaches the kernel.
"""

from __future__ import annotations

import ctypes
import os
from typing import Any

# CDLL drops the interpreter lock around the call: mount, umount2 and setns can
# wait, and the daemon calls some of them from a thread.
libc = ctypes.CDLL(None, use_errno=True)

# PyDLL keeps the lock: clone3 must return in the child to an interpreter that
# still holds it.
libc_holding_lock = ctypes.PyDLL(None, use_errno=True)

AT_FDCWD = -100
AT_SYMLINK_NOFOLLOW = 0x100
AT_EMPTY_PATH = 0x1000
AT_RECURSIVE = 0x8000

_MACHINE = os.uname().machine

# Calls since Linux 5.0 have one number everywhere; the older ones do not.
NR_OPEN_TREE = 428
NR_MOVE_MOUNT = 429
NR_FSOPEN = 430
NR_FSCONFIG = 431
NR_FSMOUNT = 432
NR_CLONE3 = 435
NR_CLOSE_RANGE = 436
NR_OPENAT2 = 437
NR_MOUNT_SETATTR = 442


class SyscallError(OSError):
    """A system call failed: ``call`` is its name, ``errno`` and ``filename`` as in OSError.

    It stays this class whatever the errno is (never a FileNotFoundError), so
    callers compare ``errno``.
    """

    def __init__(self, call: str, errno: int, filename: str | bytes | None = None) -> None:
        OSError.__init__(self, errno, os.strerror(errno), _shown(filename))
        self.call = call

    def __str__(self) -> str:
        said = f"{self.call}: {(self.strerror or '').lower()}"
        return f"{self.filename}: {said}" if self.filename else said


def _shown(filename: str | bytes | None) -> str | None:
    return filename.decode("utf-8", "replace") if isinstance(filename, bytes) else filename


def failed(call: str, filename: str | bytes | None = None) -> SyscallError:
    """The error of the call that has just returned -1."""
    return SyscallError(call, ctypes.get_errno(), filename)


def function(name: str, *argtypes: Any) -> Any:
    """A function object of its own for the C library's ``name``, returning int."""
    found = libc[name]
    found.argtypes = argtypes
    return found


def syscall(*argtypes: Any) -> Any:
    """A function object of its own for ``syscall(number, ...)``, returning long."""
    found = libc["syscall"]
    found.argtypes = (ctypes.c_long, *argtypes)
    found.restype = ctypes.c_long
    return found


def cstring(text: str | bytes) -> bytes:
    """``text`` as the kernel takes it.

    Independent of the locale, so that no character set is ever loaded.

    Raises:
        ValueError: it holds a NUL byte, which would cut it short.
    """
    encoded = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
    if b"\0" in encoded:
        raise ValueError("embedded null byte")
    return encoded
