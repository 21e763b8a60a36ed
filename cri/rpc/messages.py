"""From records to the messages of the API: what List, Status and Stats RPCs show.

The stored configuration is the request's own bytes, so metadata, labels and
annotations come back exactly as they arrived.

Invariant: pure; the same record gives the same message.
"""

from __future__ import annotations

from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.plan.image_volumes import tell_images
from cri.plan.signals import status_signal
from cri.state.records import ContainerRecord, ContainerState, SandboxRecord, SandboxState
from proto import api_pb2 as api

STATES = {
    ContainerState.CREATED: api.CONTAINER_CREATED,
    ContainerState.RUNNING: api.CONTAINER_RUNNING,
    ContainerState.EXITED: api.CONTAINER_EXITED,
    ContainerState.UNKNOWN: api.CONTAINER_UNKNOWN,
}


def sandbox_state(record: SandboxRecord) -> api.PodSandboxState.ValueType:
    return api.SANDBOX_READY if record.state is SandboxState.READY else api.SANDBOX_NOTREADY


def sandbox_config(record: SandboxRecord) -> api.PodSandboxConfig:
    return api.PodSandboxConfig.FromString(record.config)


def container_config(record: ContainerRecord) -> api.ContainerConfig:
    return api.ContainerConfig.FromString(record.config)


def pod_sandbox(record: SandboxRecord) -> api.PodSandbox:
    """An item of ListPodSandbox."""
    config = sandbox_config(record)
    return api.PodSandbox(
        id=record.id,
        metadata=config.metadata,
        state=sandbox_state(record),
        created_at=record.created_at,
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=record.runtime_handler,
    )


def pod_sandbox_status(record: SandboxRecord) -> api.PodSandboxStatus:
    """A pod in the node's network has the node's addresses; one that is over has none."""
    config = sandbox_config(record)
    options = config.linux.security_context.namespace_options
    addresses = list(record.addresses) if record.state is SandboxState.READY else []
    network = api.PodSandboxNetworkStatus(
        ip=addresses[0] if addresses else "", additional_ips=[api.PodIP(ip=each) for each in addresses[1:]]
    )
    return api.PodSandboxStatus(
        id=record.id,
        metadata=config.metadata,
        state=sandbox_state(record),
        created_at=record.created_at,
        network=network,
        linux=api.LinuxPodSandboxStatus(namespaces=api.Namespace(options=options)),
        labels=config.labels,
        annotations=config.annotations,
        runtime_handler=record.runtime_handler,
    )


def container(record: ContainerRecord) -> api.Container:
    """An item of ListContainers."""
    config = container_config(record)
    return api.Container(
        id=record.id,
        pod_sandbox_id=record.sandbox_id,
        metadata=config.metadata,
        image=config.image,
        image_ref=record.image_ref,
        state=STATES[record.state],
        created_at=record.created_at,
        labels=config.labels,
        annotations=config.annotations,
        image_id=record.image_id,
    )


def container_status(record: ContainerRecord, plan: ContainerPlan) -> api.ContainerStatus:
    """``mounts`` holds the request's mounts only; ``resources`` what is in force."""
    config = container_config(record)
    tell_images(config, plan.image_volumes)
    user = plan.spec["process"]["user"]
    status = api.ContainerStatus(
        id=record.id,
        metadata=config.metadata,
        state=STATES[record.state],
        created_at=record.created_at,
        started_at=record.started_at,
        finished_at=record.finished_at,
        exit_code=record.exit_code,
        image=config.image,
        image_ref=record.image_ref,
        reason=record.reason,
        message=record.message,
        labels=config.labels,
        annotations=config.annotations,
        mounts=config.mounts,
        log_path=plan.log_path or "",
        image_id=record.image_id,
        stop_signal=config.stop_signal or status_signal(plan.stop_signal),
        user=api.ContainerUser(
            linux=api.LinuxContainerUser(uid=user["uid"], gid=user["gid"], supplemental_groups=user["additionalGids"])
        ),
    )
    status.resources.linux.CopyFrom(api.LinuxContainerResources.FromString(record.resources))
    return status


def status_of_container(record: ContainerRecord) -> api.ContainerStatus:
    return container_status(record, decode(record.plan, ContainerPlan))


def container_attributes(record: ContainerRecord) -> api.ContainerAttributes:
    config = container_config(record)
    return api.ContainerAttributes(
        id=record.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
    )


def sandbox_attributes(record: SandboxRecord) -> api.PodSandboxAttributes:
    config = sandbox_config(record)
    return api.PodSandboxAttributes(
        id=record.id, metadata=config.metadata, labels=config.labels, annotations=config.annotations
    )
