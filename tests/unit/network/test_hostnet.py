from __future__ import annotations

from ipaddress import IPv4Network, ip_address, ip_interface, ip_network

import pytest

from network.hostnet import (
    HostNetworks,
    belongs_to,
    check_bridge,
    check_subnet,
    links_of_pods,
    listening_links,
    node_addresses,
    uplink_mtu,
)
from network.names import Alias
from network.rtnetlink import Link, LinkAddress, Route
from runtime.errors import FailedPrecondition

OURS = Alias("0badcafe", "/var/lib/crisp")
THEIRS = Alias("deadbeef", "/srv/other")
POD = Alias("0badcafe", "ab" * 32)
SUBNET = IPv4Network("10.85.0.0/16")


def _link(index: int, name: str, kind: str = "", alias: object = "", mtu: int = 1500, group: int = 0) -> Link:
    return Link(index, name, kind, str(alias), 0, mtu, b"", True, group)


def _route(
    destination: str, link: int, metric: int = 0, gateway: str = "", source: str = "", table: int = 254, kind: int = 1
) -> Route:
    via = ip_address(gateway) if gateway else None
    return Route(ip_network(destination), link, via, metric, ip_address(source) if source else None, table, kind)


def _address(index: int, text: str, scope: int = 0) -> LinkAddress:
    return LinkAddress(index, ip_interface(text), scope)


LO = _link(1, "lo", mtu=65536)
ETH0 = _link(2, "eth0", mtu=9001)
BRIDGE = _link(3, "crisp0", "bridge", OURS)


def test_the_uplink_is_the_default_route_with_the_least_metric() -> None:
    routes = (_route("0.0.0.0/0", 5, 200), _route("0.0.0.0/0", 2, 100), _route("0.0.0.0/0", 1, 0, table=77))
    assert uplink_mtu(HostNetworks((LO, ETH0, _link(5, "wlan0", mtu=1280)), (), routes)) == 9001
    assert uplink_mtu(HostNetworks((LO, ETH0), (), ())) == 1500
    assert uplink_mtu(HostNetworks((LO,), (), (_route("0.0.0.0/0", 9),))) == 1500


def test_with_two_families_the_lesser_mtu_counts_but_ipv6_needs_1280() -> None:
    links = (LO, ETH0, _link(5, "wlan0", mtu=1400), _link(6, "tun0", mtu=576))
    host = HostNetworks(links, (), (_route("0.0.0.0/0", 2), _route("::/0", 5)))
    assert [uplink_mtu(host, versions) for versions in ((4,), (6,), (4, 6))] == [9001, 1400, 1400]
    narrow = HostNetworks(links, (), (_route("0.0.0.0/0", 6),))
    assert [uplink_mtu(narrow, versions) for versions in ((4,), (4, 6), (6,))] == [576, 1280, 1500]


def test_advertisements_matter_on_hardware_and_on_ways_out_but_not_on_our_own_links() -> None:
    links = (LO, ETH0, BRIDGE, _link(4, "docker0", "bridge"), _link(5, "vlan7", "vlan"), _link(6, "br0", "bridge"))
    host = HostNetworks(links, (), (_route("::/0", 5, 100), _route("::/0", 6, 200), _route("::/0", 3)))
    assert listening_links(host) == ["eth0", "vlan7", "br0"]


def test_a_node_has_an_address_of_each_family() -> None:
    addresses = (_address(2, "fe80::2/64", 253), _address(2, "2001:db8::2/64"), _address(2, "192.0.2.2/24"))
    host = HostNetworks((LO, ETH0), addresses, (_route("::/0", 2),))
    assert node_addresses(host) == ("192.0.2.2", "2001:db8::2")


def test_a_node_is_known_by_its_default_routes_source() -> None:
    addresses = (_address(1, "127.0.0.1/8", 254), _address(2, "192.0.2.2/24"), _address(2, "192.0.2.3/24"))
    links = (LO, ETH0, BRIDGE)
    preferred = _route("0.0.0.0/0", 2, source="192.0.2.3")
    assert node_addresses(HostNetworks(links, addresses, (preferred,))) == ("192.0.2.3",)
    assert node_addresses(HostNetworks(links, addresses, (_route("0.0.0.0/0", 2),))) == ("192.0.2.2",)


def test_a_node_without_default_route_is_known_by_an_address_that_is_not_crisps() -> None:
    addresses = (_address(1, "127.0.0.1/8", 254), _address(3, "10.85.0.1/16"), _address(2, "192.0.2.2/24"))
    assert node_addresses(HostNetworks((LO, BRIDGE, ETH0), addresses, ())) == ("192.0.2.2",)
    assert node_addresses(HostNetworks((LO, BRIDGE), addresses[:2], ())) == ()


def test_a_links_owner_is_its_alias_or_while_it_has_none_its_group() -> None:
    assert belongs_to(_link(3, "crp", "veth", POD), POD)
    assert not belongs_to(_link(3, "crp", "veth", Alias("0badcafe", "cd" * 32)), POD)
    assert belongs_to(_link(3, "crp", "veth", group=POD.group), POD)
    assert not belongs_to(_link(3, "crp", "veth", "mine", group=POD.group), POD)
    assert not belongs_to(_link(3, "crp", "veth"), Alias("00000000", "ab"))
    assert belongs_to(_link(3, "crisp0", "bridge", Alias("0badcafe", "/var/lib/cri")), OURS)
    assert not belongs_to(BRIDGE, THEIRS)


def test_a_free_name_and_our_own_bridge_are_fine() -> None:
    assert check_bridge(HostNetworks((LO,), (), ()), "crisp0", OURS) is None
    assert check_bridge(HostNetworks((LO, BRIDGE), (), ()), "crisp0", OURS) == BRIDGE


@pytest.mark.parametrize(
    ("link", "said"),
    [
        (_link(3, "crisp0", "bridge", THEIRS), "crisp0: belongs to the crisp instance with the root /srv/other"),
        (_link(3, "crisp0", "bridge"), r"kind bridge\) exists and crisp did not make it.*ip link delete crisp0"),
        (_link(3, "crisp0"), r"kind hardware\).*; set another \[network\] bridge$"),
        (_link(3, "crisp0", "veth", POD), "kind veth"),
    ],
)
def test_a_strangers_bridge_is_refused(link: Link, said: str) -> None:
    with pytest.raises(FailedPrecondition, match=said):
        check_bridge(HostNetworks((LO, link), (), ()), "crisp0", OURS)


def test_a_subnet_on_our_own_bridge_or_nowhere_is_fine() -> None:
    host = HostNetworks(
        (LO, ETH0, BRIDGE),
        (_address(3, "10.85.0.1/16"), _address(2, "192.0.2.2/24"), _address(2, "fd00::1/8")),
        (
            _route("0.0.0.0/0", 2),
            _route("10.85.0.0/16", 3),
            _route("192.0.2.0/24", 2),
            _route("10.85.7.0/24", 2, table=100),
            _route("10.0.0.0/8", 0, kind=6),
        ),
    )
    check_subnet(host, SUBNET, "crisp0", OURS)


def test_an_ipv6_subnet_is_refused_where_a_route_leads_elsewhere() -> None:
    host = HostNetworks((LO, ETH0), (), (_route("::/0", 2), _route("10.0.0.0/8", 2), _route("fd00:85::/48", 2)))
    check_subnet(host, ip_network("fd00:86::/64"), "crisp0", OURS)
    with pytest.raises(FailedPrecondition, match="subnet fd00:85::/64: overlaps with the route fd00:85::/48 of eth0"):
        check_subnet(host, ip_network("fd00:85::/64"), "crisp0", OURS)


@pytest.mark.parametrize("overlapping", ["10.0.0.0/8", "10.85.0.0/16", "10.85.4.0/24", "10.85.255.255/32"])
def test_a_route_that_overlaps_is_refused_by_name(overlapping: str) -> None:
    host = HostNetworks((LO, ETH0), (), (_route(overlapping, 2, gateway="192.0.2.1"),))
    with pytest.raises(FailedPrecondition) as caught:
        check_subnet(host, SUBNET, "crisp0", OURS)
    assert f"subnet 10.85.0.0/16: overlaps with the route {overlapping} via 192.0.2.1 of eth0" in str(caught.value)


def test_an_address_that_overlaps_is_refused_with_the_instance_that_has_it() -> None:
    other = _link(4, "crisp1", "bridge", THEIRS)
    host = HostNetworks((LO, other), (_address(4, "10.85.128.1/17"),), ())
    with pytest.raises(FailedPrecondition, match=r"address 10\.85\.128\.1/17 of crisp1.*root /srv/other"):
        check_subnet(host, SUBNET, "crisp0", OURS)


def test_an_earlier_bridge_of_our_own_is_named_as_such() -> None:
    host = HostNetworks((LO, BRIDGE), (_address(3, "10.85.0.1/16"),), ())
    with pytest.raises(FailedPrecondition, match="of crisp0, an earlier bridge of this instance"):
        check_subnet(host, SUBNET, "crisp1", OURS)


def test_a_route_without_a_link_is_refused_without_one() -> None:
    with pytest.raises(FailedPrecondition, match=r"the route 10\.85\.0\.0/24; set another"):
        check_subnet(HostNetworks((), (), (_route("10.85.0.0/24", 9),)), SUBNET, "crisp0", OURS)


def test_pod_links_are_found_by_instance() -> None:
    mine, half = _link(5, "crpab", "veth", POD), _link(6, "crpcd", "veth", group=OURS.group)
    links = [LO, BRIDGE, mine, half, _link(7, "crpef", "veth", Alias("deadbeef", "ef" * 32)), _link(8, "veth0", "veth")]
    assert links_of_pods(links, OURS) == [("ab" * 32, mine), ("", half)]


def test_ifb_links_are_told_by_alias_or_by_group_too() -> None:
    mine = _link(5, "cre1", "ifb", POD)
    half = _link(6, "cre2", "ifb", group=OURS.group)
    links = [mine, half, _link(7, "ifb0", "ifb"), _link(8, "dummy0", "dummy", group=OURS.group)]
    assert links_of_pods(links, OURS) == [("ab" * 32, mine), ("", half)]
