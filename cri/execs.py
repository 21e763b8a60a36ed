"""A command in a running container, as ExecSync and Exec begin it: planned, started, awaited.

The monitor starts it in a cgroup of its own and tells how it ended (``cri.exits``);
what becomes of its streams is the caller's business.

Invariant: a command is in ``LivePod.execs`` until its end is known, whoever waits for it;
then its cgroup goes as soon as it is empty. A normal end kills nothing; a command is killed where it
was ``give_up``, and one whose start nobody waits for any more.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass

from cri.host import Host, LivePod
from cri.plan.container import ContainerPlan, plan_exec, plan_in_force
from cri.plan.document import decode
from cri.state.permitted import Action, check_permitted
from cri.state.records import ContainerRecord
from proto import api_pb2 as api
from runtime.cgroups import tree
from runtime.errors import DeadlineExceeded, FailedPrecondition, Fault, NotFound
from runtime.requests import ExecRequest
from runtime.spec import mapping_of

LOG = logging.getLogger("crisp.exec")


@dataclass(frozen=True, slots=True)
class Exec:
    """A command that runs. ``exited`` gets its code and whether it was killed at its timeout; ``descriptors``,
    the caller's, are stdout, stderr and, if asked for, stdin, or the master of its terminal."""

    pod: LivePod
    name: str
    exited: asyncio.Future[tuple[int, bool]]
    descriptors: list[int]


def find_running(host: Host, container_id: str, action: Action = Action.EXEC) -> tuple[ContainerRecord, LivePod]:
    """The container that ``action`` is asked of, and its pod.

    Raises:
        NotFound: there is no such container.
        FailedPrecondition: it does not run.
    """
    record = host.store.containers.get(container_id)
    check_permitted(record.state, action, record.id)
    pod = host.pods.get(record.sandbox_id)
    if pod is None:
        raise FailedPrecondition("its pod has no monitor", object=f"container {record.id}")
    return record, pod


async def start_exec(
    host: Host, container_id: str, cmd: Sequence[str], *, tty: bool = False, stdin: bool = False, timeout: float = 0
) -> Exec:
    """``timeout`` in seconds, 0 for none; the monitor holds it.

    Raises:
        StartRefused: the command cannot be executed.
        Fault: as ``find_running``, or the host's.
    """
    record, pod = find_running(host, container_id)
    plan = plan_in_force(decode(record.plan, ContainerPlan), api.LinuxContainerResources.FromString(record.resources))
    number = host.next_exec()
    name = f"exec-{number}"
    program = host.profiles.of_container(plan)
    command = plan_exec(plan, cmd, tty=tty, n=number)
    asked: ExecRequest = {
        "container": record.id,
        "exec": name,
        "process": command.process,
        "cgroup": tree.create_exec(host.layout, plan.cgroup, name),
        "seccomp": program.path,
        "seccomp_flags": program.flags,
        "stdin": stdin and not tty,
        "timeout": timeout or None,
    }
    ids = mapping_of(plan.spec["linux"])
    if ids is not None:
        asked["ids"] = ids
    exited = pod.execs[name] = asyncio.get_running_loop().create_future()

    def forget(_: object) -> None:
        if not exited.cancelled():
            exited.exception()  # whoever waited may have gone
        del pod.execs[name]
        host.tasks.spawn(f"remove {name}", remove_exec_cgroup(host, plan.cgroup, name))

    exited.add_done_callback(forget)
    try:
        _, descriptors = await pod.monitor.exec(asked)
    except BaseException as error:
        exited.cancel()
        if isinstance(error, asyncio.CancelledError | DeadlineExceeded):  # it may have begun, or begin yet
            give_up(host, pod, name)
        raise
    return Exec(pod, name, exited, descriptors)


def give_up(host: Host, pod: LivePod, name: str) -> None:
    """Kill a command, with all that it has started, whose end nobody will hear of. Not where the
    daemon stops: what its clients began goes on, as it does when the daemon is killed."""
    if not host.stopping:
        host.tasks.spawn(f"kill {name}", kill_exec(pod, name))


async def kill_exec(pod: LivePod, name: str) -> None:
    try:
        await pod.monitor.kill_exec(name)
    except NotFound:
        return  # it has ended, or was never started
    except Fault as fault:
        LOG.warning("cannot kill %s, which nobody waits for any more: %s", name, fault)


async def remove_exec_cgroup(host: Host, container_cgroup: str, name: str) -> None:
    """Once nothing is in it: what a command left running stays until the container ends."""
    pause = 0.005
    while not tree.remove_exec(host.layout, container_cgroup, name):
        await asyncio.sleep(pause)
        pause = min(pause * 2, 5.0)
