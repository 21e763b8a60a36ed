"""A command inside a running container, as the monitor sees it.

``Exec`` has the child born in the container's PID namespace and its own cgroup, ends
it when its time is over, and tells the daemon how it ended. ``runtime.command`` writes
what the child does.

Invariant: the daemon hears of the end of every command of whose start it has heard.
"""

from __future__ import annotations

import functools
import signal

from runtime import exits
from runtime.cgroups import kill
from runtime.errors import Fault
from runtime.loop import Timer
from runtime.newborn import Birth, Child
from runtime.peers import Reply
from runtime.pod import Pod
from runtime.requests import ExecBirth
from runtime.stdio import Stdio


class Exec:
    """One command. ``start`` it once."""

    def __init__(self, pod: Pod, request: ExecBirth) -> None:
        self.id = request["exec"]
        self.container = request["container"]
        self._request = request
        self._pod = pod
        self._child: Child | None = None
        self._stdio: Stdio | None = None
        self._timer: Timer | None = None
        self._timed_out = False

    def start(self, target: int, reply: Reply) -> None:
        """Have it born beside ``target``, a pidfd of the container's main process.

        ``reply`` is given, with the near ends of its streams, when it has exec'd, or
        when it has failed to and is gone.

        Raises:
            OSError: it was not born; nothing is left of it.
        """
        request, pod = self._request, self._pod
        stdio = self._stdio = Stdio(stdin=request["stdin"], terminal=request["terminal"])
        birth = Birth(
            self.id,
            on_ready=functools.partial(self._on_ready, reply),
            on_failed=functools.partial(self._on_failed, reply),
            on_exit=self._on_exit,
            cgroup=request["cgroup"],
            pid_namespace=target,
        )
        try:
            self._child = pod.children.spawn(birth, pod.launch, reply.script(), [*stdio.theirs, target])
        except BaseException:
            stdio.close()
            raise
        stdio.close_theirs()
        pod.execs[self.id] = self
        if request["timeout"] is not None:
            self._timer = pod.loop.later(request["timeout"], self._on_timeout)

    def kill(self) -> None:
        """SIGKILL to the command and to all that it has started.

        Raises:
            OSError: the kernel refused.
        """
        kill.kill(self._request["cgroup"])
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    def _on_timeout(self) -> None:
        self._timed_out = True
        self.kill()

    def _on_ready(self, reply: Reply, child: Child) -> None:
        if self._stdio is None:
            raise AssertionError("an exec is ready only after its start")
        near = self._stdio.take()
        if child.given:
            near = [child.given.pop()]
        reply.ok({"pid": child.pid}, near)

    def _on_failed(self, reply: Reply, fault: Fault) -> None:
        self._end()
        reply.fail(fault)

    def _on_exit(self, status: int) -> None:
        self._end()
        code, _ = exits.exit_code(status)
        self._pod.announce({"event": "exec_exit", "exec": self.id, "code": code, "timed_out": self._timed_out})

    def _end(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._stdio is not None:
            self._stdio.close()
        self._pod.execs.pop(self.id, None)
