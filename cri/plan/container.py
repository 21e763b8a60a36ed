"""From a ContainerConfig, its pod's plan and its image to the OCI runtime document.

``cri.rpc.container_create`` calls ``plan_container`` after validation and keeps the
plan in the container's record; ``container_start`` and ``container_exec`` send the
monitor what ``start_request`` and ``plan_exec`` make of it.

Invariant: pure and the same for the same input; annotations of the request and of
the image are never read.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from cri.plan.capabilities import plan_capabilities
from cri.plan.cgroups import leaf_cgroup
from cri.plan.devices import DevicePlan, plan_devices
from cri.plan.facts import DeviceFacts, HostFacts
from cri.plan.image_volumes import ImageVolume
from cri.plan.mounts import MountPlan, plan_mounts, plan_volumes
from cri.plan.process import exec_process, plan_process
from cri.plan.resources import plan_resources
from cri.plan.sandbox import MODES, NODE, POD, TARGET, SandboxPlan
from cri.plan.security import NOT_CONFINED, Confinement, plan_hidden, plan_seccomp
from cri.plan.selinux import label_mounts, plan_labels
from cri.plan.signals import plan_stop_signal
from proto import api_pb2 as api
from runtime.cgroups.resources import Resources
from runtime.errors import FailedPrecondition
from runtime.images.config import ImageConfig
from runtime.requests import CgroupDirs, ImageMount, ResolvedUser, Rootfs, StartRequest, Volume
from runtime.spec import Capabilities, IdMapping, Linux, Namespace, OciIdMapping, Process, Root, Spec, to_host

OCI_VERSION = "1.2.0"


class ContainerIds(msgspec.Struct, frozen=True):
    """``id`` is the new container's; ``directory`` its place below root, for the writable
    layer and the volumes; ``target`` the full id of the container that pid mode TARGET names."""

    id: str
    directory: str
    target: str | None = None


class ContainerPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A container, planned. ``spec`` is its ``config.json``.

    ``pid_mode`` is pod, container, node or target (then ``target`` is set).
    ``log_path`` is absolute and below ``log_directory``, None for no log. ``seccomp`` is the
    kind of its profile (``cri.plan.security``): RuntimeDefault depends on ``spec.process.capabilities`` too, one of
    type Localhost is ``spec.linux.seccomp``. ``stop_signal`` is a
    number. ``staging`` is the empty directory that the root is mounted on. ``cgroup_owner`` is the user, as the
    host counts, to whom the cgroup is delegated (cgroups(7)), None for nobody. ``relabel`` are the host's paths
    that get the SELinux context ``spec.linux.mountLabel``.
    """

    id: str
    sandbox_id: str
    directory: str
    staging: str
    spec: Spec
    volumes: list[Volume]
    image_volumes: tuple[ImageVolume, ...] = ()
    missing_sources: list[str]
    cgroup: str
    resources: Resources
    pid_mode: str
    target: str | None
    seccomp: str | None
    log_path: str | None
    log_directory: str = ""
    relabel: list[str] = []
    stdin: bool
    stdin_once: bool
    tty: bool
    stop_signal: int
    cgroup_owner: int | None = None


class ExecPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A command in a running container; ``cgroup`` is its own, below the container's."""

    process: Process
    cgroup: str


def plan_container(
    config: api.ContainerConfig,
    pod: SandboxPlan,
    image: ImageConfig,
    user: ResolvedUser,
    ids: ContainerIds,
    facts: HostFacts,
    devices: DeviceFacts,
    confinement: Confinement = NOT_CONFINED,
    image_volumes: Sequence[ImageVolume] = (),
) -> ContainerPlan:
    """The plan of a container whose request was validated; ``confinement`` has its profiles.

    Raises:
        InvalidArgument: neither request nor image has a command.
        FailedPrecondition: a device is not there, or the image's own values cannot be used.
    """
    context = config.linux.security_context
    if pod.ids is not None:
        check_mapped(user, pod.ids)
    nodes = plan_devices(config, devices, owned=pod.ids is None)
    mounts = plan_mounts(config, pod, facts, image_volumes)
    mode = plan_pid_mode(context.namespace_options.pid, pod)
    process = plan_process(config, image, user, _plan_capabilities(context, facts), pod.hostname)
    linux = _plan_linux(context, pod, ids.id, mounts, nodes, facts)
    if confinement.seccomp is not None:
        linux["seccomp"] = confinement.seccomp
    if confinement.apparmor:
        process["apparmorProfile"] = confinement.apparmor
    labels = plan_labels(context, enforcing=facts.selinux)
    if labels.process:
        process["selinuxLabel"], linux["mountLabel"] = labels
    return ContainerPlan(
        id=ids.id,
        sandbox_id=pod.id,
        directory=ids.directory,
        staging=f"{pod.directory}/rootfs",
        spec=_plan_spec(config, pod, process, mounts, linux),
        volumes=plan_volumes(image.volumes, mounts.mounts, ids.directory),
        image_volumes=tuple(image_volumes),
        relabel=[mount.host_path for mount in config.mounts if mount.selinux_relabel and labels.mount],
        missing_sources=mounts.missing_sources,
        cgroup=linux["cgroupsPath"],
        resources=plan_resources(config.linux.resources, nodes.rules, swap=facts.layout.swap),
        pid_mode=mode,
        target=(ids.target or context.namespace_options.target_id) if mode == TARGET else None,
        seccomp=plan_seccomp(context),
        log_path=plan_log_path(config.log_path, pod.log_directory),
        log_directory=pod.log_directory,
        stdin=config.stdin,
        stdin_once=config.stdin_once,
        tty=config.tty,
        stop_signal=plan_stop_signal(config.stop_signal, image.stop_signal),
        cgroup_owner=plan_cgroup_owner(context, pod, user, facts),
    )


def plan_cgroup_owner(
    context: api.LinuxContainerSecurityContext, pod: SandboxPlan, user: ResolvedUser, facts: HostFacts
) -> int | None:
    """As the OCI runtime specification has it: who sees it writable, in a cgroup namespace and a user namespace
    of the pod's own, is its owner; on v2 alone."""
    writable = context.privileged and facts.unified
    return to_host(user["uid"], pod.ids) if writable and pod.ids is not None else None


def check_mapped(user: ResolvedUser, ids: IdMapping) -> None:
    """
    Raises:
        FailedPrecondition: the user, or one of its groups, has no id in the pod's user namespace.
    """
    for what, number in (("user", user["uid"]), *(("group", gid) for gid in (user["gid"], *user["additionalGids"]))):
        if number >= ids["size"]:
            raise FailedPrecondition(f"{what} {number} is not among the {ids['size']} ids of the pod's user namespace")


def plan_pid_mode(requested: int, pod: SandboxPlan) -> str:
    """POD, the default of the API, means as the pod has it; the others mean what they say."""
    mode = MODES[requested]
    return pod.pid if mode == POD else mode


def plan_log_path(log_path: str, log_directory: str) -> str | None:
    """Absolute; a pod without a log directory logs nothing."""
    return f"{log_directory.rstrip('/')}/{log_path}" if log_path and log_directory else None


def plan_in_force(plan: ContainerPlan, resources: api.LinuxContainerResources) -> ContainerPlan:
    """``plan`` with what updates have changed of its processes; the rest of an update is in its cgroup."""
    process = Process(**{**plan.spec["process"], "oomScoreAdj": resources.oom_score_adj})
    return msgspec.structs.replace(plan, spec=Spec(**{**plan.spec, "process": process}))


def plan_exec(container: ContainerPlan, cmd: Sequence[str], *, tty: bool, n: int) -> ExecPlan:
    """The ``n``-th command in ``container``."""
    return ExecPlan(
        process=exec_process(container.spec["process"], cmd, tty=tty),
        cgroup=f"{container.cgroup}/exec-{n}",
    )


def rootfs(plan: ContainerPlan, lowerdirs: Sequence[str]) -> Rootfs:
    """The container's root over the image's layers, topmost first."""
    made = Rootfs(
        lowerdirs=list(lowerdirs),
        upperdir=f"{plan.directory}/upper",
        workdir=f"{plan.directory}/work",
        staging=plan.staging,
    )
    label = plan.spec["linux"].get("mountLabel")
    return Rootfs(**made, label=label) if label else made


def start_request(
    plan: ContainerPlan,
    lowerdirs: Sequence[str],
    images: Sequence[ImageMount],
    cgroup: CgroupDirs,
    seccomp: str | None,
    memory_events: str | None,
    flags: int = 0,
) -> StartRequest:
    """What the monitor is told; ``images`` are its volumes of that kind, ``seccomp`` is the path of the
    compiled profile or None, ``flags`` go with it."""
    return StartRequest(
        container=plan.id,
        spec=plan.spec,
        rootfs=rootfs(plan, lowerdirs),
        volumes=plan.volumes,
        images=list(images),
        missing_sources=plan.missing_sources,
        cgroup=cgroup,
        pid_mode=plan.pid_mode,
        target=plan.target,
        seccomp=seccomp,
        seccomp_flags=flags,
        log_path=plan.log_path,
        log_directory=plan.log_directory,
        stdin=plan.stdin,
        stdin_once=plan.stdin_once,
        memory_events=memory_events,
    )


def _plan_spec(
    config: api.ContainerConfig, pod: SandboxPlan, process: Process, mounts: MountPlan, linux: Linux
) -> Spec:
    return Spec(
        ociVersion=OCI_VERSION,
        process=process,
        root=Root(path=f"{pod.directory}/rootfs", readonly=config.linux.security_context.readonly_rootfs),
        hostname=pod.hostname if "uts" in pod.namespaces else "",
        mounts=label_mounts(mounts.mounts, linux.get("mountLabel", "")),
        annotations=_plan_annotations(config, pod),
        linux=linux,
    )


def _plan_linux(
    context: api.LinuxContainerSecurityContext,
    pod: SandboxPlan,
    id: str,
    mounts: MountPlan,
    nodes: DevicePlan,
    facts: HostFacts,
) -> Linux:
    mode = plan_pid_mode(context.namespace_options.pid, pod)
    # The root of a user namespace cannot mount the host's cgroups, and has no use for what it cannot change.
    own_cgroup = facts.unified and (not context.privileged or pod.ids is not None)
    linux = Linux(
        namespaces=_plan_namespaces(pod, mode, own_cgroup=own_cgroup),
        devices=[] if mounts.replaces_dev else nodes.nodes,
        cgroupsPath=leaf_cgroup(pod.cgroup_parent, id, pod.scopes),
        sysctl={},
        maskedPaths=plan_hidden(context.masked_paths, privileged=context.privileged),
        readonlyPaths=plan_hidden(context.readonly_paths, privileged=context.privileged),
        rootfsPropagation=mounts.rootfs_propagation,
        deviceRules=list(nodes.rules),
    )
    if pod.ids is not None:
        mapping = OciIdMapping(containerID=0, hostID=pod.ids["host"], size=pod.ids["size"])
        linux["uidMappings"] = linux["gidMappings"] = [mapping]
    return linux


def plan_bounding(context: api.LinuxContainerSecurityContext, facts: HostFacts) -> list[str]:
    """The capabilities beyond which no process of the container gets."""
    return _plan_capabilities(context, facts)["bounding"]


def _plan_capabilities(context: api.LinuxContainerSecurityContext, facts: HostFacts) -> Capabilities:
    return plan_capabilities(
        context.capabilities.add_capabilities,
        context.capabilities.drop_capabilities,
        privileged=context.privileged,
        bounding=facts.bounding,
    )


def _plan_namespaces(pod: SandboxPlan, mode: str, *, own_cgroup: bool) -> list[Namespace]:
    """The pod's by their pins, a mount namespace of its own, and a PID namespace by ``mode``.

    A target's is known only at the start: the entry without a path makes a runtime
    that does not read ``pid_mode`` give too little instead of the host's.
    """
    shared = [kind for kind in ("user", "network", "ipc", "uts") if kind in pod.namespaces]
    found = [Namespace(type=kind, path=pod.namespace_path(kind)) for kind in shared]
    if mode == POD:
        found.append(Namespace(type="pid", path=pod.namespace_path("pid")))
    elif mode != NODE:
        found.append(Namespace(type="pid"))
    found.append(Namespace(type="mount"))
    if own_cgroup:
        found.append(Namespace(type="cgroup"))
    return found


def _plan_annotations(config: api.ContainerConfig, pod: SandboxPlan) -> dict[str, str]:
    """What other OCI runtimes need to tell a pod's containers apart (containerd's keys)."""
    return {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": config.metadata.name,
        "io.kubernetes.cri.sandbox-id": pod.id,
    }
