"""A pod speaks with its own addresses alone, to raw sockets beside it."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable, Collection
from ipaddress import ip_address
from typing import Any

import pytest

from network.bandwidth import Bandwidth
from tests.kernel.network.nodes import (
    DUAL,
    ONE,
    TWO,
    Node,
    set_bridge_filter,
)
from tests.kernel.network.talk import SECONDS, ask, end, listen
from tests.rates import LACKING

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
    server = listen(other)
    try:
        assert ask(pod, "10.91.0.3", server) == "10.91.0.2"
    finally:
        end(server)


def _seen(watcher: socket.socket, last: bytes) -> set[bytes]:
    """The markers at the end of frames, up to and without ``last``."""
    found: set[bytes] = set()
    while last not in found:
        found.add(watcher.recv(2048)[-8:])
    return found - {last}


@pytest.mark.parametrize(
    "limited", [False, pytest.param(True, marks=pytest.mark.skipif(bool(LACKING), reason=LACKING))]
)
def test_a_pod_speaks_for_itself_alone(run_node: Callable[..., None], limited: bool) -> None:
    """What is forged does not arrive, but does where nothing looks at what comes from pods (CVE-2020-10749). What
    went through an ifb link is looked at, too."""

    async def test(node: Node) -> None:
        set_bridge_filter(node.host, "0")  # which would refuse our checksums
        (pod, _), (other, _) = await node.attach(ONE), await node.attach(TWO)
        if limited:
            await node.provider.limit(ONE, Bandwidth(egress=10_000_000))
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
        set_bridge_filter(node.host, "0")
        (pod, _), (other, _) = await node.attach(ONE), await node.attach(TWO)
        _wait_for_links(pod, other)
        watcher = other.do(lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        with watcher:
            watcher.settimeout(SECONDS)
            names = ("its link-local address", "its addresses")
            _send(pod, [HONEST[name] for name in names], [b"frame000", b"the last"])
            assert b"frame000" not in _seen(watcher, b"the last")

    run_node(test)
