"""StopContainer: the stop signal, the grace, then SIGKILL for all of its cgroup.

Invariant: the wait belongs to the caller. A cancelled stop escalates nothing, a
second one with a shorter grace overtakes the first, and any number of stops wait for
the end without holding a lock or a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Any

from cri.exits import end_process, settle_container
from cri.host import Host
from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.state.records import ContainerRecord, ContainerState
from cri.validate.requests import validate_stop_container
from proto import api_pb2 as api
from runtime.cgroups import kill as cgroup_kill
from runtime.cgroups import layout as cgroup_layout
from runtime.errors import DeadlineExceeded, Fault, NotFound

LOG = logging.getLogger("crisp.stop")

KILL_PATIENCE = 10.0
"""Seconds for the kernel to end a killed container; longer means an uninterruptible call."""


async def stop_container(host: Host, request: api.StopContainerRequest, _context: Any) -> api.StopContainerResponse:
    """``timeout`` in seconds; 0 kills at once.

    Raises:
        DeadlineExceeded: killed, and still there (a process in an uninterruptible call).
    """
    validate_stop_container(request)
    try:
        record = host.store.containers.get(request.container_id)
    except NotFound:
        return api.StopContainerResponse()
    if record.state is ContainerState.CREATED:
        record = await wait_started(host, record)
    if record.state is not ContainerState.RUNNING:
        return api.StopContainerResponse()
    if request.timeout == 0 or not await ask(host, record, float(request.timeout)):
        await kill_container(host, record.id)
    return api.StopContainerResponse()


async def wait_started(host: Host, record: ContainerRecord) -> ContainerRecord:
    """The record once no start is under way: a container that was stopped must not run afterwards,
    and a start, which has the pod's lock, goes on though its client has gone."""
    async with host.lock(record.sandbox_id):
        return host.store.container(record.id) or record


async def ask(host: Host, record: ContainerRecord, grace: float) -> bool:
    """Send the stop signal and wait; whether the container ended within ``grace`` seconds."""
    plan = decode(record.plan, ContainerPlan)
    pod = host.pods.get(record.sandbox_id)
    if pod is not None:
        with contextlib.suppress(Fault):  # it may end at this very moment; the wait will tell
            await pod.monitor.signal(record.id, plan.stop_signal)
    return await wait_exit(host, record.id, grace)


async def wait_exit(host: Host, id: str, seconds: float) -> bool:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(host.exited(id).wait(), seconds)
    return is_over(host, id)


def is_over(host: Host, id: str) -> bool:
    record = host.store.container(id)
    return record is None or record.state is not ContainerState.RUNNING


async def kill_container(host: Host, id: str) -> None:
    """SIGKILL to all of the container's cgroup, until its exit is recorded. Idempotent.

    A monitor that does not even answer is ended, and the whole pod with it.

    Raises:
        DeadlineExceeded: it did not end.
    """
    record = host.store.container(id)
    if record is None or record.state is not ContainerState.RUNNING:
        return
    pod = host.pods.get(record.sandbox_id)
    if pod is not None:
        try:
            await pod.monitor.kill(id)
        except DeadlineExceeded as hangs:
            LOG.error("ends the monitor: %s", hangs, extra={"sandbox_id": record.sandbox_id})
            end_process(pod.monitor.pid, pod.monitor.start_time)
        except Fault as fault:
            LOG.debug("%s", fault, extra={"container_id": id})
    else:  # nobody else will tell how it ended
        plan = decode(record.plan, ContainerPlan)
        cgroup_kill.kill(cgroup_layout.dirs(host.layout, plan.cgroup))
        await settle_container(host, record, host.pod_directory(record.sandbox_id), "its monitor was not there")
    if not await wait_exit(host, id, KILL_PATIENCE):
        raise DeadlineExceeded(
            f"still there {KILL_PATIENCE:g} s after SIGKILL: {blocked_in(record.pid)}",
            step="kill",
            object=f"container {id}",
        )


def blocked_in(pid: int) -> str:
    """What the kernel says process ``pid`` waits for, for the error message."""
    with contextlib.suppress(OSError), open(f"/proc/{pid}/wchan", encoding="ascii") as file:
        return f"process {pid} waits in {file.read() or 'no kernel function'}"
    return f"process {pid} cannot be looked at"
