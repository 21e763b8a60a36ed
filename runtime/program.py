"""Executables of the host that crisp's processes near containers run: python, launch and pause.

A container that shares a PID namespace with a process of crisp can reach its
executable by way of /proc/PID/exe. Executed from a detached read-only mount, what
it reaches there cannot be written, whatever its capabilities in the container
are (the lesson of CVE-2019-5736).

Invariant: ``open_program`` names a mount that no path leads to and that nobody can
make writable without a descriptor of it.
"""

from __future__ import annotations

import os

from runtime.errors import HostFault
from runtime.linux import mount
from runtime.linux.libc import AT_FDCWD, SyscallError

LAUNCH = os.path.join(os.path.dirname(os.path.abspath(__file__)), "launch")
"""The program that carries out scripts, compiled from ``launch.c`` when crisp is installed."""

ATTRIBUTES = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV


def open_program(path: str) -> int:
    """A close-on-exec descriptor of the program at ``path``, on a read-only mount of its own.

    Raises:
        HostFault: there is no such program, or the caller may not mount (CAP_SYS_ADMIN).
    """
    try:
        program = mount.open_tree(AT_FDCWD, path, mount.OPEN_TREE_CLONE)
        try:
            mount.mount_setattr(program, set=ATTRIBUTES)
        except BaseException:
            os.close(program)
            raise
    except SyscallError as error:
        raise HostFault(step="seal a program", object=path, call=error.call, errno=error.errno or 0) from error
    return program
