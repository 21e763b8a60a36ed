"""Starting ``launch``: a process of its own, small, in the place where it is to be born.

``runtime.children`` is the user; ``runtime.linux.script`` writes what the process does.

Invariant: nothing of the caller's memory is copied or shared with the process, and of
its descriptors it has those that it is given.
"""

from __future__ import annotations

import contextlib
import os
import struct
from collections.abc import Iterator, Sequence

from runtime.errors import HostFault

MAGIC = 0x31736372
"""The first four bytes of a script, and of what ``launch`` reports."""

RELEASE = b"!"
"""What a process that waits (``runtime.child.wait_released``) is told: to go on."""

REBORN = b"reborn: "
"""What a process that goes on as another one (``runtime.user_namespace``) reports: this, the pid, and a pidfd."""

_BORN_OFFSET = 8
_BORN = struct.Struct("=ii")
_FAILURE = struct.Struct("=IIi")
_FAILED = {0: "clone3", -1: "setns", -2: "mmap"}


def failure(packet: bytes) -> tuple[int, int] | None:
    """``(number of the call, errno)`` if ``packet`` is the report of a failed call."""
    if len(packet) != _FAILURE.size or packet[:4] != MAGIC.to_bytes(4, "little"):
        return None
    _, at, errno = _FAILURE.unpack(packet)
    return at, errno


def reborn(packet: bytes) -> int | None:
    """The pid, as the caller's parent counts, if ``packet`` is the report of who goes on as another process."""
    if len(packet) != len(REBORN) + 8 or not packet.startswith(REBORN):
        return None
    return int.from_bytes(packet[len(REBORN) :], "little")


@contextlib.contextmanager
def closing_script(content: bytes) -> Iterator[int]:
    """A descriptor of a memfd that holds a script, for one birth."""
    memfd = new_script()
    try:
        write_script(memfd, content)
        yield memfd
    finally:
        os.close(memfd)


def new_script() -> int:
    """A descriptor of a memfd for a script."""
    return os.memfd_create("crisp-script", os.MFD_CLOEXEC)


def write_script(memfd: int, content: bytes) -> None:
    """Write all of ``content``."""
    view = memoryview(content)
    while view:
        view = view[os.write(memfd, view) :]


def born(script: int) -> int | None:
    """The pid of who carries out ``script``; None if there is nobody, and nobody has failed either.

    Raises:
        HostFault: it could not be born.
    """
    pid, failed = _BORN.unpack(os.pread(script, _BORN.size, _BORN_OFFSET))
    if pid > 0:
        return int(pid)
    if failed:
        raise HostFault(step="start a process", call=_FAILED[pid], errno=failed)
    return None


def spawn(
    program: int,
    script: int,
    report: int,
    given: Sequence[int],
    *,
    cgroup: int | None = None,
    pid_namespace: int | None = None,
    flags: int = 0,
) -> int:
    """The pid of a new child that carries out ``script``, in the v2 cgroup and the PID namespace.

    All but ``flags`` (CLONE_NEWPID or 0) are descriptors: ``program`` of ``launch``,
    ``script`` writable and of this birth alone, ``given`` in the script's order.
    Waits for nothing but ``launch``, which runs in the caller's own cgroup.

    Raises:
        HostFault: there is no child.
    """
    numbers = [script, -1 if cgroup is None else cgroup, -1 if pid_namespace is None else pid_namespace]
    kept = {number for number in (*numbers, report, *given) if number >= 0}
    args = ["launch", *map(_shown, numbers), str(flags), *map(_shown, (report, *given))]
    actions = [(os.POSIX_SPAWN_DUP2, number, number) for number in kept]  # the same number: it stays open
    try:
        launched = os.posix_spawn(f"/proc/self/fd/{program}", args, {}, file_actions=actions)
    except OSError as error:
        raise HostFault(step="start a process", object="launch", call="posix_spawn", errno=error.errno or 0) from error
    os.waitpid(launched, 0)
    pid = born(script)
    if pid is None:
        raise HostFault("launch has been killed", step="start a process")
    return pid


def _shown(number: int) -> str:
    return "-" if number < 0 else str(number)
