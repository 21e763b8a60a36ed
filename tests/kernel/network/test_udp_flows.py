"""Flows that the kernel tracks in a network namespace, forgotten or kept."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import ip_address
from typing import Any

import pytest

from network.device import open_route_socket
from network.elements import Pod
from network.netlink import NetlinkSocket
from network.provider import PortMapping
from network.udp_flows import UdpFlows
from runtime.errors import HostFault
from tests.kernel.network.talk import SECONDS, connect

POD = Pod("5a" * 32, ("10.91.0.2", "fd00:91::2"), (PortMapping("udp", 8080, 80, ""), PortMapping("tcp", 9090, 80, "")))
RULES = """
table inet test {
  chain prerouting {
    type nat hook prerouting priority -100
    ip daddr 192.0.2.1 udp dport 8080 dnat ip to 10.91.0.2:80
    ip6 daddr 2001:db8::1 udp dport 8080 dnat ip6 to [fd00:91::2]:80
    ip daddr 192.0.2.1 udp dport 8081 dnat ip to 10.91.0.2:81
  }
}
"""
TRACKED = "table inet test { chain prerouting { type filter hook prerouting priority 0; ct state new counter; }; }"


class Node:
    """``flows`` in a thread of the node's; ``outside`` sends from port 4242."""

    def __init__(self, netns: Any, outside: Any) -> None:
        self.netns, self.outside = netns, outside
        self.flows = UdpFlows()
        self._executor = ThreadPoolExecutor(1, initializer=netns.enter)
        self._sockets = [outside.open_socket(family, socket.SOCK_DGRAM) for family in (socket.AF_INET, socket.AF_INET6)]
        self._sockets[1].setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        for each in self._sockets:
            each.bind(("", 4242))

    def call(self, name: str, pod: Pod = POD) -> None:
        def inside() -> None:
            with open_route_socket() as route:
                getattr(self.flows, name)(pod, *((route,) if name == "port_came" else ()))

        self._executor.submit(inside).result()

    def send(self, *places: tuple[str, int]) -> None:
        """Returns when all are tracked: the first to a neighbour waits for its hardware address."""
        for place in places:
            self._sockets[":" in place[0]].sendto(b"?", place)
        end = time.monotonic() + SECONDS
        while not shown(*places) <= self.tracked():
            assert time.monotonic() < end, self.tracked()
            time.sleep(0.01)

    def tracked(self) -> set[str]:
        """Where the flows of 4242 lead that were sent to, as address and port."""
        lines = self.netns.run("cat", "/proc/net/nf_conntrack").stdout.splitlines()
        fields = (dict(field.split("=") for field in reversed(line.split()) if "=" in field) for line in lines)
        return {f"{each['dst']} {each['dport']}" for each in fields if each["sport"] == "4242"}

    def close(self) -> None:
        for each in self._sockets:
            each.close()
        self._executor.submit(self.flows.close).result()
        self._executor.shutdown()


@pytest.fixture
def node(host: Any, make_netns: Callable[[], Any]) -> Iterator[Node]:
    outside = make_netns()
    connect(host, "up0", "192.0.2.1/24", outside, "up1", "192.0.2.2/24")
    host.ip("address", "add", "198.51.100.1/32", "dev", "up0")
    for netns, link, address in ((host, "up0", "2001:db8::1/64"), (outside, "up1", "2001:db8::2/64")):
        netns.ip("address", "add", address, "dev", link, "nodad")
    for version, to, via in (("-4", "0.0.0.0/0", "192.0.2.1"), ("-6", "::/0", "2001:db8::1")):
        outside.ip(version, "route", "add", to, "via", via)
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        assert host.run("sysctl", "-q", "-w", f"{name}=1").returncode == 0
    for to in ("10.91.0.0/24", "203.0.113.0/24"):
        host.ip("route", "add", to, "dev", "up0")
    host.ip("-6", "route", "add", "fd00:91::/64", "dev", "up0")
    made = Node(host, outside)
    yield made
    made.close()


def shown(*places: tuple[str, int]) -> set[str]:
    """As ``tracked`` has them: /proc writes IPv6 addresses in full."""
    return {f"{ip_address(address).exploded} {port}" for address, port in places}


def test_flows_to_this_nodes_addresses_are_forgotten_when_the_port_comes(node: Node) -> None:
    assert node.netns.run("nft", TRACKED).returncode == 0
    gone = ("192.0.2.1", 8080), ("198.51.100.1", 8080), ("2001:db8::1", 8080)
    kept = ("192.0.2.1", 8081), ("203.0.113.9", 8080), ("192.0.2.1", 9090)
    node.send(*gone, *kept)
    assert node.tracked() == shown(*gone, *kept)
    node.call("port_came")
    assert node.tracked() == shown(*kept)


def test_a_port_of_one_address_leaves_flows_to_others(node: Node) -> None:
    assert node.netns.run("nft", TRACKED).returncode == 0
    node.send(("192.0.2.1", 8080), ("198.51.100.1", 8080), ("2001:db8::1", 8080))
    node.call("port_came", Pod(POD.sandbox_id, POD.addresses, (PortMapping("udp", 8080, 80, "198.51.100.1"),)))
    assert node.tracked() == shown(("192.0.2.1", 8080), ("2001:db8::1", 8080))


def test_flows_that_lead_to_the_pod_stay_when_it_comes_and_are_forgotten_when_it_goes(node: Node) -> None:
    assert node.netns.run("nft", RULES).returncode == 0
    places = ("192.0.2.1", 8080), ("2001:db8::1", 8080), ("192.0.2.1", 8081), ("198.51.100.1", 8080)
    node.send(*places)
    everything = shown(*places)
    assert node.tracked() == everything
    node.call("port_came")
    assert node.tracked() == everything - shown(places[3])
    node.call("port_went")
    assert node.tracked() == shown(places[2])


def test_of_several_ports_each_has_its_own_flows_forgotten(node: Node) -> None:
    assert node.netns.run("nft", RULES).returncode == 0
    ports = (
        PortMapping("udp", 8080, 80, ""),
        PortMapping("udp", 8081, 81, "192.0.2.1"),
        PortMapping("udp", 53, 80, ""),
    )
    pod = Pod(POD.sandbox_id, POD.addresses, ports)
    led = ("192.0.2.1", 8080), ("192.0.2.1", 8081)
    others = ("198.51.100.1", 8081), ("203.0.113.9", 53), ("192.0.2.1", 8082)
    node.send(*led, *others, ("198.51.100.1", 53))
    node.call("port_came", pod)
    assert node.tracked() == shown(*led, *others)
    node.call("port_went", pod)
    assert node.tracked() == shown(*others)


def test_hundreds_of_senders_are_forgotten(node: Node) -> None:
    assert node.netns.run("nft", TRACKED).returncode == 0
    node.send(("192.0.2.1", 8081))
    for number in range(300):
        with node.outside.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.bind(("", 20000 + number))
            sender.sendto(b"?", ("192.0.2.1", 8080))
    count = "/proc/sys/net/netfilter/nf_conntrack_count"
    assert int(node.netns.run("cat", count).stdout) >= 300
    node.call("port_came")
    assert "dport=8080" not in node.netns.run("cat", "/proc/net/nf_conntrack").stdout


def test_of_a_pod_without_udp_ports_the_kernel_is_not_asked(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("asked")

    pod = Pod(POD.sandbox_id, POD.addresses, POD.ports[1:])
    with monkeypatch.context() as patch:
        for name in ("open", "dump", "transact"):
            patch.setattr(NetlinkSocket, name, forbidden)
        flows = UdpFlows()
        flows.port_went(pod)
        flows.port_came(pod, None)  # type: ignore[arg-type]
        flows.close()


@pytest.mark.parametrize("number", [errno.EOPNOTSUPP, errno.ENOENT])
def test_a_kernel_that_cannot_forget_is_told_of_once_and_keeps_no_pod(
    node: Node, number: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert node.netns.run("nft", TRACKED).returncode == 0
    node.send(("192.0.2.1", 8080))

    def refuse(*_: object, **__: object) -> None:
        raise HostFault(call="IPCTNL_MSG_CT_DELETE", errno=number)

    monkeypatch.setattr(NetlinkSocket, "transact", refuse)
    for _ in range(2):
        node.call("port_came")
    assert caplog.text.count("until they pause") == (number != errno.ENOENT)
    monkeypatch.setattr(NetlinkSocket, "dump", refuse)
    for name in ("port_came", "port_went"):
        node.call(name)
    assert caplog.text.count("until they pause") == 1
