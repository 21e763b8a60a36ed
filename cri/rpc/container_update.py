"""UpdateContainerResources: new limits for a container that exists.

Invariant: what the kernel refuses leaves every old value in place, and
ContainerStatus shows what is in force.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Mapping
from typing import Any

import msgspec

from cri.host import Host
from cri.plan.container import ContainerPlan
from cri.plan.document import decode, encode
from cri.plan.resources import merge_resources, plan_update
from cri.state.permitted import Action, check_permitted
from cri.state.records import ContainerRecord, ContainerState
from cri.steps.container import discard_prepared
from cri.validate.requests import validate_update_container_resources
from proto import api_pb2 as api
from runtime.cgroups import tree
from runtime.cgroups.limits import apply_oom_score_adj, apply_writes, read_current, refuse_below_use
from runtime.cgroups.resources import Resources, plan_writes
from runtime.errors import FailedPrecondition, Fault, HostFault, InvalidArgument

LOG = logging.getLogger("crisp.resources")

REFUSALS: Mapping[int, type[Fault]] = {
    errno.EBUSY: FailedPrecondition,
    errno.EINVAL: InvalidArgument,
    errno.ERANGE: InvalidArgument,
    errno.ENOENT: FailedPrecondition,
    errno.ENOSPC: FailedPrecondition,
}
"""What the kernel's answer to a limit means: EBUSY that it is below what is used (v1), ENOENT that it has no
such file, ENOSPC that a CPU set would be empty."""


async def update_container_resources(
    host: Host, request: api.UpdateContainerResourcesRequest, _context: Any
) -> api.UpdateContainerResourcesResponse:
    """Zero and empty fields leave things as they are."""
    validate_update_container_resources(request, host.facts)
    id = host.store.containers.get(request.container_id).id
    async with host.lock(id):
        record = host.store.containers.get(id)
        check_permitted(record.state, Action.UPDATE, id)
        change = plan_update(request.linux)
        if record.state is ContainerState.CREATED:  # what is prepared has the old values
            await discard_prepared(host, record.sandbox_id, id)
        cgroup = decode(record.plan, ContainerPlan).cgroup
        notes = apply_update(host, cgroup, change)
        if change.oom_score_adj is not None:
            note = apply_oom_score_adj(tree.procs(host.layout, cgroup), change.oom_score_adj)
            notes += [note] if note else []
        for note in notes:
            LOG.info("%s", note, extra={"container_id": id})
        await host.store.update_container(id, lambda now: with_resources(now, request.linux))
    return api.UpdateContainerResourcesResponse()


def apply_update(host: Host, cgroup: str, change: Resources) -> list[str]:
    """New limits for a cgroup that exists; what is to be noted about it.

    Raises:
        FailedPrecondition: a limit is below what is used.
        InvalidArgument: the kernel takes the value for none.
        HostFault: it refused for another reason. All old values are in force.
    """
    planned = plan_writes(change, host.layout, read_current(host.layout, cgroup))
    refuse_below_use(planned, host.layout, cgroup)
    try:
        return list(apply_writes(planned, host.layout, cgroup, restore=True))
    except HostFault as fault:
        kind = REFUSALS.get(fault.errno or 0) if fault.call == "write" else None
        if kind is None:
            raise
        raise kind(str(fault)) from fault


def with_resources(record: ContainerRecord, change: api.LinuxContainerResources) -> ContainerRecord:
    """The record with what is in force now; also for what is started or executed later."""
    merged = merge_resources(api.LinuxContainerResources.FromString(record.resources), change)
    plan = decode(record.plan, ContainerPlan)
    plan.spec["process"]["oomScoreAdj"] = merged.oom_score_adj
    return msgspec.structs.replace(record, resources=merged.SerializeToString(), plan=encode(plan))
