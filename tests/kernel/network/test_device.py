"""Bridge and veth pairs in real network namespaces."""

from __future__ import annotations

import errno
import json
import socket
from collections.abc import Callable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any

import pytest

from network import device, rtnetlink
from network.device import PodEnd
from network.hostnet import links_of_pods
from network.names import Alias
from network.netlink import NetlinkSocket
from network.routes import RoutePlan, StaticRoute
from network.subnet import Pool
from runtime.errors import FailedPrecondition, HostFault

INSTANCE = "0badcafe"
OURS = Alias(INSTANCE, "/var/lib/test")
POOL = Pool(IPv4Network("10.91.0.0/24"))
OTHER_POOL = Pool(IPv4Network("10.92.0.0/24"))
SANDBOX = "5a" * 32
POD = Alias(INSTANCE, SANDBOX)
END = PodEnd((POOL.interface("10.91.0.2"),), (POOL.gateway,), 1500)
POOL_V6 = Pool(IPv6Network("fd00:91::/64"))
BOTH = PodEnd((POOL_V6.interface("fd00:91::7"), POOL.interface("10.91.0.2")), (POOL_V6.gateway, POOL.gateway), 1500)


@pytest.fixture
def route(host: Any) -> Iterator[NetlinkSocket]:
    sock: NetlinkSocket = host.do(device.open_route_socket)
    with sock:
        yield sock


def _bridge(host: Any, route: NetlinkSocket, pools: list[Pool], mtu: int = 1500) -> int:
    def make() -> int:
        return device.ensure_bridge(route, device.read_host(route), "crt0", OURS, mtu, pools)

    index: int = host.do(make)
    return index


def _addresses(netns: Any, link: str, family: str = "-4") -> set[str]:
    """Those of global scope: the kernel makes the others."""
    found = json.loads(netns.ip("-j", family, "address", "show", "dev", link, "scope", "global"))
    return {
        f"{one['local']}/{one['prefixlen']}" for entry in found for one in entry.get("addr_info", ()) if "local" in one
    }


def test_a_bridge_is_up_named_and_has_the_gateway_address(host: Any, route: NetlinkSocket) -> None:
    index = _bridge(host, route, [POOL], 1400)
    link = device.find_link(route, "crt0")
    assert link is not None
    assert (link.index, link.kind, link.alias, link.mtu, link.up) == (index, "bridge", str(OURS), 1400, True)
    assert _addresses(host, "crt0") == {"10.91.0.1/24"}
    assert host.run("cat", "/proc/sys/net/ipv6/conf/crt0/accept_ra").stdout == "0\n"


def test_a_bridge_made_again_follows_pools_and_mtu_and_keeps_its_index(host: Any, route: NetlinkSocket) -> None:
    index = _bridge(host, route, [POOL])
    assert _bridge(host, route, [OTHER_POOL, POOL], 1300) == index
    assert _addresses(host, "crt0") == {"10.91.0.1/24", "10.92.0.1/24"}
    assert _bridge(host, route, [OTHER_POOL], 1300) == index
    assert _addresses(host, "crt0") == {"10.92.0.1/24"}
    link = device.find_link(route, "crt0")
    assert link is not None and link.mtu == 1300


def test_the_bridge_keeps_its_hardware_address_when_ports_come(
    host: Any, route: NetlinkSocket, make_netns: Any
) -> None:
    index = _bridge(host, route, [POOL])
    before = device.find_link(route, "crt0")
    device.create_pair(route, POD, make_netns().fd, index, END)
    assert device.find_link(route, "crt0") == before


def test_a_pod_gets_loopback_address_and_default_route(host: Any, route: NetlinkSocket, make_netns: Any) -> None:
    pod = make_netns()
    index = _bridge(host, route, [POOL])
    name = device.create_pair(route, POD, pod.fd, index, PodEnd(END.interfaces, END.gateways, 1450))
    with pod.route_socket() as inside:
        device.configure_pod(inside.fileno(), END)
    link = device.find_link(route, name)
    assert link is not None
    assert (link.name, link.alias, link.master) == ("crp5a5a5a5a5a5a", f"crisp:{INSTANCE}:{SANDBOX}", index)
    assert (link.mtu, link.up) == (1450, True)
    assert "hairpin on" in host.ip("-d", "link", "show", name)
    assert _addresses(pod, "eth0") == {"10.91.0.2/24"}
    assert json.loads(pod.ip("-j", "route", "show", "default"))[0]["gateway"] == "10.91.0.1"
    assert "UP" in json.loads(pod.ip("-j", "link", "show", "lo"))[0]["flags"]
    assert json.loads(pod.ip("-j", "link", "show", "eth0"))[0]["address"] == "0a:58:0a:5b:00:02"


def test_a_pod_of_both_families_can_use_its_addresses_at_once(host: Any, route: NetlinkSocket, make_netns: Any) -> None:
    pod = make_netns()
    index = _bridge(host, route, [POOL_V6, POOL])
    device.create_pair(route, POD, pod.fd, index, BOTH)
    with pod.route_socket() as inside, pod.open_socket(socket.AF_INET6, socket.SOCK_DGRAM) as bound:
        device.configure_pod(inside.fileno(), BOTH)
        bound.bind(("fd00:91::7", 0))  # EADDRNOTAVAIL while the kernel asks whether somebody has it
    assert _addresses(pod, "eth0") == {"10.91.0.2/24"}
    assert _addresses(pod, "eth0", "-6") == {"fd00:91::7/64"}
    assert json.loads(pod.ip("-j", "-6", "route", "show", "default"))[0]["gateway"] == "fd00:91::1"
    assert json.loads(pod.ip("-j", "link", "show", "eth0"))[0]["address"] == "0a:58:0a:5b:00:02"


def test_the_bridge_has_the_gateway_of_either_family_also_where_links_begin_without_ipv6(
    host: Any, route: NetlinkSocket
) -> None:
    host.run("sysctl", "-q", "-w", "net.ipv6.conf.default.disable_ipv6=1")
    index = _bridge(host, route, [POOL_V6, POOL])
    assert _addresses(host, "crt0") == {"10.91.0.1/24"}
    assert _addresses(host, "crt0", "-6") == {"fd00:91::1/64"}
    assert _bridge(host, route, [POOL]) == index
    assert _addresses(host, "crt0", "-6") == set()


def test_a_pair_left_by_a_broken_attempt_is_replaced(host: Any, route: NetlinkSocket, make_netns: Any) -> None:
    index = _bridge(host, route, [POOL])
    old, new = make_netns(), make_netns()
    device.create_pair(route, POD, old.fd, index, END)
    name = device.create_pair(route, POD, new.fd, index, END)
    assert "eth0" in new.ip("link") and "eth0" not in old.ip("link")
    assert device.find_link(route, name) is not None


def test_an_interface_of_that_name_with_another_owner_is_refused(
    host: Any, route: NetlinkSocket, make_netns: Any
) -> None:
    index = _bridge(host, route, [POOL])
    host.ip("link", "add", "crp5a5a5a5a5a5a", "type", "bridge")
    with pytest.raises(FailedPrecondition, match="crp5a5a5a5a5a5a: the interface exists and is not this pod's"):
        device.create_pair(route, POD, make_netns().fd, index, END)
    assert not device.delete_pod_link(route, POD)
    assert device.find_link(route, "crp5a5a5a5a5a5a") is not None


def test_a_missing_bridge_fails_with_call_and_errno_and_leaves_no_pair(
    host: Any, route: NetlinkSocket, make_netns: Any
) -> None:
    with pytest.raises(HostFault) as caught:
        device.create_pair(route, POD, make_netns().fd, 4711, END)
    assert (caught.value.call, caught.value.errno) == ("RTM_NEWLINK", errno.EINVAL)
    assert device.find_link(route, "crp5a5a5a5a5a5a") is None


def test_a_namespace_without_eth0_is_not_configured(make_netns: Any) -> None:
    with make_netns().route_socket() as inside, pytest.raises(HostFault, match="not in the pod's namespace"):
        device.configure_pod(inside.fileno(), END)


def test_links_are_deleted_once_and_only_with_the_right_owner(host: Any, route: NetlinkSocket, make_netns: Any) -> None:
    index = _bridge(host, route, [POOL])
    name = device.create_pair(route, POD, make_netns().fd, index, END)
    assert not device.delete_owned(route, name, Alias("deadbeef", SANDBOX))
    assert device.delete_pod_link(route, POD)
    assert not device.delete_pod_link(route, POD)
    assert not device.delete_owned(route, "crt0", Alias("deadbeef", "/var/lib/test"))
    assert device.delete_owned(route, "crt0", OURS)
    assert not device.delete_owned(route, "crt0", OURS)


def test_links_that_a_kill_left_without_alias_are_known_by_their_group(
    host: Any, route: NetlinkSocket, make_netns: Any
) -> None:
    bridge = rtnetlink.new_bridge("crt0", hardware=b"\x0a\x58\0\0\0\1", group=OURS.group, mtu=1500)
    route.transact([bridge], step="plant")
    index = _bridge(host, route, [POOL])
    peer = rtnetlink.Peer("eth0", b"\x0a\x58\0\0\0\2", make_netns().fd)
    veth = rtnetlink.new_veth("crp5a5a5a5a5a5a", peer, group=OURS.group, bridge=index, mtu=1500)
    route.transact([veth], step="plant")
    assert [(owner, link.name) for owner, link in links_of_pods(device.read_host(route).links, OURS)] == [
        ("", "crp5a5a5a5a5a5a")
    ]
    device.create_pair(route, POD, make_netns().fd, index, END)
    assert [owner for owner, _ in links_of_pods(device.read_host(route).links, OURS)] == [SANDBOX]


def test_ports_return_to_a_bridge_that_was_made_again(host: Any, route: NetlinkSocket, make_netns: Any) -> None:
    index = _bridge(host, route, [POOL])
    name = device.create_pair(route, POD, make_netns().fd, index, END)
    host.ip("link", "delete", "crt0")
    index = _bridge(host, route, [POOL])
    stale = device.read_host(route)
    device.restore_ports(route, stale, OURS, index)
    link = device.find_link(route, name)
    assert link is not None and link.master == index
    assert "hairpin on" in host.ip("-d", "link", "show", name)
    device.delete_pod_link(route, POD)
    device.restore_ports(route, stale, OURS, index)


def test_reading_the_host_sees_links_addresses_and_routes(host: Any, route: NetlinkSocket) -> None:
    host.ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
    host.ip("link", "set", "up1", "up")
    host.ip("address", "add", "172.20.0.5/24", "dev", "up0")
    host.ip("link", "set", "up0", "up")
    host.ip("route", "add", "default", "via", "172.20.0.1")
    host.ip("route", "add", "2001:db8:7::/64", "dev", "up0")
    seen = device.read_host(route)
    link = seen.link_named("up0")
    assert link is not None and link.kind == "veth"
    assert "172.20.0.5/24" in {str(address.interface) for address in seen.addresses if address.index == link.index}
    assert {str(found.destination) for found in seen.routes if found.link == link.index and found.table == 254} == {
        "0.0.0.0/0",
        "172.20.0.0/24",
        "2001:db8:7::/64",
        "fe80::/64",
    }


def test_routes_to_other_nodes_are_made_and_removed_and_others_stay(host: Any, route: NetlinkSocket) -> None:
    host.ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
    host.ip("link", "set", "up1", "up")
    host.ip("address", "add", "192.0.2.1/24", "dev", "up0")
    host.ip("address", "add", "2001:db8::1/64", "dev", "up0", "nodad")
    host.ip("link", "set", "up0", "up")
    one, two = (
        StaticRoute(ip_network(to), ip_address(via))
        for to, via in (("10.86.0.0/24", "192.0.2.2"), ("fd00:86::/64", "2001:db8::2"))
    )
    far = StaticRoute(ip_network("10.87.0.0/24"), ip_address("198.51.100.1"))
    refused = device.apply_routes(route, RoutePlan(add=(one, far, two)))
    assert [(each, fault.errno) for each, fault in refused.items()] == [(far, errno.ENETUNREACH)]
    assert "10.86.0.0/24 via 192.0.2.2 dev up0 proto 133" in host.ip("route")
    assert "fd00:86::/64 via 2001:db8::2 dev up0 proto 133" in host.ip("-6", "route")
    assert [fault.errno for fault in device.apply_routes(route, RoutePlan(add=(one,))).values()] == [errno.EEXIST]
    host.ip("route", "replace", "10.86.0.0/24", "via", "192.0.2.2", "proto", "static")
    for _ in range(2):
        assert device.apply_routes(route, RoutePlan(remove=(one, two))) == {}
    assert "10.86.0.0/24 via 192.0.2.2 dev up0 proto static" in host.ip("route")
    assert "fd00:86" not in host.ip("-6", "route")


def test_a_default_pod_is_wired_without_a_fork(
    host: Any, route: NetlinkSocket, make_netns: Callable[[], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    index, pod = _bridge(host, route, [POOL]), make_netns()
    inside = pod.route_socket()

    def forbidden(*_: object) -> int:
        raise AssertionError("forked")

    for name in ("fork", "posix_spawn"):
        monkeypatch.setattr(f"os.{name}", forbidden)
    monkeypatch.setattr("subprocess.Popen", forbidden)
    with inside:
        device.create_pair(route, POD, pod.fd, index, END)
        device.configure_pod(inside.fileno(), END)
