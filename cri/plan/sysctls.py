"""Which sysctls are a pod's own, and those it gets by default.

``cri.validate.sysctls`` refuses all others; the monitor writes the plan's ones
inside the pod's namespaces.

Invariant: a name belongs to at most one namespace, and the defaults never
override the request. Source: namespaces(7), the kernel's Documentation/admin-guide/sysctl.
"""

from __future__ import annotations

from collections.abc import Mapping

IPC = frozenset(
    {
        "kernel.auto_msgmni",
        "kernel.msg_next_id",
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.sem_next_id",
        "kernel.shm_next_id",
        "kernel.shm_rmid_forced",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
    }
)
UTS = frozenset({"kernel.domainname"})

NETWORK_DEFAULTS = {
    "net.ipv4.ip_unprivileged_port_start": "0",
    "net.ipv4.ping_group_range": "0 2147483647",
}
"""Ports below 1024 and ping without a capability, as containerd has them."""


def sysctl_name(given: str) -> str:
    """The dotted form of ``a.b.c`` or ``a/b/c``; the first separator says which it is.

    A dot inside a part (``eth0.100``) is a slash in the dotted form: sysctl.d(5).
    """
    first = next((char for char in given if char in "./"), ".")
    return given if first == "." else given.translate({ord("."): "/", ord("/"): "."})


def sysctl_namespace(name: str) -> str | None:
    """The OCI type of the namespace that a dotted ``name`` is in; None: the host's."""
    if name.startswith("net."):
        return "network"
    if name in IPC or name.startswith("fs.mqueue."):
        return "ipc"
    return "uts" if name in UTS else None


def plan_sysctls(requested: Mapping[str, str], *, own_network: bool) -> dict[str, str]:
    """What to write in the pod's namespaces, by dotted name."""
    defaults = NETWORK_DEFAULTS if own_network else {}
    return {**defaults, **{sysctl_name(name): requested[name] for name in sorted(requested)}}
