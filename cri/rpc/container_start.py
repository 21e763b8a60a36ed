"""StartContainer: the process that was prepared becomes the entrypoint; where there is none, one is born.

Invariant: under the pod's and the container's lock, so the exit of a container
that ends at once is recorded after its start. A start refused for a reason of
the request or image makes the container EXITED (StartError, 128); one that
failed for a reason of the host leaves it CREATED, to be tried again.
"""

from __future__ import annotations

import json
import time
from typing import Any

import msgspec

from cri import intent
from cri.exits import settle_container
from cri.host import Host
from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.rpc.container_create import ready_sandbox
from cri.state.journal import Operation
from cri.state.permitted import Action, check_permitted
from cri.state.records import ContainerRecord, ContainerState
from cri.steps.container import StartInit
from cri.timeline import extend
from proto import api_pb2 as api
from runtime.errors import StartRefused
from runtime.steps import Stage

START_ERROR_CODE = 128
"""The exit code of a container that could not be started, as the field reports it."""


def start_key(container_id: str) -> str:
    return json.dumps(["start", container_id])


async def start_container(host: Host, request: api.StartContainerRequest, context: Any) -> api.StartContainerResponse:
    record = host.store.containers.get(request.container_id)

    async def work(operation: Operation) -> None:
        async with host.lock(record.sandbox_id), host.lock(record.id):
            await start(host, record.id, operation)
        if record.sandbox_id not in host.pods:  # its monitor died when this container did not run yet for the records
            await settle_container(host, record, host.pod_directory(record.sandbox_id), "the pod's monitor ended")

    full = api.StartContainerRequest(container_id=record.id)
    await intent.run(host, context, start_key(record.id), full, work, lambda: record.id)
    return api.StartContainerResponse()


async def start(host: Host, id: str, operation: Operation) -> None:
    record = host.store.containers.get(id)
    check_permitted(record.state, Action.START, id)
    ready_sandbox(host, record.sandbox_id)
    step = StartInit(record.sandbox_id, id, decode(record.plan, ContainerPlan).cgroup)
    try:
        await intent.carry_out(host, operation, [step], lambda stages: record_running(host, id, stages))
    except StartRefused as refused:
        why = str(refused)
        await host.store.update_container(id, lambda now: record_refused(now, why, time.time_ns()))
        host.exited(id).set()
        raise


def record_running(host: Host, id: str, stages: list[Stage]) -> ContainerRecord:
    record = host.store.containers.get(id)
    started = host.started.pop(id)
    if started.oom_score_adj is not None:
        record = with_score(record, started.oom_score_adj)
    return msgspec.structs.replace(
        record,
        state=ContainerState.RUNNING,
        pid=started.pid,
        started_at=started.at,
        stages=extend(record.stages, stages),
    )


def with_score(record: ContainerRecord, oom_score_adj: int) -> ContainerRecord:
    """The score that the host has allowed, instead of the one that was asked for."""
    resources = api.LinuxContainerResources.FromString(record.resources)
    resources.oom_score_adj = oom_score_adj
    return msgspec.structs.replace(record, resources=resources.SerializeToString())


def record_refused(record: ContainerRecord, why: str, now: int) -> ContainerRecord:
    return msgspec.structs.replace(
        record,
        state=ContainerState.EXITED,
        exit_code=START_ERROR_CODE,
        reason="StartError",
        message=why,
        started_at=now,
        finished_at=now,
    )
