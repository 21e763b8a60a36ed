"""Which namespaces a pod may have and a container may ask for.

Invariant: a container never gets a namespace of the node's that its pod does not
have, and never that of another pod's container.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from cri.plan.facts import HostFacts
from cri.plan.sandbox import MODES, NODE, SandboxPlan, plan_ids
from cri.state.records import ContainerState
from cri.validate.text import check_choice, refuse, show
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition

POD_OR_NODE = {int(api.POD): "POD", int(api.NODE): "NODE"}
POD_PID = {**POD_OR_NODE, int(api.CONTAINER): "CONTAINER"}
CONTAINER_PID = {**POD_PID, int(api.TARGET): "TARGET"}

MAX_IDS = 2**32 - 1
"""How many there are; the number above the last means none, to the kernel."""


def check_pod_namespaces(options: api.NamespaceOption, host: HostFacts, field: str) -> None:
    """
    Raises:
        InvalidArgument: a mode that a pod cannot have.
        FailedPrecondition: a user namespace, where this host has none for pods.
    """
    check_choice(options.network, f"{field}.network", POD_OR_NODE)
    check_choice(options.ipc, f"{field}.ipc", POD_OR_NODE)
    check_choice(options.pid, f"{field}.pid", POD_PID)
    if options.target_id:
        raise refuse(f"{field}.target_id", "is for a container with pid TARGET only")
    check_user_namespace(options, field)
    if plan_ids(options) is None:
        return
    for name, mode in (("pid", options.pid), ("ipc", options.ipc)):
        if mode == api.NODE:
            raise refuse(f"{field}.{name}", "is NODE, which a pod with a user namespace cannot have")
    if host.no_user_namespaces:
        raise FailedPrecondition(f"user namespaces: {host.no_user_namespaces}", object=f"{field}.userns_options")


def check_container_namespaces(
    options: api.NamespaceOption, pod: SandboxPlan, containers: Mapping[str, ContainerState], field: str
) -> None:
    """``containers`` are those of the same pod.

    Raises:
        InvalidArgument: a mode that does not fit the pod, or a target outside it.
        FailedPrecondition: a target that does not run.
    """
    check_choice(options.network, f"{field}.network", POD_OR_NODE)
    check_choice(options.ipc, f"{field}.ipc", POD_OR_NODE)
    check_choice(options.pid, f"{field}.pid", CONTAINER_PID)
    for name, asked, has in (
        ("network", options.network, pod.network),
        ("ipc", options.ipc, pod.ipc),
        ("pid", options.pid, pod.pid),
    ):
        if MODES[asked] == NODE and has != NODE:
            raise refuse(f"{field}.{name}", f"is NODE, but the pod has {has.upper()}")
    if options.pid == api.TARGET:
        resolve_target(options.target_id, containers, field)
    elif options.target_id:
        raise refuse(f"{field}.target_id", "is for pid TARGET only")
    check_user_namespace(options, field)
    if options.HasField("userns_options") and plan_ids(options) != pod.ids:
        raise refuse(f"{field}.userns_options", "is not what the pod has")


def resolve_target(target: str, containers: Mapping[str, ContainerState], field: str) -> str:
    """The full id of the container whose PID namespace is to be joined; ``target`` may be short.

    Raises:
        InvalidArgument: it is empty, or not one container of this pod.
        FailedPrecondition: that container does not run.
    """
    where = f"{field}.target_id"
    if not target:
        raise refuse(where, "is empty, but pid is TARGET")
    found = [target] if target in containers else [id for id in containers if id.startswith(target)]
    if len(found) != 1:
        problem = "is ambiguous" if found else "names no container of this pod"
        raise refuse(where, f"{problem}: {show(target)}")
    if containers[found[0]] is not ContainerState.RUNNING:
        raise FailedPrecondition(f"the container {found[0]} is {containers[found[0]].value}, not running", object=where)
    return found[0]


def check_user_namespace(options: api.NamespaceOption, field: str) -> None:
    """By itself. Mode NODE is none; mode POD has a mapping, one for users and groups, as kubelet gives it.

    Raises:
        InvalidArgument: any other mode, or mapping.
    """
    if not options.HasField("userns_options"):
        return
    asked, where = options.userns_options, f"{field}.userns_options"
    if asked.mode == api.NODE:
        if asked.uids or asked.gids:
            raise refuse(where, "has mappings, but mode NODE")
        return
    check_choice(asked.mode, f"{where}.mode", POD_OR_NODE)
    for name, mappings in (("uids", asked.uids), ("gids", asked.gids)):
        check_mapping(mappings, f"{where}.{name}")
    if asked.uids[0] != asked.gids[0]:
        raise refuse(where, "must map uids and gids alike")


def check_mapping(mappings: Sequence[api.IDMapping], field: str) -> None:
    """
    Raises:
        InvalidArgument: it is not one, leaves out the pod's root, or takes in the host's or what is no id.
    """
    if len(mappings) != 1:
        raise refuse(field, f"must have one mapping, not {len(mappings)}")
    mapping = mappings[0]
    if mapping.container_id != 0 or not mapping.length:
        raise refuse(field, "must map the container's id 0 and some length")
    if mapping.host_id == 0:
        raise refuse(field, "must not map the host's root")
    if mapping.host_id + mapping.length > MAX_IDS:
        raise refuse(field, f"ends beyond the last id, which is {MAX_IDS - 1}")
