"""The path of a packet of a pod, asked of the provider that attached it: for ``crisp explain``.

``cri.admin`` asks, ``network.path`` has what comes back.

Invariant: the kernel is looked at and nothing is changed; what cannot be looked at is told, never raised.
"""

from __future__ import annotations

import socket

from cri.host import Host
from cri.plan.document import decode
from cri.plan.sandbox import NODE, SandboxPlan
from cri.state.records import SandboxRecord
from cri.steps.sandbox import maker
from network.provider import Hop
from runtime.errors import Fault


async def path_of(host: Host, record: SandboxRecord) -> tuple[Hop, ...]:
    """In the order in which a packet of the pod passes them; what limits their rate is last."""
    plan = decode(record.plan, SandboxPlan)
    provider = host.network[maker(plan)]
    if plan.network != NODE and record.stopped:
        return (Hop("network", provider.name, "taken back when the pod was stopped"),)
    inside = None if plan.network == NODE else await open_inside(host, plan.namespace_path("network"))
    try:
        hops = await provider.explain(record.id, () if inside is None else (inside.fileno(),))
        return (*hops, *(await host.bridge.explain_limits(record.id, plan.bandwidth) if plan.bandwidth else ()))
    except Fault as fault:
        return (Hop("network", provider.name, missing=str(fault)),)
    finally:
        if inside is not None:
            inside.close()


async def open_inside(host: Host, namespace: str) -> socket.socket | None:
    """A NETLINK_ROUTE socket of the pod's network; None if there is no such namespace any more."""
    try:
        made = await host.sockets.open(socket.AF_NETLINK, namespace, socket.SOCK_RAW, socket.NETLINK_ROUTE)
    except (Fault, OSError):
        return None
    made.setblocking(True)
    return made
