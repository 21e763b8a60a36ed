"""CreateContainer: a container is planned, its places are made, its init waits.

validate, find the profiles -> reserve, join or adopt -> image and user -> plan -> record the intent
-> directories, cgroup, an init that waits to be released -> record CREATED.

Invariant: under the pod's lock, so that its stop never misses a container.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from cri import intent
from cri.confinement import confine
from cri.facts import read_device_facts
from cri.host import Host
from cri.idmapped import check_idmapped
from cri.image_volumes import held_images
from cri.images import Entry
from cri.plan.container import ContainerIds, ContainerPlan, plan_bounding, plan_container
from cri.plan.document import decode, encode
from cri.plan.image_volumes import ImageVolume
from cri.plan.resources import told_resources
from cri.plan.sandbox import SandboxPlan
from cri.plan.security import Confinement
from cri.plan.user import user_question
from cri.propagation import check_propagation
from cri.state.journal import Operation
from cri.state.records import ContainerRecord, ContainerState, SandboxRecord, SandboxState
from cri.state.store import container_key
from cri.steps.container import PrepareInit, plan_create_steps, plan_init
from cri.timeline import to_records
from cri.validate.container import PodFacts, validate_create_container
from proto import api_pb2 as api
from runtime.cgroups.in_force import read_in_force
from runtime.errors import FailedPrecondition, InvalidArgument, NotFound
from runtime.requests import ResolvedUser
from runtime.steps import Stage


async def create_container(
    host: Host, request: api.CreateContainerRequest, context: Any
) -> api.CreateContainerResponse:
    sandbox = host.store.sandboxes.get(request.pod_sandbox_id)
    pod = pod_facts(host, sandbox)
    validate_create_container(request, pod, host.facts)
    check_propagation(request.config)
    await check_idmapped(host, request.config, pod.plan)
    security = request.config.linux.security_context
    confinement = await confine(host, security, plan_bounding(security, host.facts))
    meta = request.config.metadata
    key = container_key(sandbox.id, meta.name, meta.attempt)

    async def work(operation: Operation) -> None:
        async with host.lock(sandbox.id):
            await make_container(host, request.config, sandbox.id, operation, confinement)

    id = await intent.run(host, context, key, request, work)
    return api.CreateContainerResponse(container_id=id)


async def make_container(
    host: Host, config: api.ContainerConfig, sandbox_id: str, operation: Operation, confinement: Confinement
) -> None:
    """The work behind the RPC, with the pod's lock held."""
    image = host.images.require(config.image)
    sandbox = ready_sandbox(host, sandbox_id)
    with host.images.hold(image.record):
        async with held_images(host, config, sandbox_id) as volumes:
            await make_from_images(host, config, sandbox, image, volumes, operation, confinement)


async def make_from_images(
    host: Host,
    config: api.ContainerConfig,
    sandbox: SandboxRecord,
    image: Entry,
    volumes: Sequence[ImageVolume],
    operation: Operation,
    confinement: Confinement,
) -> None:
    id = operation.object_id
    target = find_target(host, sandbox.id, config)
    plan = plan_container(
        config,
        decode(sandbox.plan, SandboxPlan),
        image.config,
        await resolve_user(host, sandbox, config, image),
        ContainerIds(id, host.container_directory(id), target),
        host.facts,
        read_device_facts(config),
        confinement,
        volumes,
    )
    steps = plan_create_steps(plan)

    def finish(stages: list[Stage]) -> ContainerRecord:
        limits = read_in_force(plan.resources, host.layout, plan.cgroup)
        told = told_resources(config.linux.resources, limits)
        return record_created(config, plan, image, mountpoints, told, stages)

    prepares = any(isinstance(step, PrepareInit) for step in steps)
    with host.mountpoints.used(plan, image.record) as mountpoints:
        host.planned[id] = plan_init(host, plan, image.record.layers, mountpoints) if prepares else None
        try:
            await intent.carry_out(host, operation, steps, finish)
        finally:
            del host.planned[id]


def pod_facts(host: Host, sandbox: SandboxRecord) -> PodFacts:
    states = {each.id: each.state for each in host.store.containers_of(sandbox.id)}
    return PodFacts(decode(sandbox.plan, SandboxPlan), sandbox.state, states)


def ready_sandbox(host: Host, id: str) -> SandboxRecord:
    """Raises FailedPrecondition unless the sandbox is READY and has its monitor."""
    record = host.store.sandboxes.get(id)
    if record.state is not SandboxState.READY or id not in host.pods:
        why = record.reason or "it was stopped"
        raise FailedPrecondition(f"is not ready: {why}", object=f"sandbox {id}")
    return record


async def resolve_user(host: Host, sandbox: SandboxRecord, config: api.ContainerConfig, image: Entry) -> ResolvedUser:
    """Who the container runs as, by the image's own passwd and group; remembered by image."""
    question = user_question(config, image.config)
    key = f"{image.id} {question}"
    known = host.users.get(key)
    if known is None:
        rootfs = host.images.probe_rootfs(image.record.layers, host.pod_directory(sandbox.id))
        known = await host.pods[sandbox.id].monitor.resolve_user({"rootfs": rootfs, **question})
        host.users[key] = known
    return known


def find_target(host: Host, sandbox_id: str, config: api.ContainerConfig) -> str | None:
    """The container whose PID namespace is asked for: a running one of the same pod.

    Raises:
        InvalidArgument: it is of another pod, or there is no such container.
        FailedPrecondition: it does not run.
    """
    options = config.linux.security_context.namespace_options
    if options.pid != api.TARGET:
        return None
    try:
        target = host.store.containers.get(options.target_id)
    except NotFound:
        raise InvalidArgument("is not a container", object=f"target_id {options.target_id}") from None
    if target.sandbox_id != sandbox_id:
        raise InvalidArgument("is not a container of this pod", object=f"target_id {options.target_id}")
    if target.state is not ContainerState.RUNNING:
        raise FailedPrecondition("does not run", object=f"target_id {options.target_id}")
    return target.id


def record_created(
    config: api.ContainerConfig,
    plan: ContainerPlan,
    image: Entry,
    mountpoints: str,
    told: api.LinuxContainerResources,
    stages: list[Stage],
) -> ContainerRecord:
    return ContainerRecord(
        id=plan.id,
        sandbox_id=plan.sandbox_id,
        name=config.metadata.name,
        attempt=config.metadata.attempt,
        config=config.SerializeToString(),
        plan=encode(plan),
        image_id=image.id,
        image_ref=image.id,
        layers=image.record.layers,
        created_at=time.time_ns(),
        state=ContainerState.CREATED,
        resources=told.SerializeToString(),
        stages=to_records(stages),
        mountpoints=mountpoints,
        volume_layers=tuple(layer for volume in plan.image_volumes for layer in volume.layers),
    )
