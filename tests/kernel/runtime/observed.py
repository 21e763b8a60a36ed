"""Scripts carried out for tests that look at the process: stopped, by what it says, by what it executes."""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

from runtime import channel
from runtime.linux.passing import hand_over
from runtime.linux.script import Argument, Script
from runtime.linux.spawn import failure
from tests.kernel.runtime.launched import Writer, launch, wait_report


@contextlib.contextmanager
def stopped(write: Writer, given: Mapping[str, int] | None = None, flags: int = 0) -> Iterator[tuple[int, list[int]]]:
    """A process that has carried out what ``write`` writes and waits: its pid, and the descriptors of the
    slots that ``write`` returned. Killed afterwards.

    Raises:
        Fault: what a call failed with.
    """
    given = given or {}
    script = Script([*given, "full"])
    asked = write(script)
    hand_over(script, b"here", [] if asked is None else [asked] if isinstance(asked, int) else list(asked))
    script.call("write", script.given["full"], b"1", 1)
    read, full = _full_pipe()
    try:
        pid, report = launch(script, [*given.values(), full], flags)
    finally:
        os.close(full)
    handed: list[int] = []
    try:
        message, ancillary, _, _ = report.recvmsg(4096, socket.CMSG_SPACE(4 * 32), socket.MSG_CMSG_CLOEXEC)
        failed = failure(message)
        if failed is not None:
            raise script.fault(*failed)
        assert message == b"here", message
        for _, _, rights in ancillary:
            handed += array.array("i", rights)
        yield pid, handed
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        report.close()
        channel.close_all([read, *handed])


def _full_pipe() -> tuple[int, int]:
    """Who writes to it waits."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(write, bytes(65536))
    os.set_blocking(write, True)
    return read, write


def values(write: Callable[[Script], Sequence[Argument]], given: Mapping[str, int] | None = None) -> list[int]:
    """What the arguments that ``write`` returned were, at the end of the script.

    Raises:
        Fault: what a call failed with.
    """
    given = given or {}
    read, out = os.pipe()
    script = Script([*given, "out"])
    try:
        for value in write(script):
            room = script.room(8)
            script.store(room, value)
            script.call("write", script.given["out"], room, 8)
        script.call("exit_group", 0)
        end(script, [*given.values(), out])
        os.close(out)
        out = -1
        told = os.read(read, 65536)
    finally:
        channel.close_all([read] if out < 0 else [read, out])
    return list(struct.unpack(f"={len(told) // 8}q", told))


def end(script: Script, given: Sequence[int] = (), flags: int = 0) -> int:
    """Carry ``script`` out; the exit code, negative for a signal.

    Raises:
        Fault: what a call failed with.
    """
    pid, report = launch(script, given, flags)
    handed, fault = wait_report(script, report)
    channel.close_all(handed)
    _, status = os.waitpid(pid, 0)
    if fault is not None:
        raise fault
    return os.waitstatus_to_exitcode(status)


def printed(write: Callable[[Script], None]) -> list[str]:
    """The words that the program prints which ``write`` has executed in the end.

    Raises:
        Fault: what a call failed with.
    """
    read, out = os.pipe()
    script = Script(["out"])
    script.call("dup3", script.given["out"], 1, 0)
    write(script)
    try:
        code = end(script, [out])
    finally:
        os.close(out)
        with os.fdopen(read) as stream:
            text = stream.read()
    assert code == 0, (code, text)
    return text.split()


def fields(pid: int, *names: str) -> list[str]:
    """Fields of /proc/PID/status."""
    text = Path(f"/proc/{pid}/status").read_text()
    return [" ".join(text.split(f"\n{name}:")[1].split("\n")[0].split()) for name in names]
