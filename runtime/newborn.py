"""One child of the monitor: where it is born, what it reports until it has exec'd, and its end.

A ``Birth`` says where a child lives and who hears of it; ``runtime.children`` has it born, follows it
and reaps it. Each child has one end of a socket, closed by its ``execve``, on which it reports:

    a word with descriptors         b"console": the master of the terminal that it made;
                                    b"namespaces": the pod's (``runtime.pause``)
    its new pid, with a pidfd       it goes on as that process, a child like itself (``runtime.user_namespace``)
    a failed call                   number and errno (``runtime.linux.spawn.failure``); the first one counts
    a JSON object with "kind"       the fault that stopped it (``errors.to_wire``)
    any other JSON object           the answer of a child that never execs
    end of file                     execve has happened, or the child has died

A child that waits (``child.wait_released``) reads one word from its end: ``Child.release``.

Invariant: of ``on_ready`` and ``on_failed`` exactly one is called, once, and ``on_exit`` only after ``on_ready``.
"""

from __future__ import annotations

import array
import contextlib
import os
import signal
import socket
from collections.abc import Callable

from runtime import channel
from runtime.channel import Message, Socket
from runtime.errors import Fault, HostFault, ScriptFailed, from_wire
from runtime.linux import spawn
from runtime.loop import READ, Loop
from runtime.requests import CgroupDirs

REPORT_LIMIT = 64 * 1024
"""Bytes of one report."""

_GIVEN_SIZE = socket.CMSG_SPACE(4 * channel.DESCRIPTOR_LIMIT)
_CLOEXEC = int(socket.MSG_CMSG_CLOEXEC)
_NOSIGNAL = int(socket.MSG_NOSIGNAL)
_SOL_SOCKET, _SCM_RIGHTS = int(socket.SOL_SOCKET), int(socket.SCM_RIGHTS)


class Birth:
    """Where one child is born, and who hears of it.

    ``pid_namespace`` is a descriptor (namespace file or pidfd)
    of the PID namespace to be born in, None for the monitor's; ``flags`` may be
    CLONE_NEWPID. ``object`` names the child in faults. ``on_word`` hears of descriptors at
    once that a child which is long in getting ready hands over, ``on_reborn`` that it goes on as another process.
    """

    __slots__ = (
        "cgroup",
        "flags",
        "object",
        "on_exit",
        "on_failed",
        "on_ready",
        "on_reborn",
        "on_word",
        "pid_namespace",
    )

    def __init__(
        self,
        object: str,
        *,
        on_ready: Callable[[Child], None],
        on_failed: Callable[[Fault], None],
        on_exit: Callable[[int], None],
        cgroup: CgroupDirs | None = None,
        pid_namespace: int | None = None,
        flags: int = 0,
        on_word: Callable[[Child], None] | None = None,
        on_reborn: Callable[[Child], None] | None = None,
    ) -> None:
        self.object = object
        self.on_ready, self.on_failed, self.on_exit = on_ready, on_failed, on_exit
        self.on_word, self.on_reborn = on_word, on_reborn
        self.cgroup, self.pid_namespace, self.flags = cgroup, pid_namespace, flags


class Child:
    """A child; ``pid`` and ``pidfd`` are valid until it has been reaped."""

    def __init__(
        self, birth: Birth, pid: int, report: Socket, loop: Loop, reborn: Callable[[Child], None] = lambda child: None
    ) -> None:
        """``reborn`` is told when it goes on as another process."""
        self.pid = pid
        self.pidfd = os.pidfd_open(pid)
        self.given: list[int] = []
        """Descriptors that it has handed over; whoever takes them empties the list."""
        self.answer: Message | None = None
        self._former = -1
        """Of the process that it was until then and that has not been reaped yet."""
        self._birth = birth
        self._report: Socket | None = report
        self._failure: Fault | None = None
        self._killed = False
        self._reborn = reborn
        self._loop = loop
        report.setblocking(False)
        loop.watch(report.fileno(), READ, self._read_report)

    @property
    def ended(self) -> bool:
        """Whether it has ended, though it may not have been reaped yet."""
        if self.pidfd < 0:
            return True
        return os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None

    def signal(self, number: int) -> None:
        """Send ``number``; nothing happens when it has ended already.

        Raises:
            HostFault: the kernel refused.
        """
        if self.pidfd < 0:
            return
        self._killed = self._killed or number == signal.SIGKILL
        try:
            signal.pidfd_send_signal(self.pidfd, number)
        except ProcessLookupError:
            return
        except OSError as error:
            code, call = error.errno or 0, "pidfd_send_signal"
            raise HostFault(step="signal", object=self._birth.object, call=call, errno=code) from error
        finally:
            if number == signal.SIGKILL:
                self._end_former()

    def _end_former(self) -> None:
        """The empty shell that it was ends by itself, unless somebody keeps it stopped."""
        if self._former >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._former, signal.SIGKILL)

    def release(self) -> bool:
        """Let a child that waits (``child.wait_released``) go on; False when it has ended or is about to."""
        if self._report is None:
            return False
        self.signal(signal.SIGCONT)  # whoever shares its PID namespace may have stopped it
        try:
            self._report.send(spawn.RELEASE, _NOSIGNAL)
        except OSError:
            return False
        return True

    def take_report(self) -> None:
        """All that it has said by now."""
        while self._read_report():
            pass

    def reaped(self, pid: int, status: int) -> None:
        """``pid``, which it was, has ended with the wait status ``status``: take its last report, then tell."""
        self.take_report()
        if pid != self.pid:
            os.close(self._former)
            self._former = -1
            return  # it lives on, or has ended before
        self._end_former()
        if self._report is not None:
            self._end_report(self._report)
        os.close(self.pidfd)
        self.pidfd = -1
        if self._failure is None:
            self._birth.on_exit(status)
        else:
            self._close_given()
            self._birth.on_failed(self._failure)

    def _read_report(self) -> bool:
        """Take one packet; False when there is none."""
        report = self._report
        if report is None:
            return False
        try:
            data, ancillary, _, _ = report.recvmsg(REPORT_LIMIT, _GIVEN_SIZE, _CLOEXEC)
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True  # it has ended without having read that it is released; what it said comes next
        for level, kind, rights in ancillary:
            if level == _SOL_SOCKET and kind == _SCM_RIGHTS:
                self.given += array.array("i", rights)
        if not data:
            self._end_report(report)
        elif data.startswith(b"{"):
            self._take_document(data)
        elif self.given and (pid := spawn.reborn(data)) is not None:
            self._go_on_as(pid, self.given.pop())
        elif (failed := spawn.failure(data)) is not None:
            self._failure = self._failure or ScriptFailed(*failed)
        elif self._birth.on_word is not None:
            self._birth.on_word(self)
        return True

    def _go_on_as(self, pid: int, pidfd: int) -> None:
        self._former = self.pidfd
        self.pid, self.pidfd = pid, pidfd
        self._reborn(self)
        if self._killed:  # that may have met an empty shell
            self.signal(signal.SIGKILL)
        if self._birth.on_reborn is not None:
            self._birth.on_reborn(self)

    def _take_document(self, data: bytes) -> None:
        try:
            document = channel.decode(data)
            if "kind" in document:
                self._failure = from_wire(document)
            else:
                self.answer = document
        except (Fault, ValueError, TypeError):
            self._failure = HostFault("unreadable report", step="start", object=self._birth.object)

    def _end_report(self, report: Socket) -> None:
        self._loop.unwatch(report.fileno())
        report.close()
        self._report = None
        # A failure is told once the child is gone: then its cgroup can be removed and the start retried.
        if self._failure is None:
            self._birth.on_ready(self)
            self._close_given()

    def _close_given(self) -> None:
        if self.given:
            channel.close_all(self.given)
            self.given.clear()
