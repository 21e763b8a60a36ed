"""StopPodSandbox: everything in it is killed, its network and namespaces go.

The way down is the way up reversed: the undo of the steps that end with the pod
(``cri.steps.sandbox.ENDS_AT_STOP``). Records, log files and cgroups stay until
RemovePodSandbox.

Invariant: it may be repeated at any point, and an unknown sandbox is stopped already.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec

from cri import intent
from cri.host import Host
from cri.plan.document import decode
from cri.plan.sandbox import SandboxPlan
from cri.rpc.container_stop import kill_container
from cri.state.records import ContainerState, SandboxRecord, SandboxState
from cri.steps.sandbox import ENDS_AT_STOP, plan_steps
from cri.timeline import extend
from proto import api_pb2 as api
from runtime.errors import NotFound
from runtime.steps import Stage


async def stop_pod_sandbox(host: Host, request: api.StopPodSandboxRequest, _context: Any) -> api.StopPodSandboxResponse:
    try:
        record = host.store.sandboxes.get(request.pod_sandbox_id)
    except NotFound:
        return api.StopPodSandboxResponse()
    await host.operations.join(f"stop sandbox {record.id}", lambda: stop_sandbox(host, record.id))
    return api.StopPodSandboxResponse()


async def stop_sandbox(host: Host, id: str) -> None:
    """Idempotent; holds the pod's lock, so that no container starts meanwhile."""
    async with host.lock(id):
        record = host.store.sandbox(id)
        if record is None or record.stopped:
            return
        stages: list[Stage] = []
        if id in host.pods:
            host.pods[id].stopping = True
        await kill_containers(host, id)
        if record.state is SandboxState.READY:  # said first: a kill must leave no READY pod without network
            await host.store.update_sandbox(id, lambda now: stopped(now, [], whole=False))
        plan = decode(record.plan, SandboxPlan)
        ending = [step for step in plan_steps(plan) if isinstance(step, ENDS_AT_STOP)]
        try:
            await intent.undo_all(host, "StopPodSandbox", ending, stages)
        except BaseException:
            await host.store.update_sandbox(id, lambda now: stopped(now, stages, whole=False))
            raise
        await host.store.update_sandbox(id, lambda now: stopped(now, stages, whole=True))


def stopped(record: SandboxRecord, stages: list[Stage], *, whole: bool) -> SandboxRecord:
    return msgspec.structs.replace(
        record, state=SandboxState.NOTREADY, stopped=whole, stages=extend(record.stages, stages)
    )


async def kill_containers(host: Host, sandbox_id: str) -> None:
    """Kill and wait for every running container of the pod, all at once."""
    running = [each for each in host.store.containers_of(sandbox_id) if each.state is ContainerState.RUNNING]
    await asyncio.gather(*(kill_container(host, each.id) for each in running))
