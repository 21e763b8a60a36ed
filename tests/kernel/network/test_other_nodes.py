"""Two nodes on one link, a network namespace each, whose pods reach each other by static routes."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network
from typing import Any

import pytest

from network.bridge import BridgeProvider, BridgeSettings
from network.lease import MemoryLeaseStore
from network.ports import MemoryPortStore
from network.provider import AttachRequest, PortMapping
from network.routes import MemoryRouteStore, StaticRoute
from runtime.errors import FailedPrecondition, HostFault
from tests.kernel.network.nodes import providing
from tests.kernel.network.talk import FAMILIES, KINDS, ask, connect, end, listen, pick

POD = "1a" * 32


def routes(*pairs: str) -> tuple[StaticRoute, ...]:
    split = (pair.split(" via ") for pair in pairs)
    return tuple(StaticRoute(ip_network(to), ip_address(via)) for to, via in split)


TO_A = routes("10.91.0.0/24 via 192.0.2.1", "fd00:91::/64 via 2001:db8::1")
TO_B = routes("10.92.0.0/24 via 192.0.2.2", "fd00:92::/64 via 2001:db8::2")
A = BridgeSettings(
    instance="0badcafe", root="/var/lib/a", bridge="cra0", subnets=("10.91.0.0/24", "fd00:91::/64"), routes=TO_B
)
B = replace(
    A, instance="deadbeef", root="/var/lib/b", bridge="crb0", subnets=("10.92.0.0/24", "fd00:92::/64"), routes=TO_A
)


@dataclass
class Node:
    """A daemon's network on a host; ``stores`` outlive it."""

    netns: Any
    provider: BridgeProvider

    async def attach(self, pod: Any, *ports: PortMapping) -> tuple[str, ...]:
        with pod.route_socket() as inside:
            request = AttachRequest(sandbox_id=POD, netns_fd=pod.fd, netlink_fd=inside.fileno(), port_mappings=ports)
            return (await self.provider.attach(request)).addresses

    def routes(self) -> set[str]:
        """Those with our protocol number."""
        shown = [self.netns.ip(version, "route", "show", "proto", "133") for version in ("-4", "-6")]
        return {" ".join(line.split()[:3]) for text in shown for line in text.splitlines()}


def names(wanted: tuple[StaticRoute, ...]) -> set[str]:
    return {str(route) for route in wanted}


@asynccontextmanager
async def running(netns: Any, settings: BridgeSettings, store: MemoryRouteStore | None = None) -> AsyncIterator[Node]:
    async with providing(netns, settings, MemoryLeaseStore(), MemoryPortStore(), store) as provider:
        yield Node(netns, provider)


@pytest.fixture
def link(host: Any, make_netns: Callable[[], Any]) -> tuple[Any, Any]:
    """Two hosts on one link; the first is ``host``."""
    other = make_netns()
    other.ip("link", "set", "lo", "up")
    connect(host, "up0", "192.0.2.1/24", other, "up0", "192.0.2.2/24")
    for netns, address in ((host, "2001:db8::1/64"), (other, "2001:db8::2/64")):
        netns.ip("address", "add", address, "dev", "up0", "nodad")
    return host, other


def run(test: Any) -> None:
    async def main() -> None:
        async with asyncio.timeout(60):
            await test()

    asyncio.run(main())


@FAMILIES
@KINDS
def test_pods_of_two_nodes_reach_each_other_with_their_own_addresses(
    link: tuple[Any, Any], make_netns: Callable[[], Any], kind: int, family: int
) -> None:
    """Pods, and a pod behind a host port of the other node; all but pods get the node's address."""

    async def test() -> None:
        async with running(link[0], A) as a, running(link[1], B) as b:
            one, two = make_netns(), make_netns()
            in_one, in_two, on_b = listen(one, kind, family), listen(two, kind, family), listen(b.netns, kind, family)
            protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
            try:
                of_one = pick(await a.attach(one), family)
                of_two = pick(await b.attach(two, PortMapping(protocol, 8080, in_two.getsockname()[1], "")), family)
                assert ask(one, of_two, in_two, kind) == of_one
                assert ask(two, of_one, in_one, kind) == of_two
                of_a, of_b = (
                    pick(pair, family) for pair in (("192.0.2.1", "2001:db8::1"), ("192.0.2.2", "2001:db8::2"))
                )
                assert ask(a.netns, of_two, in_two, kind) == of_a
                assert ask(one, of_b, on_b, kind) == of_a
                assert ask(one, of_b, in_two, kind, 8080) == of_a
                gateway_of_b = pick(("10.92.0.1", "fd00:92::1"), family)
                assert ask(one, gateway_of_b, in_two, kind, 8080) == of_one
                if kind == socket.SOCK_STREAM:  # a datagram's answer comes from the address of the way back
                    assert ask(one, gateway_of_b, on_b, kind) == of_one
            finally:
                for server in (in_one, in_two, on_b):
                    end(server)

    run(test)


def test_the_routes_go_with_the_network_and_those_of_others_stay(link: tuple[Any, Any]) -> None:
    async def test() -> None:
        link[0].ip("route", "add", "10.99.0.0/24", "via", "192.0.2.9", "proto", "133")
        store = MemoryRouteStore()
        async with running(link[0], A, store) as node:
            await node.provider.prepare()
            assert node.routes() == {*names(TO_B), "10.99.0.0/24 via 192.0.2.9"}
            assert set(await store.load()) == set(TO_B)
            await node.provider.teardown()
            assert node.routes() == {"10.99.0.0/24 via 192.0.2.9"}
            assert await store.load() == ()
            await node.provider.teardown()

    run(test)


def test_a_daemon_that_follows_a_killed_one_removes_what_its_settings_have_no_more(link: tuple[Any, Any]) -> None:
    async def test() -> None:
        store = MemoryRouteStore()
        async with running(link[0], A, store) as node:
            await node.provider.prepare()
        changed = routes("10.92.0.0/24 via 192.0.2.3", "fd00:92::/64 via 2001:db8::2")
        async with running(link[0], replace(A, routes=changed), store) as node:
            await node.provider.prepare()
            assert node.routes() == names(changed)
        own = replace(A, routes=(), subnets=("10.92.0.0/24",))
        async with running(link[0], own, store) as node:
            await node.provider.prepare()
            assert node.routes() == set()
        async with running(link[0], own, store) as node:
            await store.save(TO_B)
            await node.provider.teardown()
            assert await store.load() == ()

    run(test)


def test_what_a_killed_daemon_has_only_recorded_is_made_and_belongs_to_the_next(link: tuple[Any, Any]) -> None:
    async def test() -> None:
        store = MemoryRouteStore()
        await store.save(TO_B)
        async with running(link[0], A, store) as node:
            await node.provider.prepare()
            assert node.routes() == names(TO_B)
            await node.provider.teardown()
            assert node.routes() == set()

    run(test)


def test_a_route_that_leads_elsewhere_is_refused_before_anything_is_made(link: tuple[Any, Any]) -> None:
    async def test() -> None:
        link[0].ip("route", "add", "10.92.0.0/24", "via", "192.0.2.9")
        async with running(link[0], A) as node:
            with pytest.raises(FailedPrecondition, match=r"the route 10\.92\.0\.0/24 via 192\.0\.2\.9 dev up0 exists"):
                await node.provider.prepare()
            assert node.routes() == set() and "cra0" not in node.netns.ip("link")

    run(test)


def test_a_subnet_of_kubelets_that_a_route_leads_to_is_refused_and_the_old_one_stays(
    link: tuple[Any, Any], make_netns: Callable[[], Any]
) -> None:
    async def test() -> None:
        async with running(link[0], A) as node:
            await node.provider.prepare()
            with pytest.raises(FailedPrecondition, match=r"overlaps with 10\.92\.0\.0/16, the subnet of this node"):
                await node.provider.set_subnets(["10.92.0.0/16"])
            assert (await node.attach(make_netns()))[0] == "10.91.0.2"
            assert node.routes() == names(TO_B)

    run(test)


def test_a_route_that_is_lost_comes_back_and_one_that_cannot_be_made_is_told(
    link: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("network.other_nodes.AGAIN_SECONDS", 0.0)

    async def test() -> None:
        store = MemoryRouteStore()
        far = routes("10.93.0.0/24 via 198.51.100.1")
        async with running(link[0], replace(A, routes=(*TO_B, *far)), store) as node:
            await node.provider.prepare()
            for _ in range(2):
                status = await node.provider.status()
                assert status.ready and "pods in 10.93.0.0/24 are not reached: " in status.message
                assert node.routes() == names(TO_B)
                node.netns.ip("link", "set", "up0", "down")  # with it go its routes
                assert node.routes() == set()
                node.netns.ip("link", "set", "up0", "up")
                node.netns.ip("address", "replace", "2001:db8::1/64", "dev", "up0", "nodad")
            assert caplog.text.count("pods in 10.93.0.0/24 are not reached") == 1
            node.netns.ip("address", "add", "198.51.100.2/24", "dev", "up0")
            assert (await node.provider.status()).message == ""
            assert node.routes() == names((*TO_B, *far))
            await node.provider.teardown()
            assert node.routes() == set()

    run(test)


def test_a_route_that_leads_elsewhere_now_keeps_no_other_from_coming_back(
    link: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("network.other_nodes.AGAIN_SECONDS", 0.0)

    async def test() -> None:
        store = MemoryRouteStore()
        async with running(link[0], A, store) as node:
            await node.provider.prepare()
            other, kept = TO_B
            for each in TO_B:
                node.netns.ip("route", "delete", str(each.to))
            node.netns.ip("route", "add", str(other.to), "via", "192.0.2.99")
            status = await node.provider.status()
            assert status.ready and f"the route {other.to} via 192.0.2.99 dev up0 exists already" in status.message
            assert node.routes() == names((kept,)) and set(await store.load()) == {kept}
            node.netns.ip("route", "delete", str(other.to))
            assert (await node.provider.status()).message == "" and node.routes() == names(TO_B)

    run(test)


def test_routes_are_not_looked_at_with_every_status(link: tuple[Any, Any]) -> None:
    async def test() -> None:
        async with running(link[0], A) as node:
            await node.provider.prepare()
            node.netns.ip("route", "delete", "10.92.0.0/24")
            assert (await node.provider.status()).ready
            assert node.routes() == {"fd00:92::/64 via 2001:db8::2"}

    run(test)


def test_a_record_that_cannot_be_kept_lets_no_route_be_made_and_is_told(link: tuple[Any, Any]) -> None:
    class Full(MemoryRouteStore):
        async def save(self, routes: Any) -> None:
            raise HostFault("the disk is full", step="store")

    async def test() -> None:
        async with running(link[0], A, Full()) as node:
            await node.provider.prepare()
            assert node.routes() == set()
            status = await node.provider.status()
            assert status.ready and "the disk is full" in status.message

    run(test)


def test_the_same_route_that_another_daemon_makes_meanwhile_is_not_recorded(
    link: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    from network import device

    apply = device.apply_routes

    def late(route: Any, plan: Any) -> Any:
        if plan.add:
            apply(route, replace(plan, add=TO_B[:1]))
        return apply(route, plan)

    async def test() -> None:
        store = MemoryRouteStore()
        monkeypatch.setattr("network.device.apply_routes", late)
        async with running(link[0], A, store) as node:
            await node.provider.prepare()
            assert await store.load() == TO_B[1:]
            await node.provider.teardown()
            assert node.routes() == {"10.92.0.0/24 via 192.0.2.2"}

    run(test)
