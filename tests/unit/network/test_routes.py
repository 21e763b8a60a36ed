"""Which routes to other nodes are to be made, which are ours, and which are in the way."""

from __future__ import annotations

from ipaddress import ip_address, ip_interface, ip_network

import pytest

from network.hostnet import HostNetworks
from network.routes import PROTOCOL, MemoryRouteStore, RoutePlan, StaticRoute, plan_routes
from network.rtnetlink import Link, LinkAddress, Route


def static(to: str, via: str) -> StaticRoute:
    return StaticRoute(ip_network(to), ip_address(via))


ONE, TWO = static("10.86.0.0/24", "192.0.2.2"), static("fd00:86::/64", "2001:db8::2")
OLD = static("10.99.0.0/24", "192.0.2.9")
LINKS = (
    Link(2, "up0", "", "", 0, 1500, b"", True),
    Link(3, "crt0", "bridge", "", 0, 1500, b"", True),
)
ADDRESSES = (LinkAddress(2, ip_interface("192.0.2.1/24"), 0), LinkAddress(3, ip_interface("10.85.0.1/24"), 0))


def found(to: str, via: str | None, protocol: int = 4, *, kind: int = 1, table: int = 254) -> Route:
    gateway = None if via is None else ip_address(via)
    return Route(ip_network(to), 2, gateway, 0, None, table, kind, protocol)


def plan(
    *routes: Route,
    wanted: tuple[StaticRoute, ...] = (ONE, TWO),
    recorded: tuple[StaticRoute, ...] = (),
    subnet: str = "10.85.0.0/24",
) -> RoutePlan:
    host = HostNetworks(LINKS, ADDRESSES, routes)
    return plan_routes(host, wanted, recorded, [ip_network(subnet)], "crt0")


def of(route: StaticRoute, protocol: int = PROTOCOL) -> Route:
    return found(str(route.to), str(route.via), protocol)


def test_on_a_host_without_them_all_are_to_be_made() -> None:
    assert plan() == RoutePlan(add=(ONE, TWO))
    assert plan(found("10.86.0.0/16", "192.0.2.7"), found("10.86.0.0/24", None, table=255)).add == (ONE, TWO)


def test_ours_are_kept_and_removed_when_nobody_wants_them_any_more() -> None:
    there = of(ONE), of(OLD)
    assert plan(*there, recorded=(ONE, OLD)) == RoutePlan(kept=(ONE,), add=(TWO,), remove=(OLD,))
    assert plan(*there, wanted=(), recorded=(ONE, OLD)).remove == (ONE, OLD)
    assert set(plan(*there, recorded=(ONE, OLD)).ours) == {ONE, TWO, OLD}


def test_a_way_that_the_settings_have_changed_is_replaced() -> None:
    new = static("10.86.0.0/24", "192.0.2.3")
    assert plan(of(ONE), wanted=(new,), recorded=(ONE,)) == RoutePlan(add=(new,), remove=(ONE,))


def test_what_is_recorded_and_gone_is_nothing_to_remove() -> None:
    assert plan(wanted=(), recorded=(ONE, OLD)) == RoutePlan()


@pytest.mark.parametrize(("protocol", "recorded"), [(4, (ONE,)), (PROTOCOL, ())])
def test_the_same_route_of_somebody_else_is_left_to_him(protocol: int, recorded: tuple[StaticRoute, ...]) -> None:
    assert plan(of(ONE, protocol), wanted=(ONE,), recorded=recorded) == RoutePlan()
    assert plan(of(ONE, protocol), wanted=(), recorded=recorded) == RoutePlan()


@pytest.mark.parametrize(
    ("other", "said"),
    [
        (found("10.86.0.0/24", "192.0.2.7"), "the route 10.86.0.0/24 via 192.0.2.7 dev up0 exists already"),
        (found("10.86.0.0/24", "192.0.2.7", PROTOCOL), "the route 10.86.0.0/24 via 192.0.2.7 dev up0 exists already"),
        (found("10.86.0.0/24", None), "the route 10.86.0.0/24 dev up0 exists already"),
        (found("10.86.0.0/24", None, kind=6), "10.86.0.0/24, which leads nowhere exists already"),
    ],
)
def test_a_route_that_leads_elsewhere_is_refused_and_named(other: Route, said: str) -> None:
    beside = static("10.87.0.0/24", "192.0.2.2")
    planned = plan(other, wanted=(static("10.86.0.0/24", "192.0.2.2"), beside))
    (refusal,) = planned.refused
    assert refusal.object == "route 10.86.0.0/24 via 192.0.2.2" and said in str(refusal)
    assert planned.add == planned.ours == (beside,)


@pytest.mark.parametrize(
    ("route", "said"),
    [
        (static("10.85.0.128/25", "192.0.2.2"), "overlaps with 10.85.0.0/24, the subnet of this node's own pods"),
        (static("192.0.0.0/16", "198.51.100.2"), "this node has 192.0.2.1 itself, on up0"),
        (static("10.86.0.0/24", "192.0.2.1"), "192.0.2.1 is this node's own address"),
    ],
)
def test_a_route_into_this_node_is_refused(route: StaticRoute, said: str) -> None:
    planned = plan(wanted=(route,))
    assert [said in str(refusal) for refusal in planned.refused] == [True] and planned.ours == ()


def test_the_gateway_of_a_subnet_that_was_this_nodes_own_is_in_nobodys_way() -> None:
    before = static("10.85.0.0/24", "192.0.2.2")
    assert plan(wanted=(before,), subnet="10.84.0.0/24").add == (before,)


async def test_a_store_in_memory_has_what_was_saved_last() -> None:
    store = MemoryRouteStore()
    assert await store.load() == ()
    await store.save([ONE])
    await store.save([TWO])
    assert await store.load() == (TWO,)
