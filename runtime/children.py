"""The monitor's children: born in their place, followed until they have exec'd, reaped.

``runtime.newborn`` is one of them, from its birth to its end. Pause, a container's init and
an exec carry out a script (``spawn``); a look into an image is a fork that works in
python (``fork``).

Invariant: no child outlives the monitor unnoticed (PR_SET_PDEATHSIG, cgroup), and whoever was born is followed
or killed.
"""

from __future__ import annotations

import functools
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import NoReturn

from runtime import channel
from runtime.cgroups import kill
from runtime.channel import Message
from runtime.errors import to_wire
from runtime.linux import process, spawn
from runtime.loop import READ, Loop
from runtime.newborn import REPORT_LIMIT, Birth, Child

_PR_SET_PDEATHSIG = 1


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
    if len(payload) > REPORT_LIMIT:
        payload = channel.encode({**document, "message": str(document.get("message", ""))[:4096]})
    with socket.socket(fileno=os.dup(report)) as sock:
        try:
            sock.send(payload, socket.MSG_NOSIGNAL)
        except OSError:
            return  # the monitor has died; PR_SET_PDEATHSIG is on its way
