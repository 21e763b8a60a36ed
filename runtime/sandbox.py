"""The pod's sandbox, as its monitor sees it: its namespaces and pause.

``runtime.monitor`` calls ``create`` once, for a pod of the pool ``create_blank`` before. The process
that makes a blank pod's namespaces stays, to become pause when the daemon tells it to
(``runtime.blank_init``), of which the monitor hears as it happens; ``create`` is then for
pods that need more, or whose blank init has been killed.
``runtime.pause`` writes the scripts of all.

Invariant: pause runs in every namespace that the pod has for itself; a sandbox
that could not be created has left nothing, and can be created again.
"""

from __future__ import annotations

import functools
import os
import signal

from runtime import exits
from runtime.cgroups import kill
from runtime.errors import FailedPrecondition, Fault, HostFault
from runtime.linux.namespaces import CLONE_NEWPID
from runtime.newborn import Birth, Child
from runtime.peers import Reply
from runtime.pod import Pod
from runtime.requests import PAUSE_ROOT, CgroupDirs, SandboxBirth


class Sandbox:
    """``state`` is absent, made, or ended (pause has exited)."""

    def __init__(self, pod: Pod) -> None:
        self.state = "absent"
        self._pod = pod
        self._blank: Child | None = None
        self._born = False
        """Whether pause is what was the blank pod's process."""
        self._pause: Child | None = None
        self._cgroup: CgroupDirs | None = None

    @property
    def pause_pid(self) -> int | None:
        """None where pause does not run."""
        return None if self._pause is None else self._pause.pid

    def create_blank(self, kinds: list[str], reply: Reply) -> None:
        """Have a child make the namespaces ``kinds``, not that of processes, and a root for pause, and wait.

        ``reply`` has a descriptor of each and, with the network, a routing socket inside it. What comes to the
        child through the second descriptor of the request is the daemon's matter.

        Raises:
            FailedPrecondition: the pod has namespaces already.
            OSError: it was not born.
        """
        if self.state != "absent" or self._pod.namespaces:
            raise FailedPrecondition("the pod has its namespaces already")
        script, daemon = reply.expect(2)
        birth = Birth(
            "blank pod",
            on_word=functools.partial(self._on_blank, kinds, reply),
            on_reborn=self._on_reborn,
            on_ready=functools.partial(self._on_blank_ready, reply),
            on_failed=functools.partial(self._on_unborn, reply),
            on_exit=self._on_blank_exit,
        )
        self._blank = self._pod.children.spawn(birth, self._pod.launch, script, [daemon])

    def create(self, request: SandboxBirth, reply: Reply) -> None:
        """Have a child make the namespaces, or enter those of the blank pod, and become pause.

        ``reply`` is given once pause runs, or is gone: with a descriptor for each of
        ``request["new"]``, in order, and, if the network is one of them, a routing socket
        inside it.

        Raises:
            FailedPrecondition: there is a sandbox, or not what it is to hold.
            OSError: it was not born; nothing has been made.
        """
        if self.state != "absent":
            raise FailedPrecondition("the pod has its sandbox already")
        held, kinds = self._pod.held(request["held"]), request["new"]
        birth = Birth(
            "pause",
            on_ready=functools.partial(self._on_ready, kinds, reply),
            on_failed=functools.partial(self._on_failed, reply),
            on_exit=self._on_exit,
            cgroup=request["cgroup"],
            flags=CLONE_NEWPID if "pid" in kinds and "user" not in kinds else 0,
        )
        self._end_blank()
        self._pause = self._pod.children.spawn(birth, self._pod.launch, reply.script(), held)
        self._cgroup = request["cgroup"]
        self.state = "made"

    def kill(self) -> None:
        """SIGKILL to pause, and so to all in a PID namespace of which it is the init.

        Raises:
            OSError: the kernel refused.
        """
        self._end_blank()
        if self._pause is not None:
            if self._cgroup is not None:
                kill.kill(self._cgroup)
            self._pause.signal(signal.SIGKILL)

    def _end_blank(self) -> None:
        blank, self._blank = self._blank, None
        if blank is not None:
            blank.signal(signal.SIGKILL)

    def _on_blank(self, kinds: list[str], reply: Reply, child: Child) -> None:
        self._pod.namespaces[PAUSE_ROOT] = child.given.pop()
        self._hand_over(kinds, reply, child)

    def _on_reborn(self, child: Child) -> None:
        """The blank pod's process goes on as the one that becomes pause, which a daemon that comes anew finds from now
        on: the other one may be in no hurry to end."""
        if child is self._blank:
            self._blank, self._pause, self._born, self.state = None, child, True, "made"
            self._close_root()

    def _on_blank_ready(self, reply: Reply, child: Child) -> None:
        """It has executed pause, or ended."""
        if not reply.given:
            reply.fail(HostFault("the process ended without them", step="make blank namespaces"))

    def _on_unborn(self, reply: Reply, fault: Fault) -> None:
        self._blank = None
        if not reply.given:
            reply.fail(fault)

    def _on_ready(self, kinds: list[str], reply: Reply, child: Child) -> None:
        self._close_root()
        self._hand_over(kinds, reply, child)

    def _close_root(self) -> None:
        if PAUSE_ROOT in self._pod.namespaces:  # pause is in it, and nobody else will be
            os.close(self._pod.namespaces.pop(PAUSE_ROOT))

    def _hand_over(self, kinds: list[str], reply: Reply, child: Child) -> None:
        given = list(child.given)
        child.given.clear()
        self._pod.namespaces.update(zip(kinds, given, strict=False))
        # The namespaces' are ours from now on; the routing socket, the last, is the daemon's alone.
        handed = map(os.dup, given[: len(kinds)])
        reply.ok({"pause_pid": child.pid}, [*handed, *given[len(kinds) :]])

    def _on_failed(self, reply: Reply, fault: Fault) -> None:
        self._pause = None
        self.state = "absent"
        reply.fail(fault)

    def _on_blank_exit(self, status: int) -> None:
        if self._born:
            self._on_exit(status)
        else:
            self._blank = None

    def _on_exit(self, status: int) -> None:
        self._pause = None
        self.state = "ended"
        self._pod.announce({"event": "pause_exit", "code": exits.exit_code(status)[0]})
