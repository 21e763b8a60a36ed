"""The monitor's children: born in their place, followed until they have exec'd, reaped.

A ``Birth`` says where a child lives and who hears of it. Pause, a container's init and
an exec carry out a script (``spawn``); a look into an image is a fork that works in
python (``fork``). Each child has one end of a socket, closed by its ``execve``, on
which it reports:

    a word with descriptors         b"console": the master of the terminal that it made;
                                    b"namespaces": the pod's (``runtime.pause``)
    its new pid, with a pidfd       it goes on as that process, a child like itself (``runtime.user_namespace``)
    a failed call                   number and errno (``runtime.linux.spawn.failure``); the first one counts
    a JSON object with "kind"       the fault that stopped it (``errors.to_wire``)
    any other JSON object           the answer of a child that never execs
    end of file                     execve has happened, or the child has died

A child that waits (``child.wait_released``) reads one word from its end: ``Child.release``.

Invariant: of ``on_ready`` and ``on_failed`` exactly one is called, once, and
``on_exit`` only after ``on_ready``. No child outlives the monitor unnoticed (PR_SET_PDEATHSIG, cgroup).
"""

from __future__ import annotations

import array
import contextlib
import functools
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import NoReturn

from runtime import channel
from runtime.cgroups import kill
from runtime.channel import Message, Socket
from runtime.errors import Fault, HostFault, ScriptFailed, from_wire, to_wire
from runtime.linux import process, spawn
from runtime.loop import READ, Loop
from runtime.requests import CgroupDirs

_PR_SET_PDEATHSIG = 1
_REPORT_LIMIT = 64 * 1024
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
            data, ancillary, _, _ = report.recvmsg(_REPORT_LIMIT, _GIVEN_SIZE, _CLOEXEC)
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


class Children:
    """All children of this process, which must be the only one to fork and wait in it.

    ``on_last`` is called whenever the last child has been reaped and its end been
    told. Made before the fork; ``open`` it after.
    """

    def __init__(self, loop: Loop, on_last: Callable[[], None]) -> None:
        self._loop = loop
        self._on_last = on_last
        self._children: dict[int, Child] = {}
        self._wakeup = self._wakes = -1

    def __len__(self) -> int:
        return len(self._children)

    def open(self) -> None:
        """Begin to watch for ended children, orphans from below included."""
        self._wakeup, self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        if not _handling:
            handle_signal()
        signal.set_wakeup_fd(self._wakes, warn_on_full_buffer=False)
        process.set_child_subreaper(True)
        self._loop.watch(self._wakeup, READ, self._reap)

    def close(self) -> None:
        """Stop what ``open`` has begun."""
        process.set_child_subreaper(False)
        self._loop.unwatch(self._wakeup)
        signal.set_wakeup_fd(-1)
        channel.close_all([self._wakeup, self._wakes])

    def spawn(self, birth: Birth, program: int, script: int, given: Sequence[int] = ()) -> Child:
        """A child that carries out ``script`` with the descriptors ``given``; ``program`` is ``launch``.

        Raises:
            OSError: the cgroup, the PID namespace or the process could not be had; there is no child.
        """

        def bear(cgroup: int | None, report: int) -> int:
            where = {"cgroup": cgroup, "pid_namespace": birth.pid_namespace}
            return spawn.spawn(program, script, report, given, flags=birth.flags, **where)

        return self._bear(birth, bear)

    def fork(self, birth: Birth, run: Callable[[int], NoReturn]) -> Child:
        """A copy of this process that calls ``run`` with the report socket; it answers and ends with os._exit.

        Raises:
            OSError: the cgroup or the process could not be had; there is no child.
        """

        def bear(cgroup: int | None, report: int) -> int:
            pid = process.fork_into(cgroup)
            if pid == 0:
                _run_child(run, report)
            return pid

        return self._bear(birth, bear)

    def _bear(self, birth: Birth, bear: Callable[[int | None, int], int]) -> Child:
        """``bear`` makes the child, in the v2 cgroup and with its end of the report, both descriptors; its pid."""
        ours, theirs = channel.pair()
        cgroup, pid = None, -1
        try:
            if birth.cgroup is not None:
                cgroup = kill.open_v2(birth.cgroup)
            pid = bear(cgroup, theirs.fileno())
            child = Child(birth, pid, ours, self._loop, self._follow)
            self._follow(child)
            return child
        except BaseException:
            ours.close()
            if pid > 0:
                os.kill(pid, signal.SIGKILL)
            raise
        finally:
            if cgroup is not None:
                os.close(cgroup)
            theirs.close()

    def _reap(self) -> None:
        """Wait for everything that has ended, orphans that were left to us included."""
        os.read(self._wakeup, 4096)
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            child = self._children.pop(pid, None) or self._find_reborn(pid)
            if child is not None:
                self._loop.guard(functools.partial(child.reaped, pid, status))
                if not self._children:
                    self._loop.guard(self._on_last)

    def _follow(self, child: Child) -> None:
        self._children[child.pid] = child

    def _find_reborn(self, pid: int) -> Child | None:
        """A child that is ``pid`` by now, and has told so already; an orphan is nobody's."""
        for child in [*self._children.values()]:
            self._loop.guard(child.take_report)
        return self._children.pop(pid, None)


_handling = False


def handle_signal() -> None:
    """Have SIGCHLD wake the loop; for a zygote, which does it once for all monitors."""
    global _handling
    signal.signal(signal.SIGCHLD, _wake)
    _handling = True


def _wake(number: int, frame: object) -> None:
    """A handler has to exist for the wakeup descriptor to be written to."""


def _run_child(run: Callable[[int], NoReturn], report: int) -> NoReturn:
    """In the child: nothing may return or raise into the monitor's stack from here."""
    try:
        process.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        process.set_dumpable(False)
        signal.set_wakeup_fd(-1)
        run(report)
    except BaseException as error:  # noqa: BLE001 - whatever it is, the parent has to be told and this process to end
        tell(report, to_wire(error))
    finally:
        os._exit(127)


def tell(report: int, document: Message) -> None:
    """Write ``document`` to the report socket, as far as it fits and the parent still listens."""
    payload = channel.encode(document)
    if len(payload) > _REPORT_LIMIT:
        payload = channel.encode({**document, "message": str(document.get("message", ""))[:4096]})
    with socket.socket(fileno=os.dup(report)) as sock:
        try:
            sock.send(payload, socket.MSG_NOSIGNAL)
        except OSError:
            return  # the monitor has died; PR_SET_PDEATHSIG is on its way
