"""UpdateContainerResources: new limits for a container that exists.

What is asked for is merged into what is in force, the kernel gets it by numbered steps
(``cri.steps.limits``), and its answer is read back once, for ContainerStatus.

Invariant: what the kernel refuses leaves every old value in place, and
ContainerStatus shows what is in force, also after the daemon was killed in between.
"""

from __future__ import annotations

import json
from typing import Any

from cri import intent
from cri.host import Host
from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.plan.resources import merge_resources, plan_update
from cri.state.journal import Operation
from cri.state.permitted import Action, check_permitted
from cri.state.records import ContainerRecord, ContainerState
from cri.steps.limits import (
    LimitStep,
    SetContainerLimits,
    SetOomScore,
    plan_change,
    read_told,
    read_told_score,
    with_resources,
)
from cri.validate.requests import validate_update_container_resources
from proto import api_pb2 as api
from runtime.cgroups.in_force import read_current
from runtime.cgroups.resources import plan_writes
from runtime.steps import Stage

OPERATION = "UpdateContainerResources"


def update_key(id: str) -> str:
    return json.dumps(["update", id])


async def update_container_resources(
    host: Host, request: api.UpdateContainerResourcesRequest, _context: Any
) -> api.UpdateContainerResourcesResponse:
    """Zero and empty fields leave things as they are."""
    validate_update_container_resources(request, host.facts)
    id = host.store.containers.get(request.container_id).id

    async def work(operation: Operation) -> None:
        async with host.lock(id):
            await update(host, id, request.linux, operation)

    await intent.change(host, update_key(id), OPERATION, id, work)
    return api.UpdateContainerResourcesResponse()


async def update(host: Host, id: str, change: api.LinuxContainerResources, operation: Operation) -> None:
    record = host.store.containers.get(id)
    check_permitted(record.state, Action.UPDATE, id)
    cgroup = decode(record.plan, ContainerPlan).cgroup
    asked = merge_resources(api.LinuxContainerResources.FromString(record.resources), change)

    async def store(_stages: list[Stage]) -> None:
        told = read_told(host, cgroup, asked)
        if change.oom_score_adj:
            told.oom_score_adj = read_told_score(host, record, cgroup, asked.oom_score_adj)
        await host.store.update_container(id, lambda now: with_resources(now, told), end=operation.key)

    await intent.carry_out_change(host, operation, plan_steps(host, record, cgroup, change, asked), store)


def plan_steps(
    host: Host,
    record: ContainerRecord,
    cgroup: str,
    change: api.LinuxContainerResources,
    asked: api.LinuxContainerResources,
) -> list[LimitStep]:
    """The processes before the limits: where old limits cannot come back, undoing goes by the record that says so."""
    planned = plan_update(change)
    limits = plan_writes(planned, host.layout, read_current(host.layout, cgroup))
    steps: list[LimitStep] = []
    if planned.oom_score_adj is not None and record.state is ContainerState.RUNNING:
        steps.append(SetOomScore(record.id, cgroup, planned.oom_score_adj))
    made = plan_change(host, cgroup, limits)
    steps.append(SetContainerLimits(record.sandbox_id, record.id, made, asked.SerializeToString()))
    return steps
