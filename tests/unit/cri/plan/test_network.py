"""What a network provider is told of a pod."""

from __future__ import annotations

from cri.plan.network import plan_attach, plan_ports
from network.provider import Dns, PortMapping
from proto import api_pb2 as api


def test_a_blank_pod_has_a_namespace_and_no_name() -> None:
    request = plan_attach(None, "ab", "/ns", (3, 4))
    assert (request.sandbox_id, request.netns_path, request.netns_fd, request.netlink_fd) == ("ab", "/ns", 3, 4)
    assert (request.pod_name, request.annotations, request.port_mappings) == ("", {}, ())


def test_a_pod_is_told_by_name_with_what_its_network_needs() -> None:
    config = api.PodSandboxConfig(
        metadata=api.PodSandboxMetadata(name="web", namespace="shop", uid="u"),
        annotations={"a": "b"},
        dns_config=api.DNSConfig(servers=["10.0.0.10"], searches=["svc"], options=["ndots:5"]),
    )
    request = plan_attach(config, "ab", "/ns", (3, 4))
    assert (request.pod_name, request.pod_namespace, request.pod_uid) == ("web", "shop", "u")
    assert (request.annotations, request.dns) == ({"a": "b"}, Dns(("10.0.0.10",), ("svc",), ("ndots:5",)))


def test_only_ports_of_the_host_are_mapped() -> None:
    ports = [
        api.PortMapping(host_port=80, container_port=8080, host_ip="192.0.2.1"),
        api.PortMapping(protocol=api.SCTP, host_port=9, container_port=9),
        api.PortMapping(protocol=api.UDP, container_port=53),
    ]
    assert plan_ports(api.PodSandboxConfig(port_mappings=ports)) == (
        PortMapping("tcp", 80, 8080, "192.0.2.1"),
        PortMapping("sctp", 9, 9, ""),
    )
