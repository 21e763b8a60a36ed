"""Processes that stop when they have carried out a script, to be looked at; and others that come between its calls."""

from __future__ import annotations

import fcntl
import mmap
import os
import signal
import socket
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from runtime import channel
from runtime.linux.passing import hand_over
from runtime.linux.script import Script
from runtime.linux.spawn import failure
from tests.kernel.runtime.launched import Writer, launch

_STOPPED = b"stopped"


class Held:
    """A process ``pid`` that waits, and the descriptors that it has handed over."""

    def __init__(self, pid: int, before: set[str], handed: list[int]) -> None:
        self.pid, self.handed = pid, handed
        self._before = before

    def left_open(self) -> dict[str, bool]:
        """Where the descriptors lead that the script has opened and not closed; whether execve closes them."""
        found = {}
        for number in sorted(numbers(self.pid) - self._before):
            flags = Path(f"/proc/{self.pid}/fdinfo/{number}").read_text().split("flags:")[1].split()[0]
            target = os.readlink(f"/proc/{self.pid}/fd/{number}")
            found[target if target not in found else f"{target} again as {number}"] = bool(int(flags, 8) & os.O_CLOEXEC)
        return found


def numbers(pid: int) -> set[str]:
    return set(os.listdir(f"/proc/{pid}/fd"))


@contextmanager
def held(write: Writer, given: Mapping[str, int] | None = None) -> Iterator[Held]:
    """Have what ``write`` writes carried out; inside, the process still is as it was then.

    Raises:
        Fault: what a call of it failed with.
    """
    given = dict(given or {})
    reads, gate = os.pipe()
    size = fcntl.fcntl(gate, fcntl.F_SETPIPE_SZ, mmap.PAGESIZE)
    os.write(gate, bytes(size))  # it is full: whoever writes waits until it has been read
    script = Script([*given, "gate"])
    _stop(script, size)
    asked = write(script)
    slots = [] if asked is None else [asked] if isinstance(asked, int) else list(asked)
    if slots:
        hand_over(script, b"test", slots)
    _stop(script, size)
    script.call("exit_group", 0)
    pid, report = launch(script, [*given.values(), gate])
    handed: list[int] = []
    try:
        with report:
            _wait(script, report, handed)
            before = numbers(pid)
            os.read(reads, size)
            _wait(script, report, handed)
            yield Held(pid, before, handed)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        channel.close_all([reads, gate, *handed])


def _stop(script: Script, size: int) -> None:
    script.call("write", script.given["report"], _STOPPED, len(_STOPPED))
    script.call("write", script.given["gate"], script.room(size), size)


def _wait(script: Script, report: socket.socket, handed: list[int]) -> None:
    while True:
        message, descriptors, _, _ = socket.recv_fds(report, 4096, 32)
        handed += descriptors
        failed = failure(message)
        if failed is not None:
            raise script.fault(*failed)
        if message == _STOPPED:
            return
        assert message, "the process has ended"


def left_open(write: Writer, given: Mapping[str, int] | None = None) -> dict[str, bool]:
    """As ``Held.left_open``, of a process that has carried out what ``write`` writes."""
    with held(write, given) as process:
        return process.left_open()


def come_between(script: Script, call: str, does: Callable[[], None]) -> None:
    """What ``does`` writes is carried out after the first ``call`` that the script gets from now on."""
    plain = script.call

    def interrupted(name: str, *args: object, **more: object) -> None:
        plain(name, *args, **more)  # type: ignore[arg-type]
        if name == call:
            setattr(script, "call", plain)  # noqa: B010 - a method is replaced
            does()

    setattr(script, "call", interrupted)  # noqa: B010
