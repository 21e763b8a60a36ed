"""From a PodSandboxConfig to what a network provider is asked to do.

``cri.steps.sandbox`` attaches a pod with this; ``network.provider`` says what the fields mean.

Invariant: pure and total for a validated request.
"""

from __future__ import annotations

from network.provider import PortMapping
from proto import api_pb2 as api

PROTOCOLS: dict[int, str] = {api.TCP: "tcp", api.UDP: "udp", api.SCTP: "sctp"}


def plan_ports(config: api.PodSandboxConfig) -> tuple[PortMapping, ...]:
    """Those of the host; a port without one is for people."""
    return tuple(
        PortMapping(PROTOCOLS[each.protocol], each.host_port, each.container_port, each.host_ip)
        for each in config.port_mappings
        if each.host_port
    )
