"""UpdatePodSandboxResources: the resources of a pod as a whole, after kubelet has resized it.

A pod cgroup that somebody else made (kubelet's) has been resized by its owner, and not by the
sum of the containers' limits that comes here: it is left alone. One of our own gets the new limits.

Invariant: what the kernel refuses leaves every old value in place; what is stored in the
pod's configuration is what was accepted last.
"""

from __future__ import annotations

import logging
from typing import Any

import msgspec

from cri.host import Host
from cri.plan.document import decode
from cri.plan.resources import add_resources, plan_update
from cri.plan.sandbox import SandboxPlan
from cri.rpc.container_update import apply_update
from cri.state.records import SandboxRecord, SandboxState
from cri.validate.requests import validate_update_pod_sandbox_resources
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition

LOG = logging.getLogger("crisp.resources")


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
    async with host.lock(id):
        record = host.store.sandboxes.get(id)
        if record.state is not SandboxState.READY:
            raise FailedPrecondition("is not ready; only a ready pod can be updated", object=f"sandbox {id}")
        plan = decode(record.plan, SandboxPlan)
        if plan.cgroup_owned and plan.cgroup_parent != "/":
            change = plan_update(add_resources(request.resources, request.overhead))
            for note in apply_update(host, plan.cgroup_parent, change):
                LOG.info("%s", note, extra={"sandbox_id": id})
        await host.store.update_sandbox(id, lambda now: with_resources(now, request))
    return api.UpdatePodSandboxResourcesResponse()


def with_resources(record: SandboxRecord, request: api.UpdatePodSandboxResourcesRequest) -> SandboxRecord:
    config = api.PodSandboxConfig.FromString(record.config)
    for field in ("overhead", "resources"):
        if request.HasField(field):
            getattr(config.linux, field).CopyFrom(getattr(request, field))
    return msgspec.structs.replace(record, config=config.SerializeToString())
