"""RunPodSandbox: a pod is born. Read this page to see how.

validate, find the profiles -> reserve, join or adopt -> take a blank pod (``cri.pool``) if one is
ready -> plan -> record the intent -> apply the steps of ``cri.steps.sandbox`` that
the blank pod has not behind it -> record READY.

Invariant: nothing is done before the intent is stored, and what was begun is
either a READY sandbox in the store or undone.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncIterator
from typing import Any

from cri import intent
from cri.confinement import confine
from cri.exits import watch_monitor
from cri.host import Host
from cri.plan.document import encode
from cri.plan.network import plan_ports
from cri.plan.sandbox import SandboxIds, SandboxPlan, cgroup_parent, plan_ids, plan_sandbox
from cri.plan.security import Confinement
from cri.state.journal import Operation
from cri.state.records import MonitorRecord, SandboxRecord, SandboxState
from cri.state.store import sandbox_key
from cri.steps.sandbox import blank_done, maker, plan_steps
from cri.timeline import to_records
from cri.validate.sandbox import validate_run_pod_sandbox
from proto import api_pb2 as api
from runtime.cgroups import tree
from runtime.steps import Stage


async def run_pod_sandbox(host: Host, request: api.RunPodSandboxRequest, context: Any) -> api.RunPodSandboxResponse:
    validate_run_pod_sandbox(request, host.facts)
    confinement = await confine(host, request.config.linux.security_context, ())
    meta = request.config.metadata
    key = sandbox_key(meta.name, meta.namespace, meta.uid, meta.attempt)

    async def work(operation: Operation) -> None:
        await make_sandbox(host, request, operation, confinement)

    id = await intent.run(host, context, key, request, work, lambda: new_id(host, request.config))
    return api.RunPodSandboxResponse(pod_sandbox_id=id)


def new_id(host: Host, config: api.PodSandboxConfig) -> str:
    """That of a blank pod, where one is ready and fits."""
    blank = host.pool.take(host.provider) if fits_blank(config) else None
    return blank or secrets.token_hex(32)


def fits_blank(config: api.PodSandboxConfig) -> bool:
    """Whether the pod has all the namespaces that a blank one has, which are the host's root's, and no host port,
    as that has none."""
    options = config.linux.security_context.namespace_options
    own = options.network == api.POD and options.ipc == api.POD and plan_ids(options) is None
    return own and not any(port.host_port for port in config.port_mappings)


async def make_sandbox(
    host: Host, request: api.RunPodSandboxRequest, operation: Operation, confinement: Confinement
) -> None:
    """The work behind the RPC, which outlives its caller."""
    ids = SandboxIds(operation.object_id, host.instance)
    blank = host.pods.get(ids.id)
    try:
        exists = tree.exists(host.layout, cgroup_parent(request.config, ids, host.facts))
        provider = (blank and blank.provider) or host.provider
        plan = plan_sandbox(
            request.config,
            ids,
            host.settings,
            host.facts,
            parent_exists=exists,
            provider=provider,
            confinement=confinement,
        )
    except BaseException:
        if blank:
            await host.pool.drop(ids.id)
        raise

    def finish(stages: list[Stage]) -> SandboxRecord:
        return record_ready(host, request, plan, stages)

    host.configs[plan.id], host.plans[plan.id] = request.config, plan
    try:
        async with reserved(host, plan, operation):
            await intent.carry_out(host, operation, plan_steps(plan), finish, blank_done(blank, plan) if blank else ())
    finally:
        del host.configs[plan.id], host.plans[plan.id]
    watch_monitor(host, plan.id, host.pods[plan.id].monitor)


@contextlib.asynccontextmanager
async def reserved(host: Host, plan: SandboxPlan, operation: Operation) -> AsyncIterator[None]:
    """While the pod is being made, nobody else gets its host ports.

    Raises:
        FailedPrecondition: another pod has one. Nothing was done for this one yet.
    """
    ports = plan_ports(host.configs[plan.id])
    if not ports:
        yield
        return
    await intent.settle_debt(host, operation.key)  # an earlier try for the same pod may hold them still
    async with host.network[maker(plan)].reserve(plan.id, ports):
        yield


def record_ready(
    host: Host, request: api.RunPodSandboxRequest, plan: SandboxPlan, stages: list[Stage]
) -> SandboxRecord:
    """The READY record; the descriptors of its making are closed, the pins hold from here on."""
    pod = host.pods[plan.id]
    pod.close_descriptors()
    meta = request.config.metadata
    return SandboxRecord(
        id=plan.id,
        name=meta.name,
        namespace=meta.namespace,
        uid=meta.uid,
        attempt=meta.attempt,
        config=request.config.SerializeToString(),
        plan=encode(plan),
        runtime_handler=request.runtime_handler,
        created_at=time.time_ns(),
        state=SandboxState.READY,
        boot_id=host.boot_id,
        addresses=pod.addresses,
        monitor=MonitorRecord(pod.monitor.pid, pod.monitor.start_time),
        pause_pid=pod.pause_pid,
        stages=to_records(stages),
    )
