"""One container, as its monitor sees it: started, logged, signalled, its exit recorded.

``runtime.init`` writes how the child becomes the container; ``runtime.output`` carries
what it writes. ``runtime.monitor`` calls the methods by the operations of the same names.

Invariant: after the exit record no process of the container runs, except one that
the kernel cannot kill; and its log is closed within ``output.DRAIN_SECONDS``.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable

from runtime import channel, exits
from runtime.cgroups import kill
from runtime.channel import Message
from runtime.errors import FailedPrecondition, Fault, HostFault, NotFound
from runtime.linux import terminal
from runtime.linux.namespaces import CLONE_NEWPID
from runtime.newborn import Birth, Child
from runtime.output import Output
from runtime.peers import Reply
from runtime.pod import Pod
from runtime.requests import ContainerBirth, ExitRecord
from runtime.stdio import Stdio


class Container:
    """``state`` is prepared, starting, running or exited."""

    def __init__(self, pod: Pod, request: ContainerBirth) -> None:
        self.id = request["container"]
        self.state = "starting"
        self.record: ExitRecord | None = None
        self.stdin: int | None = None
        """What those who attach type into, its terminal or a pipe; None without one."""
        self._takes_input, self._terminal = request["stdin"], request["terminal"]
        # Not the request itself: most of it is of no use once the container runs, and large.
        self._cgroup = request["cgroup"]
        self._memory_events = request["memory_events"]
        self._pod = pod
        self._child: Child | None = None
        self._reply: Reply | None = None
        """Who asked for the start; None until then."""
        self._gone: Callable[[], None] = _ignore
        self._oom_kills = self._count_oom_kills()
        directory = request.get("log_directory", "")
        self._output = Output(pod, self.id, request["log_path"], directory, self._on_output_end)
        try:
            self._stdio = Stdio(stdin=request["stdin"], terminal=request["terminal"])
        except BaseException:
            self._output.close()
            raise

    @property
    def pidfd(self) -> int:
        """A pidfd of the main process.

        Raises:
            FailedPrecondition: it does not run.
        """
        if self.state != "running" or self._child is None or self._child.pidfd < 0:
            raise FailedPrecondition("is not running", object=self.id)
        return self._child.pidfd

    def describe(self) -> Message:
        """Its line in the answer to hello."""
        return {
            "pid": 0 if self._child is None else self._child.pid,
            "state": "exited" if self.state == "exited" else "running",
            "exit": self.record,
            "log_dropped": self._output.dropped,
        }

    def start(self, request: ContainerBirth, reply: Reply) -> None:
        """Have it born; ``reply`` is given when it has exec'd, or has failed to and is gone.

        Raises:
            Fault: it was not born; nothing is left of it.
        """
        self._bear(request, reply.script())
        self._begin(reply)

    def prepare(self, request: ContainerBirth, script: int, gone: Callable[[], None]) -> None:
        """Have it born with a ``script`` that waits; ``gone`` is called if it ends before ``release``.

        Raises:
            Fault: as ``start``.
        """
        self._bear(request, script)
        self._gone = gone
        self.state = "prepared"

    def release(self, reply: Reply) -> bool:
        """Let it go on with its script; ``reply`` as in ``start``. False if it has ended: nothing has changed."""
        if self._child is None or self._child.ended or not self._child.release():
            return False
        self._begin(reply)
        return True

    def give_up(self) -> None:
        """End what is prepared."""
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    def _begin(self, reply: Reply) -> None:
        self._reply, self._gone = reply, _ignore
        self.state = "starting"
        self._pod.containers[self.id] = self

    def _bear(self, request: ContainerBirth, script: int) -> None:
        pod = self._pod
        try:
            pid_namespace, flags = self._pid_namespace(request)
            birth = Birth(
                self.id,
                on_ready=self._on_ready,
                on_failed=self._on_failed,
                on_exit=self._on_exit,
                cgroup=self._cgroup,
                pid_namespace=pid_namespace,
                flags=flags,
            )
            given = [*self._stdio.theirs, *pod.held(request["joined"])]
            self._child = pod.children.spawn(birth, pod.launch, script, given)
        except BaseException:
            self._close()
            raise
        self._stdio.close_theirs()

    def signal(self, number: int) -> None:
        """Signal the main process; nothing happens if it has just ended.

        Raises:
            Fault: it was never started, or the kernel refused.
        """
        if self._child is None:
            raise FailedPrecondition("is not running", object=self.id)
        self._child.signal(number)

    def kill(self) -> None:
        """SIGKILL to every process of the container, its execs included.

        Raises:
            OSError: the kernel refused.
        """
        if self._child is not None and not self._child.ended:
            self._oom_kills = self._count_oom_kills()  # that of a child, which the main process has survived
        kill.kill(self._cgroup)
        if self._child is not None:
            self._child.signal(signal.SIGKILL)

    def reopen_log(self) -> None:
        """Go on in a new file at the log's path.

        Raises:
            Fault: the container has ended, or the file cannot be made; the old one stays in use.
        """
        self._output.reopen()

    def attach(self, id: str, streams: list[str], stdin: bool) -> list[int]:
        """Let the client ``id`` listen to ``streams``: a descriptor each, and last one to type into,
        if ``stdin`` is asked for and there is one; all the caller's.

        Raises:
            FailedPrecondition: it does not run.
            OSError: descriptors are short; nothing is left open.
        """
        if self.state != "running":
            raise FailedPrecondition("is not running", step="attach", object=self.id)
        typed = [os.dup(self.stdin)] if stdin and self.stdin is not None else []
        try:
            return self._output.attach(id, streams) + typed
        except BaseException:
            channel.close_all(typed)
            raise

    def close_stdin(self) -> None:
        """Nobody types any more; a pipe ends with the last client that holds it."""
        if self.stdin is not None:
            channel.close_all([self.stdin])
            self.stdin = None

    def resize(self, width: int, height: int) -> None:
        """Say how large its terminal is, in characters; it gets SIGWINCH.

        Raises:
            FailedPrecondition: it has none, or has closed it.
        """
        source = self._output.source
        if not self._terminal or source is None:
            raise FailedPrecondition("has no terminal", step="resize", object=self.id)
        terminal.resize(source, width, height)

    def _pid_namespace(self, request: ContainerBirth) -> tuple[int | None, int]:
        """``(descriptor to be born in, clone flags)`` of the request's PID mode."""
        mode, pod = request["pid_mode"], self._pod
        if mode == "container":  # one that belongs to the pod's user namespace its script makes (``be_reborn``)
            return None, 0 if "user" in request["joined"] else CLONE_NEWPID
        if mode == "node":
            return None, 0
        if mode == "pod":
            if "pid" not in pod.namespaces:
                raise FailedPrecondition("the pod has no PID namespace", object=self.id)
            return pod.namespaces["pid"], 0
        target = pod.containers.get(request["target"] or "")
        if target is None:
            raise NotFound("no such container to share a PID namespace with", object=request["target"] or "")
        return target.pidfd, 0

    def _on_ready(self, child: Child) -> None:
        if self._reply is None:
            return  # killed while it waited; its exit follows
        self.state = "running"
        if child.given:
            master = child.given.pop()
            self.stdin = os.dup(master) if self._takes_input else None
            self._output.watch(master, "stdout")
        else:
            stdout, stderr, *stdin = self._stdio.take()
            self._output.watch(stdout, "stdout")
            self._output.watch(stderr, "stderr")
            if stdin:
                self.stdin = stdin[0]
                os.set_blocking(self.stdin, False)
        self._reply.ok({"pid": child.pid, "started_at": time.time_ns()})

    def _on_failed(self, fault: Fault) -> None:
        self._close()
        if self._reply is None:
            return self._gone()  # the start tries again, and tells
        self._pod.containers.pop(self.id, None)
        self._reply.fail(fault)

    def _on_exit(self, status: int) -> None:
        if self._reply is None:
            self._close()
            return self._gone()
        finished_at = time.time_ns()
        code, number = exits.exit_code(status)
        oom = number == signal.SIGKILL and self._count_oom_kills() > self._oom_kills
        self.state = "exited"
        try:
            kill.kill(self._cgroup)
        except OSError as error:
            self._pod.note(f"kill what is left of {self.id}: {error}")
        self._output.drain()
        self.record = {
            "container": self.id,
            "pid": 0 if self._child is None else self._child.pid,
            "code": code,
            "signal": number,
            "oom": oom,
            "finished_at": finished_at,
        }
        if self._output.dropped:
            self.record["log_dropped"] = self._output.dropped
        try:
            exits.write_exit(self._pod.exits, self.record)
        except HostFault as error:
            self._pod.note(str(error))  # hello and the event still tell
        self._pod.announce({"event": "exit", "record": self.record})

    def _count_oom_kills(self) -> int:
        path = self._memory_events
        try:
            return 0 if path is None else kill.oom_kills(path)
        except OSError as error:
            self._pod.note(f"count OOM kills of {self.id}: {error}")
            return 0

    def _on_output_end(self) -> None:
        """There is nothing to wait for any more. What is typed into a terminal goes with its output."""
        if self._terminal:
            self.close_stdin()
        if self.state == "exited":
            self._close()

    def _close(self) -> None:
        """Let go of its pipes, its stdin and its log."""
        self._stdio.close()
        self.close_stdin()
        self._output.close()


def _ignore() -> None:
    """Nobody has to be told."""
