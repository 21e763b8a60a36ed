"""Pods as kubelet asks for them, from privileged to restricted.

``inside.c`` looks at each from inside, ``test_inside`` has what has to be seen.

Invariant: a spec is what kubelet sends for a pod of that kind: the paths that it has masked by
default, the container's own PID namespace unless another is asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from proto import api_pb2 as api

MASKED = (
    *(f"/proc/{name}" for name in ("acpi", "asound", "interrupts", "kcore", "keys", "latency_stats")),
    *(f"/proc/{name}" for name in ("sched_debug", "scsi", "timer_list", "timer_stats")),
    *("/sys/devices/virtual/powercap", "/sys/firmware"),
)
READ_ONLY = tuple(f"/proc/{name}" for name in ("bus", "fs", "irq", "sys", "sysrq-trigger"))
"""What kubelet sends unless a pod has procMount Unmasked, or is privileged."""

SYSCTLS = (
    *(f"/proc/sys/kernel/{name}" for name in ("domainname", "hostname", "msgmax", "shm_rmid_forced")),
    *(f"/proc/sys/net/ipv4/{name}" for name in ("ip_forward", "ip_unprivileged_port_start", "ping_group_range")),
    "/proc/sys/fs/mqueue/msg_max",
)

LOOKED_AT = (
    *(f"VALUE={path}" for path in SYSCTLS),
    *(f"READ={path}" for path in MASKED),
    *(f"WRITE={path}" for path in ("/proc/sys/kernel/domainname", "/proc/sysrq-trigger", "/sys/kernel/uevent_helper")),
    *(f"MAKE={path}" for path in ("/", "/tmp", "/dev", "/dev/shm", "/dev/mqueue", "/etc", "/sys/fs/cgroup")),
    *(f"WRITE={path}" for path in ("/etc/hosts", "/etc/resolv.conf", "/dev/termination-log")),
)
"""The arguments of ``inside``."""


@dataclass(frozen=True, slots=True)
class Fact:
    """One line of what ``inside`` says."""

    subject: str
    name: str
    value: str


@dataclass(frozen=True, slots=True)
class Spec:
    """``change`` makes the pod and the container what ``name`` says."""

    name: str
    change: Callable[[api.PodSandboxConfig, api.ContainerConfig], None]


def parse(said: str) -> list[Fact]:
    """Raises AssertionError if it is not all."""
    lines = [line.split("\t", 2) for line in said.splitlines()]
    assert lines and lines[-1][0] == "end", said[-2000:]
    return [Fact(*line) for line in lines[:-1]]


def defaults(pod: api.PodSandboxConfig, container: api.ContainerConfig) -> None:
    """What kubelet sends for a pod whose author asked for nothing: no seccomp profile at all."""
    for context in (pod.linux.security_context, container.linux.security_context):
        context.ClearField("seccomp")
    container.linux.security_context.masked_paths.extend(MASKED)
    container.linux.security_context.readonly_paths.extend(READ_ONLY)


def _profile(container: api.ContainerConfig) -> None:
    container.linux.security_context.seccomp.profile_type = api.SecurityProfile.RuntimeDefault


def _privileged(pod: api.PodSandboxConfig, container: api.ContainerConfig) -> None:
    pod.linux.security_context.privileged = True
    context = container.linux.security_context
    context.privileged = True
    context.ClearField("masked_paths")
    context.ClearField("readonly_paths")


def _privileged_on_the_node(pod: api.PodSandboxConfig, container: api.ContainerConfig) -> None:
    _privileged(pod, container)
    _on_the_node(pod, container)


def _on_the_node(pod: api.PodSandboxConfig, container: api.ContainerConfig) -> None:
    pod.hostname = ""
    for context in (pod.linux.security_context, container.linux.security_context):
        options = context.namespace_options
        options.network = options.pid = options.ipc = api.NODE


def _by_default(pod: api.PodSandboxConfig, container: api.ContainerConfig) -> None:
    pass


def _baseline(pod: api.PodSandboxConfig, container: api.ContainerConfig) -> None:
    _profile(container)


def _added(pod: api.PodSandboxConfig, container: api.ContainerConfig) -> None:
    _profile(container)
    capabilities = container.linux.security_context.capabilities
    capabilities.add_capabilities.extend(["NET_ADMIN", "SYS_TIME"])
    capabilities.drop_capabilities.extend(["MKNOD", "CHOWN"])


def _all_of_them(pod: api.PodSandboxConfig, container: api.ContainerConfig) -> None:
    """Every capability and a shared PID namespace, but not privileged; a sysctl of the pod's own."""
    container.linux.security_context.capabilities.add_capabilities.append("ALL")
    for context in (pod.linux.security_context, container.linux.security_context):
        context.namespace_options.pid = api.POD
    pod.linux.sysctls["kernel.shm_rmid_forced"] = "1"


def _unmasked(pod: api.PodSandboxConfig, container: api.ContainerConfig) -> None:
    _profile(container)
    container.linux.security_context.ClearField("masked_paths")
    container.linux.security_context.ClearField("readonly_paths")


def _of_groups(pod: api.PodSandboxConfig, container: api.ContainerConfig) -> None:
    _profile(container)
    context = container.linux.security_context
    context.run_as_user.value, context.run_as_group.value = 1000, 3000
    context.supplemental_groups.extend([4000, 5000])
    context.supplemental_groups_policy = api.Strict


def _restricted(pod: api.PodSandboxConfig, container: api.ContainerConfig) -> None:
    """The Pod Security Standard of that name."""
    _profile(container)
    pod.linux.security_context.seccomp.profile_type = api.SecurityProfile.RuntimeDefault
    context = container.linux.security_context
    context.run_as_user.value = 1000
    context.no_new_privs = True
    context.capabilities.drop_capabilities.append("ALL")
    context.capabilities.add_capabilities.append("NET_BIND_SERVICE")


def _restricted_read_only(pod: api.PodSandboxConfig, container: api.ContainerConfig) -> None:
    _restricted(pod, container)
    container.linux.security_context.ClearField("capabilities")
    container.linux.security_context.capabilities.drop_capabilities.append("ALL")
    container.linux.security_context.readonly_rootfs = True


SPECS = (
    Spec("privileged, on the node", _privileged_on_the_node),
    Spec("privileged", _privileged),
    Spec("on the node", _on_the_node),
    Spec("all capabilities", _all_of_them),
    Spec("by default", _by_default),
    Spec("unmasked", _unmasked),
    Spec("capabilities added and dropped", _added),
    Spec("RuntimeDefault", _baseline),
    Spec("users and groups", _of_groups),
    Spec("restricted", _restricted),
    Spec("restricted, read-only", _restricted_read_only),
)
