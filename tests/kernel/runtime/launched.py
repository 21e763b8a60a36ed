"""Scripts carried out for tests, in whatever namespaces the caller is."""

from __future__ import annotations

import array
import os
import signal
import socket
from collections.abc import Callable, Iterable, Mapping, Sequence

import pytest

from runtime import channel
from runtime.errors import Fault
from runtime.linux.passing import hand_over
from runtime.linux.script import Script, Slot
from runtime.linux.spawn import failure, spawn
from runtime.program import LAUNCH, open_program

PR_SET_PDEATHSIG = 1

needs_launch = pytest.mark.skipif(not os.path.exists(LAUNCH), reason="needs runtime/launch: run `make install`")

Writer = Callable[[Script], "Iterable[Slot] | Slot | None"]


def executing(args: Sequence[str], streams: int = 0) -> Script:
    """Execute ``args`` with the given descriptors as standard streams, and end with the parent."""
    script = Script([str(number) for number in range(streams)])
    script.call("prctl", PR_SET_PDEATHSIG, signal.SIGKILL.value)
    for number in range(streams):
        script.call("dup3", script.given[str(number)], number, 0)
    script.call("rt_sigprocmask", signal.SIG_SETMASK.value, bytes(8), None, 8)
    script.call("execve", args[0], script.vector(args), script.vector([]))
    return script


def launch(script: Script, given: Sequence[int] = (), flags: int = 0) -> tuple[int, socket.socket]:
    """``(pid, report)`` of a process that carries out ``script``; both are the caller's."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program = open_program(LAUNCH)
    memfd = os.memfd_create("script", os.MFD_CLOEXEC)
    try:
        os.write(memfd, script.bytes())
        return spawn(program, memfd, theirs.fileno(), given, flags=flags), ours
    except BaseException:
        ours.close()
        raise
    finally:
        theirs.close()
        channel.close_all([program, memfd])


def wait_report(script: Script, report: socket.socket) -> tuple[list[int], Fault | None]:
    """Until the report ends: the descriptors that were handed over, and the fault if there was one."""
    handed: list[int] = []
    fault = None
    with report:
        while True:
            message, ancillary, _, _ = report.recvmsg(65536, socket.CMSG_SPACE(4 * 32), socket.MSG_CMSG_CLOEXEC)
            for _, _, rights in ancillary:
                handed += array.array("i", rights)
            if not message:
                return handed, fault
            failed = failure(message)
            if failed is not None:
                fault = fault or script.fault(*failed)


def carried_out(write: Writer, given: Mapping[str, int] | None = None, flags: int = 0) -> list[int]:
    """Write a script, have it carried out to its end, and get the descriptors whose slots ``write`` returned.

    Raises:
        Fault: what a call of it failed with.
    """
    given = given or {}
    script = Script(list(given))
    asked = write(script)
    slots = [] if asked is None else [asked] if isinstance(asked, int) else list(asked)
    if slots:
        hand_over(script, b"test", slots)
    script.call("exit_group", 0)
    pid, report = launch(script, list(given.values()), flags)
    handed, fault = wait_report(script, report)
    _, status = os.waitpid(pid, 0)
    if fault is not None:
        channel.close_all(handed)
        raise fault
    assert os.waitstatus_to_exitcode(status) == 0, status
    return handed
