"""A network namespace that plays a host with the built-in provider, and what is around it.

``run_node`` of the conftest runs a test's coroutine against one.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any

import pytest

from network.bridge import BridgeProvider, BridgeSettings
from network.lease import MemoryLeaseStore
from network.netthread import NetThread
from network.ports import MemoryPortStore
from network.provider import Attachment, AttachRequest, PortMapping
from network.routes import MemoryRouteStore
from tests.kernel.network.talk import SECONDS, connect, listen

SETTINGS = BridgeSettings(
    instance="0badcafe", root="/var/lib/test", bridge="crt0", subnets=("10.91.0.0/24",), rest=0.1, linger=0.05
)

DUAL = replace(SETTINGS, subnets=("10.91.0.0/24", "fd00:91::/64"))

ONE, TWO = "1a" * 32, "2b" * 32

NODE_ADDRESSES, OUTSIDE = ("172.20.0.2", "2001:db8:20::2"), ("203.0.113.9", "2001:db8:9::9")


class Node:
    """A host with a provider; ``attach`` makes the pod's namespace as a monitor would."""

    def __init__(self, host: Any, provider: BridgeProvider, make_netns: Callable[[], Any]) -> None:
        self.host, self.provider, self.make_netns = host, provider, make_netns

    async def attach(self, sandbox_id: str, pod: Any = None, *ports: PortMapping) -> tuple[Any, Attachment]:
        pod = pod or self.make_netns()
        with pod.route_socket() as inside:
            request = AttachRequest(
                sandbox_id=sandbox_id,
                netns_fd=pod.fd,
                netlink_fd=inside.fileno(),
                netns_path=f"/proc/{os.getpid()}/fd/{pod.fd}",
                port_mappings=ports,
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


Test = Callable[[Node], Coroutine[Any, Any, None]]


def run_on(
    host: Any,
    make_netns: Callable[[], Any],
    test: Test,
    settings: BridgeSettings = SETTINGS,
    store: MemoryLeaseStore | None = None,
    ports: MemoryPortStore | None = None,
) -> None:
    """Run ``test`` against a node on ``host``, and close what the node opened."""
    stores = store or MemoryLeaseStore(), ports or MemoryPortStore()

    async def main() -> None:
        async with asyncio.timeout(60), providing(host, settings, *stores) as provider:
            await test(Node(host, provider, make_netns))

    asyncio.run(main())


@asynccontextmanager
async def providing(
    host: Any,
    settings: BridgeSettings,
    store: MemoryLeaseStore,
    ports: MemoryPortStore,
    routes: MemoryRouteStore | None = None,
) -> AsyncIterator[BridgeProvider]:
    thread = NetThread(host.enter)
    provider = BridgeProvider(settings, store, ports, routes or MemoryRouteStore(), thread)
    try:
        yield provider
    finally:
        await provider.close()
        thread.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(SECONDS):
        while not condition():
            await asyncio.sleep(0.01)


def reach_outside(node: Node) -> tuple[Any, Any]:
    """A router next to the node, and a host beyond it that knows the node's network alone."""
    router, outside = node.make_netns(), node.make_netns()
    connect(node.host, "up0", "172.20.0.2/24", router, "down0", "172.20.0.1/24")
    connect(router, "out0", "203.0.113.1/24", outside, "in0", "203.0.113.9/24")
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


def ask_briefly(pod: Any, address: str, server: socket.socket, kind: int) -> None:
    with pod.open_socket(server.family, kind) as client:
        client.settimeout(0.3)
        client.connect((address, server.getsockname()[1]))
        client.send(b"?")
        client.recv(64)


async def serve(node: Node, kind: int, family: int, host_ip: str = "") -> tuple[Any, socket.socket]:
    """The pod ONE with a server behind port 8080 of the host."""
    pod, protocol = node.make_netns(), "tcp" if kind == socket.SOCK_STREAM else "udp"
    server = listen(pod, kind, family)
    await node.attach(ONE, pod, PortMapping(protocol, 8080, server.getsockname()[1], host_ip))
    return pod, server


def set_bridge_filter(host: Any, value: str) -> None:
    names = ("bridge-nf-call-iptables", "bridge-nf-call-ip6tables")
    if host.run("sysctl", "-q", "-w", *(f"net.bridge.{name}={value}" for name in names)).returncode and value == "1":
        pytest.skip("this kernel has no br_netfilter")
