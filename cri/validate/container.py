"""CreateContainer: everything that can be wrong with the request, before anything is done.

``cri.rpc.container_create`` calls ``validate_create_container`` first;
``cri.plan.container`` relies on what it lets through.

Invariant: no side effect; a request that passes can be planned, but for what the
image itself has wrong and for devices that are not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from cri.plan.facts import HostFacts
from cri.plan.sandbox import SandboxPlan
from cri.state.records import ContainerState, SandboxState
from cri.validate.capabilities import check_capabilities
from cri.validate.identity import check_ids
from cri.validate.mounts import check_devices, check_mounts
from cri.validate.namespaces import check_container_namespaces
from cri.validate.process import check_process
from cri.validate.profiles import check_profiles
from cri.validate.resources import check_resources
from cri.validate.text import check_handler, check_map, check_name, check_path, check_text, not_yet, refuse
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition


@dataclass(frozen=True, slots=True)
class PodFacts:
    """The pod that is to hold the container, and its other containers by full id."""

    plan: SandboxPlan
    state: SandboxState
    containers: Mapping[str, ContainerState] = field(default_factory=dict)


def validate_create_container(request: api.CreateContainerRequest, pod: PodFacts, host: HostFacts) -> None:
    """
    Raises:
        InvalidArgument: the request can never be right; the field is named.
        NotFound: no such runtime handler.
        FailedPrecondition: the pod is not ready, or what is asked for is not there.
    """
    if not request.HasField("config"):
        raise refuse("config", "is missing")
    config = request.config
    if not config.HasField("metadata"):
        raise refuse("config.metadata", "is missing")
    check_name(config.metadata.name, "config.metadata.name")
    check_image(config.image, "config.image")
    check_map(config.labels, "config.labels")
    check_map(config.annotations, "config.annotations")
    check_process(config, "config")
    check_linux(config.linux, pod, host, "config.linux")
    check_mounts(config.mounts, host, pod.plan.ids, "config.mounts")
    check_devices(config, "config")
    if config.HasField("windows"):
        raise not_yet("config.windows", "Windows containers")
    if pod.state is not SandboxState.READY:
        raise FailedPrecondition(f"is {pod.state.value}, not ready", object=f"sandbox {pod.plan.id}")


def check_image(image: api.ImageSpec, field: str) -> None:
    """A reference is there; whether it is one is for ``runtime.images.reference``."""
    if not image.image:
        raise refuse(f"{field}.image", "is empty")
    check_text(image.image, f"{field}.image")
    check_handler(image.runtime_handler, f"{field}.runtime_handler")
    check_map(image.annotations, f"{field}.annotations")


def check_linux(linux: api.LinuxContainerConfig, pod: PodFacts, host: HostFacts, field: str) -> None:
    context, where = linux.security_context, f"{field}.security_context"
    if context.privileged and not pod.plan.privileged:
        raise refuse(f"{where}.privileged", "is not allowed in a pod that is not privileged")
    check_container_namespaces(context.namespace_options, pod.plan, pod.containers, f"{where}.namespace_options")
    check_ids(context, where, pod.plan.ids)
    for name, paths in (("masked_paths", context.masked_paths), ("readonly_paths", context.readonly_paths)):
        for path in paths:
            check_path(path, f"{where}.{name}")
    check_capabilities(context.capabilities, host.bounding, f"{where}.capabilities")
    check_profiles(context, host, where)
    check_resources(linux.resources, host, f"{field}.resources")
