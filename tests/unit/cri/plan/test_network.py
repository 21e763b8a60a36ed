from __future__ import annotations

from cri.plan.network import plan_ports
from network.provider import PortMapping
from proto import api_pb2 as api


def test_the_ports_of_the_host_are_planned_and_others_are_for_people() -> None:
    config = api.PodSandboxConfig(
        port_mappings=[
            api.PortMapping(protocol=api.TCP, container_port=80, host_port=8080),
            api.PortMapping(protocol=api.UDP, container_port=53, host_port=0),
            api.PortMapping(protocol=api.SCTP, container_port=90, host_port=9090, host_ip="192.0.2.1"),
        ]
    )
    assert plan_ports(config) == (PortMapping("tcp", 8080, 80, ""), PortMapping("sctp", 9090, 90, "192.0.2.1"))
    assert plan_ports(api.PodSandboxConfig()) == ()
