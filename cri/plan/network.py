"""From a PodSandboxConfig to what a network provider is asked to do.

``cri.steps.sandbox`` attaches a pod with this; ``network.provider`` says what the fields mean.

Invariant: pure and total for a validated request.
"""

from __future__ import annotations

from network.provider import AttachRequest, Dns, PortMapping
from proto import api_pb2 as api

PROTOCOLS: dict[int, str] = {api.TCP: "tcp", api.UDP: "udp", api.SCTP: "sctp"}


def plan_attach(
    config: api.PodSandboxConfig | None, sandbox_id: str, netns_path: str, fds: tuple[int, int]
) -> AttachRequest:
    """``fds`` are the network namespace and a netlink socket in it; a blank pod has no ``config``."""
    if config is None:
        return AttachRequest(sandbox_id=sandbox_id, netns_fd=fds[0], netlink_fd=fds[1], netns_path=netns_path)
    dns = config.dns_config
    return AttachRequest(
        sandbox_id=sandbox_id,
        netns_fd=fds[0],
        netlink_fd=fds[1],
        netns_path=netns_path,
        pod_name=config.metadata.name,
        pod_namespace=config.metadata.namespace,
        pod_uid=config.metadata.uid,
        annotations=dict(config.annotations),
        dns=Dns(tuple(dns.servers), tuple(dns.searches), tuple(dns.options)),
        port_mappings=plan_ports(config),
    )


def plan_ports(config: api.PodSandboxConfig) -> tuple[PortMapping, ...]:
    """Those of the host; a port without one is for people."""
    return tuple(
        PortMapping(PROTOCOLS[each.protocol], each.host_port, each.container_port, each.host_ip)
        for each in config.port_mappings
        if each.host_port
    )
