"""One read or write of a cgroup file, failing with the file, the value and the reason.

Neighbours: ``tree``, ``resources`` and ``limits`` use it in the daemon; the
monitor's ``kill`` has its own, which takes a missing file for an empty cgroup.

Invariant: a value reaches the kernel in one write(2), as cgroup files require.
"""

from __future__ import annotations

import os

from runtime.errors import HostFault


def read(path: str, step: str) -> str:
    """The content of a cgroup file (at most 64 KiB).

    Raises:
        HostFault: call ``read``, with the errno.
    """
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, 65536).decode()
        finally:
            os.close(fd)
    except OSError as error:
        raise HostFault(step=step, object=path, call="read", errno=error.errno or 0) from error


def write(path: str, value: str, step: str) -> None:
    """Write ``value`` to a cgroup file.

    Raises:
        HostFault: call ``write``, with the errno; the message has the value.
    """
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        message = f"could not write {value!r}"
        raise HostFault(message, step=step, object=path, call="write", errno=error.errno or 0) from error
