"""From a PodSandboxConfig to everything that a pod's birth needs to know.

``cri.rpc.sandbox_run`` calls ``plan_sandbox`` after validation, ``cri.steps.sandbox``
carries the plan out, ``cri.plan.container`` builds on it, and it is kept in the
sandbox's record as JSON.

Invariant: pure and total for a validated request; of the annotations those of bandwidth alone are read.
"""

from __future__ import annotations

import msgspec

from cri.plan.cgroups import leaf_cgroup, pod_cgroup
from cri.plan.facts import HostFacts
from cri.plan.files import plan_files
from cri.plan.resources import add_resources, plan_update
from cri.plan.security import NOT_CONFINED, Confinement, plan_seccomp
from cri.plan.selinux import plan_labels
from cri.plan.sysctls import plan_sysctls
from cri.settings import Settings
from network.bandwidth import Bandwidth, plan_bandwidth
from proto import api_pb2 as api
from runtime.cgroups.resources import Resources, plan_writes
from runtime.requests import CgroupDirs, SandboxRequest
from runtime.spec import IdMapping, Seccomp, User

SHM_SIZE = 64 << 20
"""Bytes of a pod's own /dev/shm, as containerd and Docker have it."""

PAUSE_OOM_SCORE_ADJ = -998

POD, CONTAINER, NODE, TARGET = "pod", "container", "node", "target"
MODES: dict[int, str] = {api.POD: POD, api.CONTAINER: CONTAINER, api.NODE: NODE, api.TARGET: TARGET}
"""NamespaceMode by the word that plans and the monitor use."""

BRIDGE, CNI, HOST_NETWORK = "bridge", "cni", "host"
"""Names of the network providers."""

FOLDERS = ("ns", "shm", "files", "exits", "rootfs")


class SandboxIds(msgspec.Struct, frozen=True):
    """``id`` is the new pod's, ``instance`` the daemon's (``cri.settings.instance``)."""

    id: str
    instance: str


class PausePlan(msgspec.Struct, frozen=True, kw_only=True):
    """The pause process. ``seccomp`` is the kind of its profile (``cri.plan.security``), ``profile`` that
    of the kind Localhost; ``apparmor`` the name of a profile, ``selinux`` a context, both empty for none."""

    user: User
    seccomp: str | None
    profile: Seccomp | None = None
    apparmor: str = ""
    selinux: str = ""
    no_new_privileges: bool = True
    oom_score_adj: int = PAUSE_OOM_SCORE_ADJ


class SandboxPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A pod, planned.

    ``directory`` (below state) holds ``directories``. ``cgroup_parent`` is the pod's
    cgroup, ``cgroup_owned`` whether it is crisp's to remove and to limit, ``scopes`` the daemon's name
    where pause and containers are scopes of systemd, else empty. ``namespaces`` are the new
    ones in the order of SandboxRequest; ``network`` and ``ipc`` are pod or node,
    ``pid`` pod, container or node. ``files`` by name, None for a copy of the host's.
    ``shm`` is the directory that is every container's /dev/shm, ``shm_size`` its bytes
    or None when it is the host's. ``log_directory`` may be empty: nothing is logged.
    ``limits`` are those of the pod as a whole, None for none of crisp's.
    ``provider`` is the network provider that attaches the pod and has to detach it. ``bandwidth`` are
    the rates that crisp keeps the pod to itself, None for none: CNI plugins see to them in other pods.
    ``ids`` is the mapping of the pod's user namespace, None where it has the node's.
    ``mount_label`` is the SELinux context of the pod's files and /dev/shm, empty for none.
    """

    id: str
    directory: str
    directories: tuple[str, ...]
    cgroup_parent: str
    cgroup_owned: bool
    pause_cgroup: str
    namespaces: tuple[str, ...]
    network: str
    ipc: str
    pid: str
    hostname: str
    sysctls: dict[str, str]
    files: dict[str, str | None]
    shm: str
    shm_size: int | None
    pause: PausePlan
    privileged: bool
    log_directory: str
    limits: Resources | None = None
    provider: str = ""
    bandwidth: Bandwidth | None = None
    scopes: str = ""
    ids: IdMapping | None = None
    mount_label: str = ""

    @property
    def own_cgroup(self) -> str | None:
        """The cgroup of the pod as a whole that crisp limits; None where it is kubelet's to limit."""
        return self.cgroup_parent if self.cgroup_owned and self.cgroup_parent != "/" else None

    @property
    def pause_in_all_trees(self) -> bool:
        """Whether pause is what the pod has in every tree of cgroups, so that its use can be told."""
        return self.cgroup_owned or self.cgroup_parent == "/"

    @property
    def own_slice(self) -> str:
        """``own_cgroup`` where it is a slice of systemd's, else empty."""
        return self.own_cgroup or "" if self.scopes else ""

    @property
    def owner(self) -> int:
        """The user, as the host counts, who is root in the pod."""
        return 0 if self.ids is None else self.ids["host"]

    def namespace_path(self, kind: str) -> str:
        """Where the pod's namespace of an OCI type is pinned."""
        return f"{self.directory}/ns/{kind}"

    def file_path(self, name: str) -> str:
        return f"{self.directory}/files/{name}"


def cgroup_parent(config: api.PodSandboxConfig, ids: SandboxIds, facts: HostFacts) -> str:
    """The pod's cgroup: kubelet's, or one of the daemon's own when none is given."""
    return pod_cgroup(config.linux.cgroup_parent, ids.instance, ids.id, systemd=facts.systemd)


def plan_sandbox(
    config: api.PodSandboxConfig,
    ids: SandboxIds,
    settings: Settings,
    facts: HostFacts,
    *,
    parent_exists: bool,
    provider: str = BRIDGE,
    confinement: Confinement = NOT_CONFINED,
) -> SandboxPlan:
    """The plan of a pod whose request was validated; ``provider`` is that of pods with a network of their own,
    ``confinement`` has the profiles that pause gets.

    ``parent_exists``: whether ``cgroup_parent(config, ids, facts)`` is there already; one that
    somebody else made is never removed, nor limited.

    Raises:
        FailedPrecondition: the host cannot give the pod's limits.
    """
    context = config.linux.security_context
    options = context.namespace_options
    network, ipc = MODES[options.network], MODES[options.ipc]
    directory = f"{settings.state}/pods/{ids.id}"
    parent, scopes = cgroup_parent(config, ids, facts), ids.instance if facts.systemd else ""
    owned = not config.linux.cgroup_parent or not parent_exists
    hostname = config.hostname or facts.hostname
    labels = plan_labels(context, enforcing=facts.selinux)
    return SandboxPlan(
        id=ids.id,
        directory=directory,
        directories=(directory, *(f"{directory}/{folder}" for folder in FOLDERS)),
        cgroup_parent=parent,
        cgroup_owned=owned,
        pause_cgroup=leaf_cgroup(parent, ids.id, scopes),
        namespaces=_plan_namespaces(options, own_uts=network == POD or hostname != facts.hostname),
        network=network,
        ipc=ipc,
        pid=MODES[options.pid],
        hostname=hostname,
        sysctls=plan_sysctls(config.linux.sysctls, own_network=network == POD),
        files=plan_files(config, hostname, own_network=network == POD),
        shm=f"{directory}/shm" if ipc == POD else "/dev/shm",
        shm_size=SHM_SIZE if ipc == POD else None,
        pause=_plan_pause(context, confinement, labels.process),
        mount_label=labels.mount,
        privileged=context.privileged,
        log_directory=config.log_directory,
        limits=_plan_limits(config.linux, facts) if owned and parent != "/" else None,
        provider=provider if network == POD else HOST_NETWORK,
        bandwidth=plan_bandwidth(config.annotations) if network == POD and provider == BRIDGE else None,
        scopes=scopes,
        ids=plan_ids(options),
    )


def sandbox_request(plan: SandboxPlan, cgroup: CgroupDirs, seccomp: str | None, flags: int = 0) -> SandboxRequest:
    """What the monitor is told; ``seccomp`` is the path of the compiled profile or None, ``flags`` go with it."""
    request = SandboxRequest(
        namespaces=list(plan.namespaces),
        hostname=plan.hostname if "uts" in plan.namespaces else "",
        sysctls=dict(plan.sysctls),
        cgroup=cgroup,
        user=plan.pause.user,
        no_new_privileges=plan.pause.no_new_privileges,
        apparmor=plan.pause.apparmor,
        selinux=plan.pause.selinux,
        seccomp=seccomp,
        seccomp_flags=flags,
        oom_score_adj=plan.pause.oom_score_adj,
    )
    if plan.ids is not None:
        request["ids"] = plan.ids
    return request


def plan_ids(options: api.NamespaceOption) -> IdMapping | None:
    """The mapping of the user namespace that is asked for; None for the node's."""
    asked = options.userns_options
    if not options.HasField("userns_options") or asked.mode != api.POD:
        return None
    return IdMapping(host=asked.uids[0].host_id, size=asked.uids[0].length)


def _plan_namespaces(options: api.NamespaceOption, *, own_uts: bool) -> tuple[str, ...]:
    """A pod in the node's network also shares its UTS namespace (Kubernetes' hostNetwork),
    unless it asks for a hostname of its own."""
    wanted = {
        "user": plan_ids(options) is not None,
        "network": options.network == api.POD,
        "ipc": options.ipc == api.POD,
        "uts": own_uts,
        "pid": options.pid == api.POD,
    }
    return tuple(kind for kind, new in wanted.items() if new)


def _plan_limits(linux: api.LinuxPodSandboxConfig, facts: HostFacts) -> Resources | None:
    """What the pod as a whole may use, where the request says so."""
    if not (linux.HasField("resources") or linux.HasField("overhead")):
        return None
    limits = plan_update(add_resources(linux.resources, linux.overhead))
    planned = plan_writes(limits, facts.layout)
    return limits if planned.writes or planned.notes else None


def _plan_pause(context: api.LinuxSandboxSecurityContext, confinement: Confinement, selinux: str) -> PausePlan:
    user = User(
        uid=context.run_as_user.value,
        gid=context.run_as_group.value,
        additionalGids=list(context.supplemental_groups),
    )
    return PausePlan(
        user=user,
        seccomp=plan_seccomp(context),
        profile=confinement.seccomp,
        apparmor=confinement.apparmor,
        selinux=selinux,
    )
