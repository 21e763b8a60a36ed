"""The path of a pod that plugins have attached, told from their result and the kernel."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_interface, ip_network

from network.cni.cache import Entry
from network.cni.conf import parse_list
from network.cni.path import plan_path
from network.cni.result import Result
from network.hostnet import HostNetworks
from network.path import NO_NAMESPACE
from network.provider import Hop
from network.rtnetlink import Link, LinkAddress, Route

CONF = parse_list({"cniVersion": "1.0.0", "name": "net", "plugins": [{"type": "bridge"}, {"type": "portmap"}]})
RESULT = Result(
    interfaces=({"name": "cni0"}, {"name": "veth1"}, {"name": "eth0", "sandbox": "/run/ns"}),
    ips=(
        {"address": "10.9.8.7/24", "gateway": "10.9.8.1", "interface": 2},
        {"address": "10.9.8.1/24", "interface": 0},
        {"address": "fd09::7/64"},
    ),
    routes=({"dst": "0.0.0.0/0"}, {"dst": "10.0.0.0/8", "gw": "10.9.8.2"}, {"dst": "::/0"}),
)
ENTRY = Entry(sandbox_id="ab" * 32, conf=CONF, netns="/run/ns", result=RESULT)


def link(index: int, name: str) -> Link:
    return Link(index, name, "veth", "", 0, 1500, b"", True)


def way(to: str, via: str | None) -> Route:
    return Route(ip_network(to), 2, ip_address(via) if via else None, 0, None, 254, 1)


INSIDE = HostNetworks(
    (link(2, "eth0"),),
    tuple(LinkAddress(2, ip_interface(each), 0) for each in ("10.9.8.7/24", "fd09::7/64")),
    (way("0.0.0.0/0", "10.9.8.1"), way("10.0.0.0/8", "10.9.8.2"), way("::/0", None)),
)
HOST = HostNetworks((link(4, "cni0"), link(5, "veth1")), (LinkAddress(4, ip_interface("10.9.8.1/24"), 0),), ())


def missing(inside: HostNetworks | None, host: HostNetworks = HOST) -> dict[str, str]:
    hops = plan_path(ENTRY, "10-net.conflist", inside, host)
    return {f"{hop.part} {hop.name}": hop.missing for hop in hops if hop.missing}


def test_the_result_is_told_with_what_there_is() -> None:
    hops = plan_path(ENTRY, "10-net.conflist", INSIDE, HOST)
    assert missing(INSIDE) == {}
    assert [(hop.part, hop.name) for hop in hops] == [
        ("network", "net"),
        ("address", "10.9.8.7/24"),
        ("address", "10.9.8.1/24"),
        ("address", "fd09::7/64"),
        ("host's end", "cni0"),
        ("host's end", "veth1"),
        ("interface", "eth0"),
        ("pod's route", "0.0.0.0/0 via 10.9.8.1"),
        ("pod's route", "10.0.0.0/8 via 10.9.8.2"),
        ("pod's route", "::/0"),
    ]
    assert hops[0].found == "CNI 1.0.0, of 10-net.conflist, plugins bridge, portmap"
    assert plan_path(ENTRY, "", INSIDE, HOST)[0].found.startswith("CNI 1.0.0, of no configuration of now, plugins")


def test_what_somebody_has_removed_is_missing() -> None:
    inside = replace(INSIDE, addresses=INSIDE.addresses[1:], routes=(way("0.0.0.0/0", "10.9.8.9"),))
    assert missing(inside, replace(HOST, links=HOST.links[:1])) == {
        "address 10.9.8.7/24": "not on eth0",
        "host's end veth1": "there is no such interface",
        "pod's route 0.0.0.0/0 via 10.9.8.1": "another one leads there",
        "pod's route 10.0.0.0/8 via 10.9.8.2": "there is none",
        "pod's route ::/0": "there is none",
    }


def test_without_the_pods_namespace_all_in_it_is_missing() -> None:
    told = missing(None)
    assert set(told.values()) == {NO_NAMESPACE} and len(told) == 6


def test_an_attachment_that_is_unknown_or_did_not_succeed_is_told() -> None:
    nothing = Hop("network", "CNI", missing="nothing is recorded of an attachment of the pod")
    assert plan_path(None, "", INSIDE, HOST) == (nothing,)
    (begun,) = plan_path(replace(ENTRY, result=None), "", INSIDE, HOST)
    assert begun.missing == "ADD has not succeeded"
