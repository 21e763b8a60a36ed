from __future__ import annotations

import socket
import struct
from ipaddress import ip_address, ip_interface, ip_network

import pytest

from network import rtnetlink
from network.netlink import NLM_F_ACK, Reply, attribute, nested, parse_attributes, text, u32
from network.rtnetlink import Link, LinkAddress, Peer, Route


def _ifinfo(body: bytes) -> tuple[int, ...]:
    return struct.unpack_from("=BxHiII", body)


def test_a_veth_pair_has_its_peer_down_in_the_other_namespace() -> None:
    message = rtnetlink.new_veth("crp1", Peer("eth0", b"\x0a\x58\x0a\x55\0\2", 42), group=7, bridge=5, mtu=1450)
    assert (message.call, message.object, message.kind, message.flags) == ("RTM_NEWLINK", "crp1", 16, 0x604)
    assert _ifinfo(message.body) == (0, 0, 0, 1, 1)
    here = parse_attributes(message.body[16:])
    assert here[3] == b"crp1\0"
    assert (here[4], here[10], here[27]) == (struct.pack("=I", 1450), struct.pack("=I", 5), struct.pack("=I", 7))
    info = parse_attributes(here[18])
    assert info[1] == b"veth\0"
    there = parse_attributes(info[2])[1]
    assert _ifinfo(there) == (0, 0, 0, 0, 0)
    assert parse_attributes(there[16:]) == {
        3: b"eth0\0",
        4: struct.pack("=I", 1450),
        1: b"\x0a\x58\x0a\x55\0\2",
        28: struct.pack("=I", 42),
        31: struct.pack("=I", 1),
        32: struct.pack("=I", 1),
    }


def test_a_bridge_is_made_down_with_a_fixed_hardware_address() -> None:
    message = rtnetlink.new_bridge("crisp0", hardware=b"\x0a\x58\0\0\0\1", group=9, mtu=1500)
    found = parse_attributes(message.body[16:])
    assert _ifinfo(message.body) == (0, 0, 0, 0, 0)
    assert (found[1], found[3], parse_attributes(found[18])) == (b"\x0a\x58\0\0\0\1", b"crisp0\0", {1: b"bridge\0"})


def test_a_link_is_changed_by_name_or_by_index_and_only_where_asked() -> None:
    by_name = rtnetlink.set_link("crp1", alias=b"crisp:0badcafe:x")
    assert _ifinfo(by_name.body) == (0, 0, 0, 0, 0)
    assert parse_attributes(by_name.body[16:]) == {3: b"crp1\0", 20: b"crisp:0badcafe:x"}
    by_index = rtnetlink.set_link("crp1", index=9, up=True, master=5, mtu=1400)
    assert _ifinfo(by_index.body) == (0, 0, 9, 1, 1)
    assert parse_attributes(by_index.body[16:]) == {10: struct.pack("=I", 5), 4: struct.pack("=I", 1400)}
    assert _ifinfo(rtnetlink.delete_link("crp1", 9).body) == (0, 0, 9, 0, 0)
    assert parse_attributes(rtnetlink.get_link("crp1").body[16:])[3] == b"crp1\0"


@pytest.mark.parametrize(
    ("text_", "family", "length", "flags"),
    [("10.85.0.2/16", socket.AF_INET, 16, 0), ("fd00::2/64", socket.AF_INET6, 64, 2)],
)
def test_an_address_is_local_and_global_and_nobody_is_asked_for_it(
    text_: str, family: int, length: int, flags: int
) -> None:
    interface = ip_interface(text_)
    message = rtnetlink.new_address(3, interface)
    assert struct.unpack_from("=BBBBI", message.body) == (family, length, flags, 0, 3)
    assert parse_attributes(message.body[8:]) == {1: interface.ip.packed, 2: interface.ip.packed}
    assert message.flags == 0x504 and message.object == text_
    assert rtnetlink.delete_address(3, interface).flags == NLM_F_ACK


@pytest.mark.parametrize(("gateway", "family"), [("10.85.0.1", socket.AF_INET), ("fd00::1", socket.AF_INET6)])
def test_the_default_route_has_a_gateway_and_no_index(gateway: str, family: int) -> None:
    message = rtnetlink.new_default_route(ip_address(gateway))
    assert struct.unpack_from("=BBBBBBBBI", message.body) == (family, 0, 0, 0, 254, 4, 0, 1, 0)
    assert parse_attributes(message.body[12:]) == {5: ip_address(gateway).packed}


@pytest.mark.parametrize(
    ("to", "via", "family"),
    [("10.86.0.0/24", "192.0.2.2", socket.AF_INET), ("fd00:86::/64", "2001:db8::2", socket.AF_INET6)],
)
def test_a_route_says_whose_it_is_and_is_deleted_as_it_was_made(to: str, via: str, family: int) -> None:
    network, gateway = ip_network(to), ip_address(via)
    made, deleted = rtnetlink.new_route(network, gateway, 133), rtnetlink.delete_route(network, gateway, 133)
    assert (made.call, made.object, made.kind, made.flags) == ("RTM_NEWROUTE", f"{to} via {via}", 24, 0x604)
    assert (deleted.call, deleted.kind, deleted.flags, deleted.body) == ("RTM_DELROUTE", 25, NLM_F_ACK, made.body)
    assert struct.unpack_from("=BBBBBBBBI", made.body) == (family, network.prefixlen, 0, 0, 254, 133, 0, 1, 0)
    assert parse_attributes(made.body[12:]) == {1: network.network_address.packed, 5: gateway.packed}


def test_dumps_say_what_they_list() -> None:
    assert [
        message.call for message in (rtnetlink.dump_links(), rtnetlink.dump_addresses(), rtnetlink.dump_routes(6))
    ] == [
        "RTM_GETLINK",
        "RTM_GETADDR",
        "RTM_GETROUTE",
    ]
    assert rtnetlink.dump_routes(6).body[0] == socket.AF_INET6


def test_a_link_is_read() -> None:
    body = struct.pack("=BxHiII", 0, 1, 7, 0x1003, 0) + text(3, "crp1") + u32(4, 1500) + u32(10, 5) + u32(27, 2**32 - 1)
    body += attribute(1, b"\2\0\0\0\0\1") + attribute(20, b"crisp:0badcafe:x\0") + nested(18, text(1, "veth"))
    assert rtnetlink.parse_link(Reply(16, 0, 1, body)) == Link(
        index=7,
        name="crp1",
        kind="veth",
        alias="crisp:0badcafe:x",
        master=5,
        mtu=1500,
        hardware=b"\2\0\0\0\0\1",
        up=True,
        group=2**32 - 1,
    )


def test_hardware_has_no_kind_and_no_alias() -> None:
    link = rtnetlink.parse_link(Reply(16, 0, 1, struct.pack("=BxHiII", 0, 1, 2, 0, 0) + text(3, "eth0")))
    assert (link.kind, link.alias, link.master, link.up) == ("", "", 0, False)


def test_the_local_end_of_a_point_to_point_address_counts() -> None:
    header = struct.pack("=BBBBI", socket.AF_INET, 32, 0, 0, 4)
    local, far = ip_address("10.0.0.1").packed, ip_address("10.0.0.2").packed
    both = rtnetlink.parse_address(Reply(20, 0, 1, header + attribute(1, far) + attribute(2, local)))
    assert both == LinkAddress(4, ip_interface("10.0.0.1/32"), 0)
    header = struct.pack("=BBBBI", socket.AF_INET6, 64, 0, 253, 4)
    only = rtnetlink.parse_address(Reply(20, 0, 1, header + attribute(1, ip_address("fe80::1").packed)))
    assert only == LinkAddress(4, ip_interface("fe80::1/64"), 253)


def _rtmsg(family: int, length: int, table: int = 254, kind: int = 1) -> bytes:
    return struct.pack("=BBBBBBBBI", family, length, 0, 0, table, 4, 0, kind, 0)


def test_a_route_is_read_with_gateway_metric_and_source() -> None:
    body = _rtmsg(socket.AF_INET, 0) + u32(4, 2) + u32(6, 100)
    body += attribute(5, ip_address("192.0.2.1").packed) + attribute(7, ip_address("192.0.2.9").packed)
    assert rtnetlink.parse_route(Reply(24, 0, 1, body)) == Route(
        ip_network("0.0.0.0/0"), 2, ip_address("192.0.2.1"), 100, ip_address("192.0.2.9"), 254, 1, 4
    )


def test_a_table_above_255_and_the_first_of_several_hops_are_read() -> None:
    hops = struct.pack("=HBBi", 8, 0, 0, 3) + struct.pack("=HBBi", 8, 0, 0, 4)
    body = _rtmsg(socket.AF_INET6, 64, 252) + attribute(1, ip_address("fd00::").packed) + u32(15, 51820)
    route = rtnetlink.parse_route(Reply(24, 0, 1, body + attribute(9, hops)))
    assert route == Route(ip_network("fd00::/64"), 3, None, 0, None, 51820, 1, 4)


def test_a_blackhole_has_no_link() -> None:
    body = _rtmsg(socket.AF_INET, 8, kind=6) + attribute(1, ip_address("10.0.0.0").packed)
    assert rtnetlink.parse_route(Reply(24, 0, 1, body)).link == 0
