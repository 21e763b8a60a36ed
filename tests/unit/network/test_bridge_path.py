"""The path of a pod on the bridge, told from what was seen, piece by piece."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from ipaddress import IPv4Address, ip_address, ip_interface, ip_network

import pytest

from network.bridge_path import Expected, Seen, plan_expected, plan_path
from network.bridge_port import Port
from network.elements import plan_elements
from network.hostnet import HostNetworks
from network.lease import Lease
from network.path import NO_NAMESPACE
from network.provider import Hop, PortMapping
from network.routes import StaticRoute
from network.rtnetlink import Link, LinkAddress, Route

SANDBOX = "5a" * 32
LEASES = (Lease("10.85.0.0/16", "10.85.0.2", SANDBOX), Lease("fd00::/64", "fd00::2", SANDBOX))
ROUTE = StaticRoute(ip_network("10.86.0.0/16"), ip_address("192.0.2.2"))
PORTS = (PortMapping("tcp", 8080, 80, ""),)
EXPECTED = plan_expected(SANDBOX, LEASES, PORTS, ("0badcafe", "crt0"), (ROUTE,), loopback=True)


def link(index: int, name: str, master: int = 0) -> Link:
    return Link(index, name, "veth", "", master, 1500, b"\x0a\x58\0\0\0\1", True)


def way(to: str, index: int, via: str | None = None, metric: int = 0) -> Route:
    return Route(ip_network(to), index, ip_address(via) if via else None, metric, None, 254, 1)


INSIDE = HostNetworks(
    (link(1, "lo"), link(2, "eth0")),
    tuple(LinkAddress(2, ip_interface(each), 0) for each in ("10.85.0.2/16", "fd00::2/64")),
    (way("0.0.0.0/0", 2, "10.85.0.1"), way("::/0", 2, "fd00::1")),
)
HOST = HostNetworks(
    (link(3, "up0"), link(4, "crt0"), link(7, "crp5a5a5a5a5a5a", 4)),
    tuple(LinkAddress(4, ip_interface(each), 0) for each in ("10.85.0.1/16", "fd00::1/64")),
    (
        way("0.0.0.0/0", 3, "192.0.2.1"),
        way("10.85.0.0/16", 4),
        way("fd00::/64", 4),
        way("10.86.0.0/16", 3, "192.0.2.2"),
    ),
)
SEEN = Seen(
    inside=INSIDE,
    host=HOST,
    ports={7: Port(7, 2, 3, True)},
    elements={element.identity: element for element in plan_elements(EXPECTED.pod)},
    sysctls={"ipv4/ip_forward": "1", "ipv6/conf/all/forwarding": "1", "ipv4/conf/crt0/route_localnet": "1"},
)


def without(networks: HostNetworks, name: str) -> HostNetworks:
    return replace(networks, links=tuple(each for each in networks.links if each.name != name))


def missing(seen: Seen, expected: Expected = EXPECTED) -> dict[str, str]:
    return {f"{hop.part} {hop.name}": hop.missing for hop in plan_path(expected, seen) if hop.missing}


def test_of_a_sound_pod_everything_is_told_and_nothing_is_missing() -> None:
    hops = plan_path(EXPECTED, SEEN)
    assert missing(SEEN) == {}
    parts = list(dict.fromkeys(hop.part for hop in hops))
    assert parts == [
        *("address", "interface", "pod's route", "host's end", "bridge port", "bridge", "gateway"),
        *("masquerade", "anti-spoofing", "host port", "route", "other node", "way out", "sysctl"),
    ]
    assert Hop("bridge port", "crp5a5a5a5a5a5a on crt0", "forwarding, hairpin on") in hops
    leads = "element of inet crisp_0badcafe, leads to 10.85.0.2:80"
    assert Hop("host port", "any_ports_v4 tcp *:8080", leads) in hops
    assert Hop("anti-spoofing", "links crp5a5a5a5a5a5a", "element of bridge crisp_0badcafe") in hops
    assert Hop("way out", "IPv4", "0.0.0.0/0 via 192.0.2.1 dev up0") in hops
    assert Hop("way out", "IPv6", "none: what is on no link of this node is not reached") in hops
    assert Hop("sysctl", "net.ipv4.ip_forward", "1") in hops


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda s: replace(s, inside=without(INSIDE, "lo")), {"interface lo": "there is no such interface"}),
        (
            lambda s: replace(s, inside=replace(INSIDE, addresses=INSIDE.addresses[:1])),
            {"address fd00::2/64": "not on eth0"},
        ),
        (
            lambda s: replace(s, inside=replace(INSIDE, routes=(way("0.0.0.0/0", 2, "10.85.0.9"),))),
            {
                "pod's route default via 10.85.0.1": "another one leads out",
                "pod's route default via fd00::1": "there is none",
            },
        ),
        (
            lambda s: replace(s, host=without(HOST, "crp5a5a5a5a5a5a")),
            {
                "host's end crp5a5a5a5a5a5a": "there is no such interface",
                "bridge port crp5a5a5a5a5a5a on crt0": "it is no port of the bridge",
            },
        ),
        (
            lambda s: replace(s, ports={7: Port(7, 5, 3, False)}),
            {
                "host's end crp5a5a5a5a5a5a": "its other end is not the pod's eth0",
                "bridge port crp5a5a5a5a5a5a on crt0": "hairpin is off: the pod does not reach itself by a host port",
            },
        ),
        (
            lambda s: replace(s, host=replace(HOST, routes=HOST.routes[:2])),
            {
                "route fd00::/64 dev crt0": "the node has no way to the pod",
                "other node 10.86.0.0/16 via 192.0.2.2": "no such route (proto 133)",
            },
        ),
        (
            lambda s: replace(s, sysctls={**s.sysctls, "ipv4/ip_forward": "0", "ipv6/conf/all/forwarding": ""}),
            {"sysctl net.ipv4.ip_forward": "it has to be 1", "sysctl net.ipv6.conf.all.forwarding": "it has to be 1"},
        ),
        (lambda s: replace(s, notes=("a wall",)), {"forwarding other tables": "a wall"}),
    ],
)
def test_what_is_broken_is_told_and_nothing_else(damage: Callable[[Seen], Seen], told: dict[str, str]) -> None:
    assert missing(damage(SEEN)) == told


def test_without_the_pods_namespace_all_in_it_is_missing() -> None:
    told = missing(replace(SEEN, inside=None))
    assert set(told.values()) == {NO_NAMESPACE} and len(told) == 6


def test_without_the_bridge_everything_on_it_is_missing() -> None:
    told = missing(replace(SEEN, host=without(HOST, "crt0")))
    assert told["bridge crt0"] == "there is no such interface"
    assert told["gateway 10.85.0.1/16"] == "not on crt0"
    assert told["route 10.85.0.0/16 dev crt0"] == "the node has no way to the pod"


def test_an_element_that_is_gone_or_leads_elsewhere_is_told() -> None:
    first, *rest = plan_elements(EXPECTED.pod)
    elements = {
        each.identity: replace(each, data=IPv4Address("10.85.0.3").packed + b"\0\x50\0\0")
        if "any_ports_v4" in each.set
        else each
        for each in rest
    }
    assert missing(replace(SEEN, elements=elements)) == {
        f"masquerade pods_v4 {first.describe()}": "no such element in inet crisp_0badcafe",
        "host port any_ports_v4 tcp *:8080": "it has to lead to 10.85.0.2:80",
    }


def test_a_pod_without_a_lease_says_so() -> None:
    expected = plan_expected(SANDBOX, (), (), ("0badcafe", "crt0"), (), loopback=False)
    seen = replace(SEEN, sysctls={"ipv4/conf/crt0/route_localnet": "0"})
    assert missing(seen, expected) == {"address ": "none is leased to the pod"}
