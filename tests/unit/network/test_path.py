"""What there is of a hop, in words."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

from network.hostnet import HostNetworks
from network.path import NO_NAMESPACE, address_hop, describe_link, describe_ways, link_hop, routes_to
from network.provider import Hop
from network.rtnetlink import Link, LinkAddress, Route

UP = Link(2, "eth0", "veth", "", 0, 1450, bytes.fromhex("0a580a550002"), True)
DOWN = Link(3, "net1", "veth", "", 0, 1500, b"", False)
ADDRESS = ip_interface("10.85.0.2/16")
DEFAULT = ip_network("0.0.0.0/0")


def route(metric: int, gateway: str, *, table: int = 254) -> Route:
    return Route(DEFAULT, 2, ip_address(gateway), metric, None, table, 1)


NETWORKS = HostNetworks(
    (UP, DOWN),
    (LinkAddress(2, ADDRESS, 0),),
    (route(100, "10.85.0.9"), route(0, "10.85.0.1"), route(0, "10.85.0.8", table=7)),
)


def test_a_link_is_described_with_its_state() -> None:
    assert describe_link(UP) == "index 2, up, mtu 1450, 0a:58:0a:55:00:02"
    assert describe_link(DOWN) == "index 3, down, mtu 1500"


def test_a_link_that_is_down_or_not_there_is_missing() -> None:
    assert link_hop("interface", "eth0", NETWORKS) == Hop("interface", "eth0", describe_link(UP))
    assert link_hop("interface", "net1", NETWORKS).missing == "it is down"
    assert link_hop("interface", "net2", NETWORKS).missing == "there is no such interface"
    assert link_hop("interface", "eth0", None).missing == NO_NAMESPACE


def test_an_address_counts_where_it_belongs() -> None:
    assert address_hop(ADDRESS, "eth0", NETWORKS) == Hop("address", "10.85.0.2/16", "on eth0")
    assert address_hop(ADDRESS, "net1", NETWORKS).missing == "not on net1"
    assert address_hop(ip_interface("10.85.0.2/24"), "eth0", NETWORKS).missing == "not on eth0"
    assert address_hop(ADDRESS, "eth0", None, part="gateway") == Hop("gateway", "10.85.0.2/16", missing=NO_NAMESPACE)


def test_ways_are_those_of_the_main_table_the_best_one_first() -> None:
    assert [str(each.gateway) for each in routes_to(NETWORKS, DEFAULT)] == ["10.85.0.1", "10.85.0.9"]
    ways = "0.0.0.0/0 via 10.85.0.1 dev eth0; 0.0.0.0/0 via 10.85.0.9 dev eth0"
    assert describe_ways(NETWORKS, DEFAULT) == ways
    assert describe_ways(NETWORKS, ip_network("10.0.0.0/8")) == ""
