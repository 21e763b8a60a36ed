"""UpdatePodSandboxResources: the resources of a pod as a whole, after kubelet has resized it.

A pod cgroup that somebody else made (kubelet's) has been resized by its owner, and not by the
sum of the containers' limits that comes here: it is left alone. One of our own gets the new limits.

Invariant: what the kernel refuses leaves every old value in place; what is stored in the
pod's configuration is what was accepted last.
"""

from __future__ import annotations

from typing import Any

from cri import intent
from cri.host import Host
from cri.plan.document import decode
from cri.plan.resources import add_resources, plan_update
from cri.plan.sandbox import SandboxPlan
from cri.rpc.container_update import update_key
from cri.state.journal import Operation
from cri.state.records import SandboxState
from cri.steps.limits import SetPodLimits, plan_change, with_pod_resources
from cri.validate.requests import validate_update_pod_sandbox_resources
from proto import api_pb2 as api
from runtime.cgroups.in_force import read_current
from runtime.cgroups.resources import plan_writes
from runtime.errors import FailedPrecondition
from runtime.steps import Stage

OPERATION = "UpdatePodSandboxResources"


async def update_pod_sandbox_resources(
    host: Host, request: api.UpdatePodSandboxResourcesRequest, _context: Any
) -> api.UpdatePodSandboxResourcesResponse:
    """
    Raises:
        NotFound: no such pod.
        FailedPrecondition: it is not ready, or the kernel refuses a limit that is below the use.
    """
    validate_update_pod_sandbox_resources(request, host.facts)
    id = host.store.sandboxes.get(request.pod_sandbox_id).id

    async def work(operation: Operation) -> None:
        async with host.lock(id):
            await update(host, id, request, operation)

    await intent.change(host, update_key(id), OPERATION, id, work)
    return api.UpdatePodSandboxResourcesResponse()


async def update(host: Host, id: str, request: api.UpdatePodSandboxResourcesRequest, operation: Operation) -> None:
    record = host.store.sandboxes.get(id)
    if record.state is not SandboxState.READY:
        raise FailedPrecondition("is not ready; only a ready pod can be updated", object=f"sandbox {id}")

    async def store(_stages: list[Stage]) -> None:
        await host.store.update_sandbox(id, lambda now: with_pod_resources(now, request), end=operation.key)

    cgroup = decode(record.plan, SandboxPlan).own_cgroup
    if cgroup is None:
        return await store([])
    asked = plan_update(add_resources(request.resources, request.overhead))
    limits = plan_writes(asked, host.layout, read_current(host.layout, cgroup))
    step = SetPodLimits(id, plan_change(host, cgroup, limits), request.SerializeToString())
    await intent.carry_out_change(host, operation, [step], store)
