"""syncfs(2): one file system to disk.

``runtime.images.worker`` ends with it, so that a layer is on disk before it is visible.

Invariant: when it returns, what was written before the call is on stable storage
or the error was raised (Linux 5.8 and newer report write-back errors here).
"""

from __future__ import annotations

from ctypes import c_int

from runtime.linux import libc

_syncfs = libc.function("syncfs", c_int)


def syncfs(fd: int) -> None:
    """Write back all of the file system that ``fd`` lies on."""
    if _syncfs(fd) < 0:
        raise libc.failed("syncfs")
