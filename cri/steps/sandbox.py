"""The steps of a pod's birth; their undo is also the pod's stop and removal.

``plan_steps`` turns a ``SandboxPlan`` into these; ``cri.rpc.sandbox_run`` applies
them, ``sandbox_stop`` undoes those that end with the pod, ``sandbox_remove`` the
rest, ``cri.recovery`` whatever a killed daemon left.

Invariant: a step holds plain data only and finds everything else through ``Host``,
so a step decoded from the journal after a restart can undo what another process did.
"""

from __future__ import annotations

import asyncio
import logging
import os

import msgspec

from cri.host import Host, LivePod
from cri.plan.files import hosts_with_addresses
from cri.plan.network import plan_attach
from cri.plan.sandbox import BRIDGE, CNI, FOLDERS, HOST_NETWORK, SHM_SIZE, SandboxPlan
from cri.steps.bandwidth import LimitBandwidth
from cri.steps.cgroups import make_cgroup, make_slice, remove_cgroup
from cri.steps.files import read_host_file, remove_tree, unmount_all, write_file
from cri.steps.namespaces import (
    CreateNamespaces,
    MakeBlankNamespaces,
    PinNamespaces,
    PinProcesses,
    StartMonitor,
    WaitForPause,
)
from runtime.cgroups import tree
from runtime.cgroups.limits import apply_writes
from runtime.cgroups.resources import Resources, plan_writes
from runtime.linux import mount
from runtime.lsm.relabel import relabel

LOG = logging.getLogger("crisp.steps")

SHM_OPTIONS = "mode=1777,size={size},uid={owner},gid={owner}"


class MakePodDirectory(msgspec.Struct, frozen=True, tag="make_pod_directory"):
    """The pod's private directory below the state directory."""

    sandbox: str
    path: str
    name = "make_pod_directory"

    def describe(self) -> str:
        return f"make the pod's directory {self.path}"

    async def apply(self, host: Host) -> None:
        os.mkdir(self.path, 0o700)
        for folder in FOLDERS:
            os.mkdir(f"{self.path}/{folder}", 0o700)

    async def undo(self, host: Host) -> None:
        await asyncio.to_thread(remove_tree, self.path)


class MakePodCgroups(msgspec.Struct, frozen=True, tag="make_pod_cgroups"):
    """The cgroup of pause, and above it what is missing of the pod's.

    What was missing is marked in the kernel (``runtime.cgroups.tree``) and goes
    with the last cgroup below it; what kubelet made stays. ``pod`` is the one of the
    pod as a whole, which gets ``limits``, if there are any. ``slice`` is the same, if it is
    a slice of systemd's that is crisp's own.
    """

    sandbox: str
    pause: str
    pod: str = ""
    limits: Resources | None = None
    slice: str = ""
    everywhere: bool = True
    name = "make_pod_cgroups"

    def describe(self) -> str:
        return f"make the cgroup {self.pause}" + (f" and limit {self.pod}" if self.limits else "")

    async def apply(self, host: Host) -> None:
        if self.slice:
            await make_slice(host, self.slice, self.sandbox, self.limits)
        await make_cgroup(host, self.pause, self.sandbox, waiting=not self.everywhere)
        if self.limits is None:
            return
        # No cpuset of v1 may have more than the one above it, and pause's has what was there before.
        cpuset = Resources(cpuset_cpus=self.limits.cpuset_cpus, cpuset_mems=self.limits.cpuset_mems)
        for path, limits in ((self.pause, cpuset), (self.pod, self.limits)):
            planned = plan_writes(limits, host.layout)
            tree.hand_down(host.layout, path, {write.controller for write in planned.writes})
            for note in apply_writes(planned, host.layout, path):
                LOG.info("%s", note, extra={"sandbox_id": self.sandbox})

    async def undo(self, host: Host) -> None:
        await remove_cgroup(host, self.pause)
        if self.slice:
            await host.scopes.remove(self.slice)


class AttachNetwork(msgspec.Struct, frozen=True, tag="attach_network"):
    """Addresses, a veth, routes and host ports, by the provider that is named."""

    sandbox: str
    provider: str
    name = "attach_network"

    def describe(self) -> str:
        return f"attach the pod to the {self.provider} network"

    async def apply(self, host: Host) -> None:
        pod = host.pods[self.sandbox]
        request = plan_attach(
            host.configs.get(self.sandbox),
            self.sandbox,
            f"{host.pod_directory(self.sandbox)}/ns/network",
            (pod.namespaces.get("network", -1), pod.netlink),
        )
        pod.addresses = (await host.network[self.provider].attach(request)).addresses
        pod.provider = self.provider

    async def undo(self, host: Host) -> None:
        await host.network[self.provider].detach(self.sandbox)


class MountShm(msgspec.Struct, frozen=True, tag="mount_shm"):
    """The pod's /dev/shm of ``size`` bytes. Its root is ``owner``'s, who is the pod's; it has the SELinux context
    ``label`` unless that is empty."""

    sandbox: str
    path: str
    size: int
    owner: int = 0
    label: str = ""
    name = "mount_shm"

    def describe(self) -> str:
        return f"mount the pod's /dev/shm at {self.path}/shm"

    async def apply(self, host: Host) -> None:
        flags = mount.MS_NOSUID | mount.MS_NOEXEC | mount.MS_NODEV
        options = SHM_OPTIONS.format(size=self.size, owner=self.owner)
        options += f',context="{self.label}"' if self.label else ""
        mount.mount("shm", f"{self.path}/shm", "tmpfs", flags, options)

    async def undo(self, host: Host) -> None:
        unmount_all(f"{self.path}/shm")


class WriteFiles(msgspec.Struct, frozen=True, tag="write_files"):
    """hostname, hosts and resolv.conf (``None``: a copy of the host's). They are ``owner``'s, who is the pod's root,
    and have the SELinux context ``label`` unless it is empty. That of an older crisp has mounted /dev/shm as well, of
    ``shm_size`` bytes."""

    sandbox: str
    path: str
    hostname: str
    files: dict[str, str | None]
    owner: int = 0
    label: str = ""
    shm_size: int | None = None
    name = "write_files"

    def describe(self) -> str:
        return f"write {', '.join(sorted(self.files))}"

    async def apply(self, host: Host) -> None:
        addresses = host.pods[self.sandbox].addresses
        for file, content in self.files.items():
            text = read_host_file(f"/etc/{file}") if content is None else content.encode()
            if file == "hosts" and content is not None:
                text = hosts_with_addresses(content, addresses, self.hostname).encode()
            write_file(f"{self.path}/files/{file}", text, self.owner)
            if self.label:
                relabel(f"{self.path}/files/{file}", self.label)

    async def undo(self, host: Host) -> None:
        """They go with the directory."""
        if self.shm_size:
            unmount_all(f"{self.path}/shm")


SandboxStep = (
    MakePodDirectory
    | MakePodCgroups
    | StartMonitor
    | CreateNamespaces
    | MakeBlankNamespaces
    | PinNamespaces
    | PinProcesses
    | AttachNetwork
    | LimitBandwidth
    | MountShm
    | WriteFiles
    | WaitForPause
)

ENDS_AT_STOP = (
    StartMonitor,
    CreateNamespaces,
    PinNamespaces,
    PinProcesses,
    AttachNetwork,
    LimitBandwidth,
    MountShm,
    WriteFiles,
    WaitForPause,
)
"""What StopPodSandbox undoes; the other steps are undone by RemovePodSandbox."""


def plan_steps(plan: SandboxPlan) -> tuple[SandboxStep, ...]:
    """A pod's birth, in order; undone in reverse it is its end.

    CNI plugins find the sysctls of the pod's namespace set, always, and are not asked at all if one is refused.
    """
    return (
        MakePodDirectory(plan.id, plan.directory),
        MakePodCgroups(
            plan.id, plan.pause_cgroup, plan.cgroup_parent, plan.limits, plan.own_slice, plan.pause_in_all_trees
        ),
        StartMonitor(plan.id, plan.directory),
        CreateNamespaces(plan.id, plan.namespaces, plan.pause_cgroup),
        PinNamespaces(plan.id, plan.directory, tuple(kind for kind in plan.namespaces if kind != "pid")),
        *((PinProcesses(plan.id, plan.directory, ("pid",)),) if "pid" in plan.namespaces else ()),
        *plan_shm(plan),
        *((WaitForPause(plan.id),) if maker(plan) == CNI else ()),
        AttachNetwork(plan.id, maker(plan)),
        *((LimitBandwidth(plan.id, plan.bandwidth),) if plan.bandwidth else ()),
        WriteFiles(plan.id, plan.directory, plan.hostname, plan.files, plan.owner, plan.mount_label),
        *((WaitForPause(plan.id),) if maker(plan) != CNI else ()),
    )


def plan_shm(plan: SandboxPlan) -> tuple[MountShm, ...]:
    """None where it is the host's."""
    if not plan.shm_size:
        return ()
    return (MountShm(plan.id, plan.directory, plan.shm_size, plan.owner, plan.mount_label),)


def maker(plan: SandboxPlan) -> str:
    """The provider that attached the pod; plans of before there was a choice do not name it."""
    return plan.provider or (BRIDGE if plan.network == "pod" else HOST_NETWORK)


BLANK_KINDS = ("network", "ipc", "uts")
"""The namespaces of a blank pod."""

BLANK_DONE = frozenset({"make_pod_directory", "start_monitor", "pin_namespaces", "mount_shm", "attach_network"})
"""The steps of a pod's birth that a blank pod has behind it, if it is attached and its /dev/shm is what is wanted."""


def blank_done(pod: LivePod, plan: SandboxPlan) -> frozenset[str]:
    """The steps of ``plan`` that this blank pod has behind it."""
    lacking = set() if pod.provider else {AttachNetwork.name}
    if plan_shm(plan) != (blank_shm(plan.id, plan.directory),):
        lacking.add(MountShm.name)  # mounted over the other one
    return BLANK_DONE - lacking


def blank_shm(id: str, directory: str) -> MountShm:
    return MountShm(id, directory, SHM_SIZE)


def plan_blank_steps(id: str, directory: str, provider: str = BRIDGE) -> tuple[SandboxStep, ...]:
    """As much of a pod's birth as needs no name; CNI plugins are told the pod's."""
    attach = (AttachNetwork(id, provider),) if provider == BRIDGE else ()
    return (
        MakePodDirectory(id, directory),
        StartMonitor(id, directory),
        MakeBlankNamespaces(id, BLANK_KINDS),
        PinNamespaces(id, directory, BLANK_KINDS),
        blank_shm(id, directory),
        *attach,
    )
