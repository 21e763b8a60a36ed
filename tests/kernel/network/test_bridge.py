"""The built-in provider as the daemon uses it: real links, real sockets, real packets."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
import threading
from collections.abc import AsyncIterator, Callable, Collection, Coroutine
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest

from network.bridge import BridgeProvider, BridgeSettings
from network.errors import NetworkNotReady
from network.lease import MemoryLeaseStore
from network.netthread import NetThread
from network.ports import MemoryPortStore
from network.provider import Attachment, AttachRequest, NetworkStatus, OrphanKind, PortMapping, Provider
from runtime.errors import FailedPrecondition, HostFault, InvalidArgument, ResourceExhausted
from tests.descriptors import open_descriptors

SETTINGS = BridgeSettings(
    instance="0badcafe", root="/var/lib/test", bridge="crt0", subnets=("10.91.0.0/24",), rest=0.1, linger=0.05
)
DUAL = replace(SETTINGS, subnets=("10.91.0.0/24", "fd00:91::/64"))
ONE, TWO = "1a" * 32, "2b" * 32
FAMILIES = pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6], ids=["ipv4", "ipv6"])
KINDS = pytest.mark.parametrize("kind", [socket.SOCK_STREAM, socket.SOCK_DGRAM], ids=["tcp", "udp"])
SECONDS = 30


class Node:
    """A host with a provider; ``attach`` makes the pod's namespace as a monitor would."""

    def __init__(self, host: Any, provider: BridgeProvider, make_netns: Callable[[], Any]) -> None:
        self.host, self.provider, self.make_netns = host, provider, make_netns

    async def attach(self, sandbox_id: str, pod: Any = None, *ports: PortMapping) -> tuple[Any, Attachment]:
        pod = pod or self.make_netns()
        with pod.route_socket() as inside:
            request = AttachRequest(
                sandbox_id=sandbox_id, netns_fd=pod.fd, netlink_fd=inside.fileno(), port_mappings=ports
            )
            return pod, await self.provider.attach(request)

    def links(self) -> int:
        return int(self.host.ip("-o", "link", "show", "type", "veth").count("crp"))

    def names(self) -> set[str]:
        """The host's links."""
        return {link["ifname"] for link in json.loads(self.host.ip("-j", "link"))}

    def table_mentions(self, words: str) -> bool:
        return words in str(self.host.run("nft", "list", "table", "inet", "crisp_0badcafe").stdout)

    def elements(self) -> str:
        """The pods' addresses in nftables."""
        sets = ("pods_v4", "pods_v6")
        return "".join(self.host.run("nft", "list", "set", "inet", "crisp_0badcafe", name).stdout for name in sets)


@pytest.fixture
def run_node(host: Any, make_netns: Callable[[], Any]) -> Callable[..., None]:
    """Runs a test's coroutine against a node, and closes what the node opened."""

    @asynccontextmanager
    async def node(settings: BridgeSettings, store: MemoryLeaseStore, ports: MemoryPortStore) -> AsyncIterator[Node]:
        thread = NetThread(host.enter)
        provider = BridgeProvider(settings, store, ports, thread)
        try:
            yield Node(host, provider, make_netns)
        finally:
            await provider.close()
            thread.close()

    def run(
        test: Callable[[Node], Coroutine[Any, Any, None]],
        settings: BridgeSettings = SETTINGS,
        store: MemoryLeaseStore | None = None,
        ports: MemoryPortStore | None = None,
    ) -> None:
        stores = store or MemoryLeaseStore(), ports or MemoryPortStore()

        async def main() -> None:
            async with asyncio.timeout(60), node(settings, *stores) as made:
                await test(made)

        asyncio.run(main())

    return run


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def _listen(netns: Any, kind: int = socket.SOCK_STREAM, family: int = socket.AF_INET) -> socket.socket:
    """A socket in ``netns`` that answers each peer with the address it sees, until it is closed."""
    server: socket.socket = netns.open_socket(family, kind)
    server.bind(("", 0))
    server.settimeout(SECONDS)

    def answer_stream() -> None:
        server.listen()
        while True:
            try:
                peer, where = server.accept()
            except OSError:
                return
            with peer:
                peer.sendall(str(where[0]).encode())

    def answer_datagram() -> None:
        while True:
            try:
                data, where = server.recvfrom(64)
            except OSError:
                return
            if not data:
                return
            with suppress(OSError):  # no way back to an address that was not masqueraded
                server.sendto(where[0].encode(), where)

    if kind == socket.SOCK_STREAM:
        server.listen()
    threading.Thread(target=answer_stream if kind == socket.SOCK_STREAM else answer_datagram, daemon=True).start()
    return server


def _ask(netns: Any, address: str, server: socket.socket, kind: int = socket.SOCK_STREAM, port: int = 0) -> str:
    """Which address ``server`` sees when ``netns`` talks to it at ``address``, its own port or ``port``."""
    with netns.open_socket(server.family, kind) as client:
        client.settimeout(SECONDS)
        client.connect((address, port or server.getsockname()[1]))
        if kind == socket.SOCK_DGRAM:
            client.send(b"?")
        return str(client.recv(64).decode())


def _end(server: socket.socket) -> None:
    with suppress(OSError):  # ENOTCONN: a datagram socket; its reader wakes all the same
        server.shutdown(socket.SHUT_RDWR)
    server.close()


def _pick(addresses: tuple[str, ...], family: int) -> str:
    (found,) = (address for address in addresses if (":" in address) == (family == socket.AF_INET6))
    return found


@FAMILIES
@KINDS
def test_pods_reach_each_other_and_the_host_both_ways_with_their_own_addresses(
    run_node: Callable[..., None], kind: int, family: int
) -> None:
    async def test(node: Node) -> None:
        (one, first), (two, second) = await node.attach(ONE), await node.attach(TWO)
        assert first.addresses == ("10.91.0.2", "fd00:91::2") and second.addresses == ("10.91.0.3", "fd00:91::3")
        assert (first.gateway, first.interface, first.host_interface) == ("10.91.0.1", "eth0", "crp1a1a1a1a1a1a")
        gateway, here, there = (
            _pick(pair, family) for pair in (("10.91.0.1", "fd00:91::1"), first.addresses, second.addresses)
        )
        in_pod, on_host = _listen(two, kind, family), _listen(node.host, kind, family)
        try:
            assert _ask(one, there, in_pod, kind) == here
            assert _ask(two, there, in_pod, kind) == there
            assert _ask(node.host, there, in_pod, kind) == gateway
            assert _ask(one, gateway, on_host, kind) == here
        finally:
            _end(in_pod)
            _end(on_host)

    run_node(test, DUAL)


@FAMILIES
@KINDS
def test_beyond_a_router_a_pod_has_the_nodes_address(run_node: Callable[..., None], kind: int, family: int) -> None:
    """The outside host knows no way to the pods' subnet: without masquerade nothing comes back."""

    async def test(node: Node) -> None:
        _, outside = _reach_outside(node)
        pod, _ = await node.attach(ONE)
        server = _listen(outside, kind, family)
        beyond, seen = (_pick(pair, family) for pair in (OUTSIDE, NODE_ADDRESSES))
        try:
            assert _ask(pod, beyond, server, kind) == seen
            await node.provider.detach(ONE)
            with pytest.raises(OSError):
                _ask_briefly(pod, beyond, server, kind)
        finally:
            _end(server)

    run_node(test, DUAL)


NODE_ADDRESSES, OUTSIDE = ("172.20.0.2", "2001:db8:20::2"), ("203.0.113.9", "2001:db8:9::9")


def _reach_outside(node: Node) -> tuple[Any, Any]:
    """A router next to the node, and a host beyond it that knows the node's network alone."""
    router, outside = node.make_netns(), node.make_netns()
    _connect(node.host, "up0", "172.20.0.2/24", router, "down0", "172.20.0.1/24")
    _connect(router, "out0", "203.0.113.1/24", outside, "in0", "203.0.113.9/24")
    for netns, name, address in (
        (node.host, "up0", "2001:db8:20::2/64"),
        (router, "down0", "2001:db8:20::1/64"),
        (router, "out0", "2001:db8:9::1/64"),
        (outside, "in0", "2001:db8:9::9/64"),
    ):
        netns.ip("address", "add", address, "dev", name, "nodad")
    for netns, destination, gateway in (
        (node.host, "0.0.0.0/0", "172.20.0.1"),
        (node.host, "::/0", "2001:db8:20::1"),
        (outside, "172.20.0.0/24", "203.0.113.1"),
        (outside, "2001:db8:20::/64", "2001:db8:9::1"),
    ):
        netns.ip("route", "add", destination, "via", gateway)
    for name in ("net.ipv4.ip_forward", "net.ipv6.conf.all.forwarding"):
        assert router.run("sysctl", "-q", "-w", f"{name}=1").returncode == 0
    return router, outside


def _ask_briefly(pod: Any, address: str, server: socket.socket, kind: int) -> None:
    with pod.open_socket(server.family, kind) as client:
        client.settimeout(0.3)
        client.connect((address, server.getsockname()[1]))
        client.send(b"?")
        client.recv(64)


def _connect(here: Any, name: str, address: str, there: Any, other: str, far: str) -> None:
    fd = f"/proc/{os.getpid()}/fd/{there.fd}"
    here.ip("link", "add", name, "type", "veth", "peer", "name", other, "netns", fd)
    for netns, link, text in ((here, name, address), (there, other, far)):
        _let_speak_at_once(netns, link)
        netns.ip("address", "add", text, "dev", link)
        netns.ip("link", "set", link, "up")


def _let_speak_at_once(netns: Any, link: str = "default") -> None:
    """``link`` stands for one that has been there for long: for two seconds a new one looks for others that
    have its own address (RFC 4862), and sends nothing by it."""
    assert netns.run("sysctl", "-q", "-w", f"net.ipv6.conf.{link}.accept_dad=0").returncode == 0


async def _serve(node: Node, kind: int, family: int, host_ip: str = "") -> tuple[Any, socket.socket]:
    """The pod ONE with a server behind port 8080 of the host."""
    pod, protocol = node.make_netns(), "tcp" if kind == socket.SOCK_STREAM else "udp"
    server = _listen(pod, kind, family)
    await node.attach(ONE, pod, PortMapping(protocol, 8080, server.getsockname()[1], host_ip))
    return pod, server


@FAMILIES
@KINDS
@pytest.mark.parametrize("filtered", ["0", "1"], ids=["bridged frames unseen", "bridged frames filtered"])
def test_a_host_port_leads_to_the_pod_from_everywhere(
    run_node: Callable[..., None], kind: int, family: int, filtered: str
) -> None:
    """Whoever is answered through the node keeps his address; who would be answered past it does not.

    Where iptables sees bridged frames (br_netfilter), what a pod sends to itself stays on the bridge.
    """

    async def test(node: Node) -> None:
        _set_bridge_filter(node.host, filtered)
        _let_speak_at_once(node.host)
        _, outside = _reach_outside(node)
        other, _ = await node.attach(TWO)
        pod, server = await _serve(node, kind, family)
        gateway, here, beyond = (_pick(pair, family) for pair in (("10.91.0.1", "fd00:91::1"), NODE_ADDRESSES, OUTSIDE))
        try:
            assert _ask(outside, here, server, kind, 8080) == beyond
            assert _ask(node.host, here, server, kind, 8080) == here
            assert _ask(pod, here, server, kind, 8080) == gateway
            assert _ask(other, here, server, kind, 8080) == gateway
            if family == socket.AF_INET:
                assert _ask(node.host, "127.0.0.1", server, kind, 8080) == gateway
            else:
                with pytest.raises(ConnectionRefusedError):
                    _ask(node.host, "::1", server, kind, 8080)
            await node.provider.detach(ONE)
            assert not node.table_mentions("8080")
        finally:
            _end(server)

    run_node(test, DUAL)


def _set_bridge_filter(host: Any, value: str) -> None:
    names = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
    if host.run("sysctl", "-q", "-w", *(f"net.bridge.{name}={value}" for name in names)).returncode and value == "1":
        pytest.skip("this kernel has no br_netfilter")


def test_of_two_ports_the_one_with_an_address_counts_there(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        pod = node.make_netns()
        first, second = _listen(pod), _listen(pod)
        try:
            mappings = [
                PortMapping("tcp", 8080, first.getsockname()[1], ""),
                PortMapping("tcp", 8080, second.getsockname()[1], "127.0.0.1"),
            ]
            await node.attach(ONE, pod, *mappings)
            _end(first)
            assert _ask(node.host, "127.0.0.1", second, port=8080) == "10.91.0.1"
            with pytest.raises(ConnectionRefusedError):
                _ask(node.host, "10.91.0.1", second, port=8080)
        finally:
            _end(first)
            _end(second)

    run_node(test)


def test_a_pod_never_reaches_what_the_node_serves_on_its_loopback_alone(run_node: Callable[..., None]) -> None:
    """With route_localnet its packets to 127.0.0.1 would be taken from the bridge (CVE-2020-8558)."""

    async def test(node: Node) -> None:
        pod, _ = await node.attach(ONE)
        pod.run("sysctl", "-q", "-w", "net.ipv4.conf.all.route_localnet=1")
        pod.ip("address", "delete", "127.0.0.1/8", "dev", "lo")
        pod.ip("route", "add", "127.0.0.0/8", "via", "10.91.0.1", "dev", "eth0", "src", "10.91.0.2")
        server = _listen(node.host)
        try:
            assert node.host.run("nft", "flush", "chain", "inet", "crisp_0badcafe", "guard").returncode == 0
            assert _ask(pod, "127.0.0.1", server) == "10.91.0.2"
            await node.provider.prepare()
            with pytest.raises(TimeoutError):
                _ask_briefly(pod, "127.0.0.1", server, socket.SOCK_STREAM)
        finally:
            _end(server)

    run_node(test)


def test_without_loopback_ports_the_loopback_is_the_nodes_own(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        _, server = await _serve(node, socket.SOCK_STREAM, socket.AF_INET)
        try:
            assert node.host.run("cat", "/proc/sys/net/ipv4/conf/crt0/route_localnet").stdout == "0\n"
            assert _ask(node.host, "10.91.0.1", server, port=8080) == "10.91.0.1"
            with pytest.raises(ConnectionRefusedError):
                _ask(node.host, "127.0.0.1", server, port=8080)
            with pytest.raises(FailedPrecondition, match=r"tcp 127\.0\.0\.1:80: .*loopback_host_ports is off"):
                await node.attach(TWO, None, PortMapping("tcp", 80, 80, "127.0.0.1"))
        finally:
            _end(server)

    run_node(test, replace(SETTINGS, loopback_ports=False))


def test_sctp_ports_are_elements_as_the_others_are(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.attach(ONE, None, PortMapping("sctp", 9899, 80, ""), PortMapping("sctp", 9899, 81, "192.0.2.1"))
        assert node.table_mentions("sctp . 9899 ")
        assert node.table_mentions(": 10.91.0.2 . 80") and node.table_mentions("192.0.2.1 . sctp . 9899 ")
        await node.provider.detach(ONE)
        assert not node.table_mentions("9899")

    run_node(test)


def test_sctp_reaches_the_pod(run_node: Callable[..., None]) -> None:
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP).close()
    except OSError:
        pytest.skip("this kernel has no SCTP")

    async def test(node: Node) -> None:
        pod = node.make_netns()
        server = pod.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP))
        client = node.host.do(lambda: socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_SCTP))
        with server, client:
            await node.attach(ONE, pod, PortMapping("sctp", 9899, 9900, ""))
            server.bind(("", 9900))
            server.listen()
            client.settimeout(SECONDS)
            client.connect(("10.91.0.1", 9899))

    run_node(test)


def test_a_port_that_another_pod_has_is_refused_before_anything_is_done(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        mapping = PortMapping("tcp", 8080, 80, "")
        async with node.provider.reserve(ONE, [mapping]):
            with pytest.raises(FailedPrecondition, match=rf"tcp \*:8080: sandbox {ONE} has it"):
                async with node.provider.reserve(TWO, [mapping]):
                    pass
            await node.attach(ONE, None, mapping)
        before = node.names(), node.elements()
        with pytest.raises(FailedPrecondition, match=f"sandbox {ONE} has it"):
            async with node.provider.reserve(TWO, [replace(mapping, host_ip="127.0.0.1")]):
                pass
        with pytest.raises(FailedPrecondition, match=f"sandbox {ONE} has it"):
            await node.attach(TWO, None, mapping)
        assert (node.names(), node.elements()) == before
        with pytest.raises(FailedPrecondition, match=r"tcp \[::\]:80: pods have no IPv6 address"):
            async with node.provider.reserve(TWO, [PortMapping("tcp", 80, 80, "::")]):
                pass
        await node.provider.detach(ONE)
        await node.attach(TWO, None, mapping)

    run_node(test)


def test_ports_are_mapped_again_after_a_restart_and_a_flush(run_node: Callable[..., None]) -> None:
    store, ports = MemoryLeaseStore(), MemoryPortStore()
    kept: list[tuple[Any, socket.socket]] = []

    async def before(node: Node) -> None:
        kept.append(await _serve(node, socket.SOCK_STREAM, socket.AF_INET))

    async def after(node: Node) -> None:
        assert node.host.run("nft", "flush", "ruleset").returncode == 0
        await node.provider.prepare()
        assert _ask(node.host, "127.0.0.1", kept[0][1], port=8080) == "10.91.0.1"
        with pytest.raises(FailedPrecondition):
            await node.attach(TWO, None, PortMapping("tcp", 8080, 80, ""))

    run_node(before, SETTINGS, store, ports)
    try:
        run_node(after, SETTINGS, store, ports)
    finally:
        _end(kept[0][1])


@FAMILIES
def test_with_deny_a_pod_uses_of_the_node_what_is_listed_and_the_node_uses_pods(
    run_node: Callable[..., None], make_netns: Callable[[], Any], host: Any, family: int
) -> None:
    listed, other = _listen(host, family=family), _listen(host, family=family)

    async def test(node: Node) -> None:
        _, outside = _reach_outside(node)
        pod, attachment = await node.attach(ONE)
        gateway, here = (_pick(pair, family) for pair in (("10.91.0.1", "fd00:91::1"), attachment.addresses))
        in_pod, beyond = _listen(pod, family=family), _listen(outside, family=family)
        try:
            assert _ask(pod, gateway, listed) == here
            assert _ask(node.host, here, in_pod) == gateway
            assert _ask(pod, _pick(OUTSIDE, family), beyond) == _pick(NODE_ADDRESSES, family)
            with pytest.raises(TimeoutError):
                _ask_briefly(pod, gateway, other, socket.SOCK_STREAM)
        finally:
            _end(in_pod)
            _end(beyond)

    try:
        run_node(test, replace(DUAL, host_ports=(("tcp", listed.getsockname()[1]),)))
    finally:
        _end(listed)
        _end(other)


FOREIGN = """
table inet wall {
    chain passing { type filter hook forward priority 10; policy drop; }
}
"""


@FAMILIES
def test_a_foreign_chain_that_drops_is_explained_and_opened_where_the_settings_say_so(
    run_node: Callable[..., None], host: Any, make_netns: Callable[[], Any], family: int
) -> None:
    assert host.run("nft", FOREIGN).returncode == 0
    beyond, reached = _pick(OUTSIDE, family), []

    async def shut(node: Node) -> None:
        reached.append(_reach_outside(node)[1])
        pod, _ = await node.attach(ONE)
        server = _listen(reached[0], family=family)
        try:
            with pytest.raises(TimeoutError):
                _ask_briefly(pod, beyond, server, socket.SOCK_STREAM)
        finally:
            _end(server)
        status = await node.provider.status()
        assert status.ready and "the chain inet wall passing drops what none of its rules accepts" in status.message
        await node.provider.detach(ONE, force=True)

    async def opened(node: Node) -> None:
        pod, _ = await node.attach(TWO)
        server = _listen(reached[0], family=family)
        try:
            assert _ask(pod, beyond, server) == _pick(NODE_ADDRESSES, family)
        finally:
            _end(server)
        assert await node.provider.status() == NetworkStatus(True)
        await node.provider.detach(TWO, force=True)
        await node.provider.teardown()
        assert "crt0" not in node.host.run("nft", "list", "ruleset").stdout

    run_node(shut, DUAL)
    run_node(opened, replace(DUAL, forward_rule=True))


BROADCAST = b"\xff" * 6
OWN = b"\x0a\x58\x0a\x5b\x00\x02"
"""The MAC address of the pod with the address 10.91.0.2."""


def _ipv4(source: str, port: int = 4242) -> bytes:
    """A UDP datagram from ``port``; of what is looked at, all is right."""
    addresses = ip_address(source).packed + ip_address("255.255.255.255").packed
    return struct.pack(">BxHxxxxBBxx", 0x45, 36, 64, 17) + addresses + struct.pack(">HHHxx", port, 68, 16)


def _ipv6(source: str, protocol: int, content: bytes) -> bytes:
    addresses = ip_address(source).packed + ip_address("ff02::1").packed
    return struct.pack(">IHBB", 6 << 28, len(content) + 8, protocol, 255) + addresses + content


def _arp(hardware: bytes, address: str) -> bytes:
    """An answer, to nobody in particular."""
    return struct.pack(">HHBBH", 1, 0x0800, 6, 4, 2) + hardware + ip_address(address).packed + BROADCAST + bytes(4)


def _advertise(target: str) -> bytes:
    return struct.pack(">BxxxI", 136, 0x20000000) + ip_address(target).packed


LINK_LOCAL = "fe80::858:aff:fe5b:2"
HONEST = {
    "its addresses": (OWN, 0x0800, _ipv4("10.91.0.2")),
    "its IPv6 address": (OWN, 0x86DD, _ipv6("fd00:91::2", 17, struct.pack(">HHHxx", 4242, 9, 16))),
    "its link-local address": (OWN, 0x86DD, _ipv6(LINK_LOCAL, 58, _advertise(LINK_LOCAL))),
    "ARP for itself": (OWN, 0x0806, _arp(OWN, "10.91.0.2")),
    "a question before it has an address": (OWN, 0x86DD, _ipv6("::", 58, struct.pack(">Bxxx", 135) + bytes(20))),
}
FORGED = {
    "another's MAC address": (b"\x0a\x58\x0a\x5b\x00\x09", 0x0800, _ipv4("10.91.0.2")),
    "another's IPv4 address": (OWN, 0x0800, _ipv4("10.91.0.9")),
    "another's IPv6 address": (OWN, 0x86DD, _ipv6("fd00:91::9", 17, struct.pack(">HHHxx", 4242, 9, 16))),
    "the node's IPv4 address in ARP": (OWN, 0x0806, _arp(OWN, "10.91.0.1")),
    "another's MAC address in ARP": (OWN, 0x0806, _arp(b"\x0a\x58\x0a\x5b\x00\x09", "10.91.0.2")),
    "the node's IPv6 address in an advertisement": (OWN, 0x86DD, _ipv6("fd00:91::2", 58, _advertise("fd00:91::1"))),
    "a router advertisement": (OWN, 0x86DD, _ipv6(LINK_LOCAL, 58, struct.pack(">Bxxx", 134) + bytes(12))),
    "a redirect": (OWN, 0x86DD, _ipv6(LINK_LOCAL, 58, struct.pack(">Bxxx", 137) + bytes(36))),
    "an answer of a DHCP server": (OWN, 0x0800, _ipv4("10.91.0.2", 67)),
    "an answer of a DHCPv6 server": (OWN, 0x86DD, _ipv6(LINK_LOCAL, 17, struct.pack(">HHHxx", 547, 546, 16))),
    "a frame of no IP": (OWN, 0x88CC, bytes(40)),
}


def _send(pod: Any, frames: Collection[tuple[bytes, int, bytes]], markers: Collection[bytes]) -> None:
    with pod.open_socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.bind(("eth0", 0))
        for (source, kind, content), marker in zip(frames, markers, strict=True):
            out.send(BROADCAST + source + struct.pack(">H", kind) + content + marker)


def _wait_for_links(pod: Any, other: Any) -> None:
    server = _listen(other)
    try:
        assert _ask(pod, "10.91.0.3", server) == "10.91.0.2"
    finally:
        _end(server)


def _seen(watcher: socket.socket, last: bytes) -> set[bytes]:
    """The markers at the end of frames, up to and without ``last``."""
    found: set[bytes] = set()
    while last not in found:
        found.add(watcher.recv(2048)[-8:])
    return found - {last}


def test_a_pod_speaks_for_itself_alone(run_node: Callable[..., None]) -> None:
    """What is forged does not arrive, but does where nothing looks at what comes from pods."""

    async def test(node: Node) -> None:
        _set_bridge_filter(node.host, "0")  # which would refuse our checksums
        (pod, _), (other, _) = await node.attach(ONE), await node.attach(TWO)
        _wait_for_links(pod, other)
        watcher = other.do(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        frames = {**FORGED, **HONEST}
        names = {f"frame{number:03}".encode(): name for number, name in enumerate(frames)}
        with watcher:
            watcher.settimeout(SECONDS)
            for expected in (HONEST, frames):
                _send(pod, [*frames.values(), HONEST["its addresses"]], [*names, b"the last"])
                seen = {names[marker] for marker in _seen(watcher, b"the last") if marker in names}
                assert seen == set(expected)
                assert node.host.run("nft", "flush", "chain", "bridge", "crisp_0badcafe", "from_pods").returncode == 0

    run_node(test, DUAL)


def test_a_pod_without_an_ipv6_address_sends_no_ipv6(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        _set_bridge_filter(node.host, "0")
        (pod, _), (other, _) = await node.attach(ONE), await node.attach(TWO)
        _wait_for_links(pod, other)
        watcher = other.do(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        with watcher:
            watcher.settimeout(SECONDS)
            names = ("its link-local address", "its addresses")
            _send(pod, [HONEST[name] for name in names], [b"frame000", b"the last"])
            assert b"frame000" not in _seen(watcher, b"the last")

    run_node(test)


def test_attaching_again_gives_the_same_address_and_detaching_again_is_no_fault(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        _, first = await node.attach(ONE)
        _, again = await node.attach(ONE)
        assert first == again and node.links() == 1
        await node.provider.detach(ONE)
        await node.provider.detach(ONE)
        await node.provider.detach(TWO, force=True)
        assert "10.91.0.2" not in node.elements()
        _, other = await node.attach(TWO)
        assert other.addresses == ("10.91.0.3",)

    run_node(test)


def test_a_link_goes_with_its_namespace_without_being_deleted(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        pod, _ = await node.attach(ONE)
        pod.close()
        await node.provider.detach(ONE)
        await _until(lambda: node.links() == 0)

    run_node(test, replace(SETTINGS, linger=60))


def test_a_link_whose_namespace_somebody_holds_goes_soon_or_at_once_when_forced(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        held, _ = await node.attach(ONE)
        await node.attach(TWO)
        await node.provider.detach(TWO, force=True)
        assert node.links() == 1
        await node.provider.detach(ONE)
        assert node.links() == 1
        node.provider._settings = replace(SETTINGS, linger=0.01)
        await node.provider.detach(ONE)
        await _until(lambda: node.links() == 0)
        assert "eth0" not in held.ip("link")

    run_node(test, replace(SETTINGS, linger=60))


def test_a_pod_attached_again_in_time_keeps_its_link(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        pod, _ = await node.attach(ONE)
        await node.provider.detach(ONE)
        assert list(node.provider._departures) == [ONE]
        await node.attach(ONE, node.make_netns())
        assert not node.provider._departures
        assert node.links() == 1 and "eth0" not in pod.ip("link")

    run_node(test, replace(SETTINGS, linger=60))


def test_a_hundred_pods_come_and_go_without_a_trace(run_node: Callable[..., None]) -> None:
    """Sixteen at a time; what was there before is there after, and nothing else."""

    async def test(node: Node) -> None:
        await node.provider.prepare()
        before = node.names(), node.elements(), len(open_descriptors())
        limit = asyncio.Semaphore(16)

        async def cycle(number: int) -> str:
            async with limit:
                sandbox_id = f"{number:064x}"[::-1]
                pod, attachment = await node.attach(sandbox_id)
                pod.close()
                await node.provider.detach(sandbox_id)
                return attachment.addresses[0]

        addresses = await asyncio.gather(*(cycle(number) for number in range(100)))
        assert len(set(addresses)) == 100
        await _until(lambda: node.links() == 0)
        assert (node.names(), node.elements(), len(open_descriptors())) == before
        assert await node.provider.orphans([]) == ()

    run_node(test)


def test_a_planted_failure_is_undone_by_detach_and_the_retry_succeeds(
    run_node: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test(node: Node) -> None:
        def fail(*_: object) -> None:
            raise HostFault(step="configure the pod's interface", call="RTM_NEWADDR", errno=errno.ENOBUFS)

        pod = node.make_netns()
        with monkeypatch.context() as planted:
            planted.setattr("network.device.configure_pod", fail)
            with pytest.raises(HostFault, match="RTM_NEWADDR"):
                await node.attach(ONE, pod)
        assert node.links() == 1
        await node.provider.detach(ONE, force=True)
        assert node.links() == 0 and await node.provider.orphans([]) == ()
        _, attachment = await node.attach(ONE, pod)
        assert attachment.addresses == ("10.91.0.3",)

    run_node(test)


def test_cancelled_attaches_are_undone_by_detach(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.provider.prepare()
        for rounds in range(12):
            attach = asyncio.gather(node.attach(ONE))
            for _ in range(rounds):
                await asyncio.sleep(0)
            attach.cancel()
            with suppress(asyncio.CancelledError):
                await attach
            await node.provider.detach(ONE, force=True)
            assert await node.provider.orphans([]) == ()

    run_node(test, replace(SETTINGS, linger=60))


def test_what_belongs_to_nobody_is_found_and_removed(run_node: Callable[..., None]) -> None:
    store = MemoryLeaseStore()

    async def test(node: Node) -> None:
        _, kept = await node.attach(ONE)
        _, lost = await node.attach(TWO, None, PortMapping("udp", 53, 5353, "192.0.2.1"))
        assert await node.provider.orphans([ONE, TWO]) == ()
        found = await node.provider.orphans([ONE])
        assert {(orphan.kind, orphan.name, orphan.owner) for orphan in found} == {
            (OrphanKind.LINK, lost.host_interface, TWO),
            *((OrphanKind.ELEMENT, f"{name} {lost.host_interface}", TWO) for name in ("links", "senders")),
            *(
                (OrphanKind.ELEMENT, f"{name} {lost.host_interface} {address}", TWO)
                for name in ("sources_v6", "advertised")
                for address in ("fd00:91::3", "fe80::858:aff:fe5b:3")
            ),
            (OrphanKind.ELEMENT, f"sources_v4 {lost.host_interface} 10.91.0.3", TWO),
            (OrphanKind.ELEMENT, "10.91.0.3", TWO),
            (OrphanKind.ELEMENT, "fd00:91::3", TWO),
            (OrphanKind.ELEMENT, "udp 192.0.2.1:53", TWO),
            (OrphanKind.ELEMENT, "udp to 10.91.0.3:5353", TWO),
            (OrphanKind.HOST_PORT, "udp 192.0.2.1:53", TWO),
            (OrphanKind.LEASE, "10.91.0.3", TWO),
            (OrphanKind.LEASE, "fd00:91::3", TWO),
        }
        for _ in range(2):
            for orphan in found:
                await node.provider.remove_orphan(orphan)
        assert await node.provider.orphans([ONE]) == ()
        assert node.links() == 1 and kept.addresses[0] in node.elements()

    run_node(test, DUAL, store)


def test_somebody_removes_the_bridge_and_flushes_all_tables_and_pods_get_both_back(
    run_node: Callable[..., None],
) -> None:
    async def test(node: Node) -> None:
        one, _ = await node.attach(ONE)
        node.host.ip("link", "delete", "crt0")
        assert node.host.run("nft", "flush", "ruleset").returncode == 0
        await node.attach(TWO)
        assert "10.91.0.2" in node.elements() and "10.91.0.3" in node.elements()
        node.host.ip("link", "delete", "crt0")
        assert await node.provider.status() == NetworkStatus(True)
        server = _listen(node.host)
        try:
            assert _ask(one, "10.91.0.1", server) == "10.91.0.2"
        finally:
            _end(server)

    run_node(test)


@FAMILIES
def test_new_subnets_are_for_new_pods_and_the_old_ones_keep_working(run_node: Callable[..., None], family: int) -> None:
    async def test(node: Node) -> None:
        _let_speak_at_once(node.host)
        one, first = await node.attach(ONE)
        await node.provider.set_subnets(["fd00:92::/64", "10.92.0.0/24"])
        two, second = await node.attach(TWO)
        assert first.addresses == ("10.91.0.2", "fd00:91::2")
        assert (second.addresses, second.gateway) == (("fd00:92::2", "10.92.0.2"), "fd00:92::1")
        here, there = _pick(first.addresses, family), _pick(second.addresses, family)
        server = _listen(two, family=family)
        try:
            assert _ask(one, there, server) == here
        finally:
            _end(server)
        await node.provider.detach(ONE)
        assert here not in node.elements() and there in node.elements()

    run_node(test, DUAL)


def test_pods_of_ipv6_alone_have_no_ipv4_and_leave_the_hosts_ipv4_as_it_is(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        node.host.run("sysctl", "-q", "-w", "net.ipv4.ip_forward=0")
        pod, attachment = await node.attach(ONE)
        assert (attachment.addresses, attachment.gateway) == (("fd00:91::2",), "fd00:91::1")
        assert "inet " not in pod.ip("address", "show", "dev", "eth0")
        assert node.host.run("cat", "/proc/sys/net/ipv4/ip_forward").stdout == "0\n"
        assert [change.name for change in node.provider.sysctl_changes] == ["net.ipv6.conf.all.forwarding"]

    run_node(test, replace(SETTINGS, subnets=("fd00:91::/64",)))


def test_without_a_subnet_the_network_is_not_ready_until_one_comes(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.provider.prepare()
        status = await node.provider.status()
        assert (status.ready, status.reason) == (False, "NoPodSubnet")
        with pytest.raises(NetworkNotReady, match="no pod subnet yet"):
            await node.attach(ONE)
        await node.provider.set_subnets(["10.91.0.0/24"])
        assert (await node.provider.status()).ready
        assert (await node.attach(ONE))[1].addresses == ("10.91.0.2",)
        await node.provider.set_subnets([])
        assert not (await node.provider.status()).ready

    run_node(test, replace(SETTINGS, subnets=()))


def test_a_subnet_that_is_wrong_or_taken_leaves_the_old_one_in_use(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        node.host.ip("link", "add", "br9", "type", "bridge")
        node.host.ip("address", "add", "10.99.0.1/16", "dev", "br9")
        with pytest.raises(InvalidArgument):
            await node.provider.set_subnets(["10.91.0.1/24"])
        with pytest.raises(FailedPrecondition, match=r"10\.99\.7\.0/24: overlaps with the address 10\.99\.0\.1/16"):
            await node.provider.set_subnets(["10.99.7.0/24"])
        assert (await node.attach(ONE))[1].addresses == ("10.91.0.2",)

    run_node(test)


def test_a_pool_that_is_used_up_is_named(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.attach(ONE)
        with pytest.raises(ResourceExhausted, match=r"pool 10\.91\.0\.0/30"):
            await node.attach(TWO)

    run_node(test, replace(SETTINGS, subnets=("10.91.0.0/30",)))


def test_with_one_pool_used_up_nothing_is_held_of_the_other(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        for sandbox_id in (ONE, TWO):
            await node.attach(sandbox_id)
        three = "3c" * 32
        with pytest.raises(ResourceExhausted, match="pool fd00:91::/126: no free address: of 2 pods have 2"):
            await node.attach(three)
        await node.provider.detach(three)
        assert await node.provider.orphans([ONE, TWO]) == ()

    run_node(test, replace(SETTINGS, subnets=("10.91.0.0/24", "fd00:91::/126")))


def test_a_host_without_nft_is_not_ready_and_says_what_to_install(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        with pytest.raises(HostFault):
            await node.provider.prepare()
        status = await node.provider.status()
        assert (status.ready, status.reason) == (False, "NetworkNotPrepared")
        assert "install the package nftables" in status.message

    run_node(test, replace(SETTINGS, nft_path="/nonexistent"))


def test_another_instances_bridge_is_refused(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        await node.provider.prepare()

        async def second(other: Node) -> None:
            with pytest.raises(FailedPrecondition, match=r"crt0: belongs to .* the root /var/lib/test"):
                await other.provider.prepare()

        await asyncio.to_thread(run_node, second, replace(SETTINGS, instance="deadbeef", root="/srv/other"))

    run_node(test)


def test_teardown_is_for_when_no_pod_is_left(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        provider: Provider = node.provider
        await node.attach(ONE)
        with pytest.raises(FailedPrecondition, match="crt0: 1 pods still have addresses"):
            await provider.teardown()
        await provider.detach(ONE, force=True)
        for _ in range(2):
            await provider.teardown()
        assert "crt0" not in node.host.ip("link") and node.host.run("nft", "list", "tables").stdout == ""
        await node.attach(TWO)

    run_node(test)


def test_a_restart_finds_pods_addresses_and_bridge_as_they_were(run_node: Callable[..., None]) -> None:
    store = MemoryLeaseStore()
    kept: list[Any] = []

    async def before(node: Node) -> None:
        kept.append((await node.attach(ONE))[0])

    async def after(node: Node) -> None:
        index = node.host.ip("-o", "link", "show", "crt0").split(":")[0]
        await node.provider.prepare()
        assert node.host.ip("-o", "link", "show", "crt0").split(":")[0] == index
        _, attachment = await node.attach(TWO)
        assert attachment.addresses == ("10.91.0.3",)
        server = _listen(node.host)
        try:
            assert _ask(kept[0], "10.91.0.1", server) == "10.91.0.2"
        finally:
            _end(server)

    run_node(before, store=store)
    run_node(after, store=store)
