"""Host ports of the built-in provider: which pod gets a packet, and who may have a port."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from network.lease import MemoryLeaseStore
from network.ports import MemoryPortStore
from network.provider import NetworkStatus, PortMapping
from runtime.errors import FailedPrecondition
from tests.kernel.network.nodes import (
    DUAL,
    NODE_ADDRESSES,
    ONE,
    OUTSIDE,
    SETTINGS,
    TWO,
    Node,
    reach_outside,
    serve,
)
from tests.kernel.network.talk import FAMILIES, SECONDS, ask, end, let_speak_at_once, listen, pick

TRACKED = "table inet test { chain prerouting { type filter hook prerouting priority 0; ct state new counter; }; }"


def test_of_two_ports_the_one_with_an_address_counts_there(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        pod = node.make_netns()
        first, second = listen(pod), listen(pod)
        try:
            mappings = [
                PortMapping("tcp", 8080, first.getsockname()[1], ""),
                PortMapping("tcp", 8080, second.getsockname()[1], "127.0.0.1"),
            ]
            await node.attach(ONE, pod, *mappings)
            end(first)
            assert ask(node.host, "127.0.0.1", second, port=8080) == "10.91.0.1"
            with pytest.raises(ConnectionRefusedError):
                ask(node.host, "10.91.0.1", second, port=8080)
        finally:
            end(first)
            end(second)

    run_node(test)


def test_without_loopback_ports_the_loopback_is_the_nodes_own(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        _, server = await serve(node, socket.SOCK_STREAM, socket.AF_INET)
        try:
            assert node.host.run("cat", "/proc/sys/net/ipv4/conf/crt0/route_localnet").stdout == "0\n"
            assert ask(node.host, "10.91.0.1", server, port=8080) == "10.91.0.1"
            with pytest.raises(ConnectionRefusedError):
                ask(node.host, "127.0.0.1", server, port=8080)
            with pytest.raises(FailedPrecondition, match=r"tcp 127\.0\.0\.1:80: .*loopback_host_ports is off"):
                await node.attach(TWO, None, PortMapping("tcp", 80, 80, "127.0.0.1"))
        finally:
            end(server)

    run_node(test, replace(SETTINGS, loopback_ports=False))


def test_a_sender_that_began_while_the_tables_were_gone_is_led_to_the_pod_once_they_are_back(
    run_node: Callable[..., None],
) -> None:
    async def test(node: Node) -> None:
        _, outside = reach_outside(node)
        assert node.host.run("nft", TRACKED).returncode == 0
        pod = node.make_netns()
        servers = [netns.open_socket(socket.AF_INET, socket.SOCK_DGRAM) for netns in (node.host, pod)]
        for server, port in zip(servers, (8080, 80), strict=True):
            server.bind(("", port))
            server.settimeout(SECONDS)
        await node.attach(ONE, pod, PortMapping("udp", 8080, 80, ""))
        assert node.host.run("nft", f"flush ruleset; {TRACKED}").returncode == 0
        address = pick(NODE_ADDRESSES, socket.AF_INET)
        with outside.open_socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"to the node", (address, 8080))
            assert servers[0].recvfrom(16)[0] == b"to the node"
            assert await node.provider.status() == NetworkStatus(True)
            sender.sendto(b"to the pod", (address, 8080))
            assert servers[1].recvfrom(16)[0] == b"to the pod"
        for server in servers:
            server.close()

    run_node(test, DUAL)


@FAMILIES
@pytest.mark.parametrize("host_ip", ["", "own"], ids=["any address", "one address"])
def test_a_sender_of_datagrams_that_goes_on_from_one_port_is_led_to_whoever_has_the_host_port(
    run_node: Callable[..., None], family: int, host_ip: str
) -> None:
    """To a program of the node, to a pod, to the next one, and to the program again."""

    async def test(node: Node) -> None:
        let_speak_at_once(node.host)
        _, outside = reach_outside(node)
        pods = [node.make_netns() for _ in range(3)]
        servers = [netns.open_socket(family, socket.SOCK_DGRAM) for netns in (node.host, *pods)]
        for server, port in zip(servers, (8080, 80, 80, 53), strict=True):
            server.bind(("", port))
            server.settimeout(SECONDS)
        address, beyond = (pick(pair, family) for pair in (NODE_ADDRESSES, OUTSIDE))
        mapping = PortMapping("udp", 8080, 80, host_ip and address)
        await node.attach("3c" * 32, pods[2])
        sender, other = (outside.open_socket(family, socket.SOCK_DGRAM) for _ in range(2))
        try:

            def say(word: bytes, server: socket.socket) -> None:
                sender.sendto(word, (address, 8080))
                assert server.recvfrom(16)[0] == word

            say(b"to the node", servers[0])
            await node.attach(ONE, pods[0], mapping)
            say(b"to one", servers[1])
            other.bind(("", 8080))
            servers[3].sendto(b"from a pod", (beyond, 8080))
            data, back = other.recvfrom(16)
            await node.provider.detach(ONE)
            say(b"to the node", servers[0])
            await node.attach(TWO, pods[1], mapping)
            say(b"to two", servers[2])
            other.sendto(b"an answer", back)
            assert (data, servers[3].recvfrom(16)[0]) == (b"from a pod", b"an answer")
        finally:
            for each in (*servers, sender, other):
                each.close()

    run_node(test, DUAL)


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
        kept.append(await serve(node, socket.SOCK_STREAM, socket.AF_INET))

    async def after(node: Node) -> None:
        assert node.host.run("nft", "flush", "ruleset").returncode == 0
        await node.provider.prepare()
        assert ask(node.host, "127.0.0.1", kept[0][1], port=8080) == "10.91.0.1"
        with pytest.raises(FailedPrecondition):
            await node.attach(TWO, None, PortMapping("tcp", 8080, 80, ""))

    run_node(before, SETTINGS, store, ports)
    try:
        run_node(after, SETTINGS, store, ports)
    finally:
        end(kept[0][1])
