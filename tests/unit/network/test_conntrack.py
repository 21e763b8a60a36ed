"""Messages about flows, and flows in what the kernel lists."""

from __future__ import annotations

import socket
import struct
from ipaddress import ip_address

import pytest

from network.conntrack import Flow, parse_flows, plan_delete, plan_list
from network.netlink import NLM_F_ACK, NLM_F_DUMP, Reply, attribute, nested, parse_attributes


def direction(kind: int, source: str, destination: str, ports: tuple[int, int]) -> bytes:
    first, second = ip_address(source), ip_address(destination)
    base = 1 if first.version == 4 else 3
    addresses = nested(1, attribute(base, first.packed), attribute(base + 1, second.packed))
    numbers = [attribute(kind, struct.pack(">H", port)) for kind, port in zip((2, 3), ports, strict=True)]
    return nested(kind, addresses, nested(2, attribute(1, b"\x11"), *numbers))


def listed(family: int, *attributes: bytes) -> Reply:
    return Reply(0x100, 0, 1, bytes((family, 0, 0, 0)) + b"".join(attributes))


@pytest.mark.parametrize(("version", "family"), [(4, socket.AF_INET), (6, socket.AF_INET6)])
def test_the_kernel_is_asked_for_udp_to_one_port(version: int, family: int) -> None:
    message = plan_list(version, 8080)
    assert (message.kind, message.flags, message.body[0]) == (0x101, NLM_F_DUMP, family)
    found = parse_attributes(message.body[4:])
    assert parse_attributes(parse_attributes(found[1])[2]) == {1: b"\x11", 3: struct.pack(">H", 8080)}
    assert parse_attributes(found[25]) == {1: struct.pack("=I", 0b101000)}
    found = parse_attributes(plan_list(version).body[4:])
    assert parse_attributes(parse_attributes(found[1])[2]) == {1: b"\x11"}
    assert parse_attributes(found[25]) == {1: struct.pack("=I", 0b001000)}


@pytest.mark.parametrize(
    ("sender", "node", "pod"), [("192.0.2.2", "192.0.2.1", "10.91.0.2"), ("2001:db8::2", "2001:db8::1", "fd00:91::2")]
)
def test_a_flow_says_where_it_was_sent_and_who_answers(sender: str, node: str, pod: str) -> None:
    there = direction(1, sender, node, (4242, 8080))
    back = direction(2, pod, sender, (80, 4242))
    (flow,) = parse_flows([listed(2, there, back, attribute(12, b"\1\2\3\4"))])
    assert (flow.destination, flow.port, flow.answers_from) == (ip_address(node), 8080, (ip_address(pod), 80))
    assert flow.identity == there + attribute(12, b"\1\2\3\4")


def test_a_flow_is_deleted_by_its_own_tuple_id_and_zone() -> None:
    there, back = direction(1, "192.0.2.2", "192.0.2.1", (1, 8080)), direction(2, "192.0.2.1", "192.0.2.2", (8080, 1))
    zone = attribute(18, b"\0\7")
    (flow,) = parse_flows([listed(2, there, back, attribute(12, b"abcd"), attribute(3, bytes(4)), zone)])
    message = plan_delete(flow)
    assert (message.kind, message.flags, message.body[0]) == (0x102, NLM_F_ACK, socket.AF_INET)
    assert message.body[4:] == there + attribute(12, b"abcd") + zone
    assert isinstance(flow, Flow)
