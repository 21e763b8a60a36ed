"""Routes to the pods of other nodes: which are to be made, and which of those that are there are ours.

``network.device`` makes and removes them, ``network.other_nodes`` decides when and keeps the
record of ours. Pure, but for ``MemoryRouteStore``.

Invariant: only a route with our protocol number that stands in our record is ever removed; what
others made, another daemon of crisp too, is left, and refused with its name where it leads elsewhere.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

from network.hostnet import HostNetworks
from network.rtnetlink import RT_TABLE_MAIN, RTN_UNICAST, Address, Network, Route
from runtime.errors import FailedPrecondition

PROTOCOL = 133
"""Who made a route (rtm_protocol), as ``ip route`` shows it; below are the kernel's own numbers, and
from 186 on those of routing daemons (rtnetlink(7), linux/rtnetlink.h)."""
STEP = "set the routes to other nodes"


@dataclass(frozen=True, slots=True)
class StaticRoute:
    """``to`` is the subnet of another node's pods, ``via`` that node's address."""

    to: Network
    via: Address

    def __str__(self) -> str:
        return f"{self.to} via {self.via}"


@dataclass(frozen=True, slots=True)
class RoutePlan:
    """``kept`` are there and ours; ``refused`` says why others are neither there nor to be added."""

    kept: tuple[StaticRoute, ...] = ()
    add: tuple[StaticRoute, ...] = ()
    remove: tuple[StaticRoute, ...] = ()
    refused: tuple[FailedPrecondition, ...] = ()

    @property
    def ours(self) -> tuple[StaticRoute, ...]:
        """What is to stand in the record before the plan is carried out."""
        return *self.kept, *self.add, *self.remove


class RouteStore(Protocol):
    """Remembers which routes are ours; what was saved survives a kill of the daemon."""

    async def load(self) -> tuple[StaticRoute, ...]: ...

    async def save(self, routes: Sequence[StaticRoute]) -> None:
        """In place of those of before."""
        ...


def plan_routes(
    host: HostNetworks,
    wanted: Sequence[StaticRoute],
    recorded: Collection[StaticRoute],
    subnets: Collection[Network],
    bridge: str,
) -> RoutePlan:
    """What is to be done so that ``wanted`` are there, and of those in ``recorded`` no others.

    ``subnets`` are those of this node's own pods, on ``bridge``. A route that leads into this node is
    refused, and one where somebody else's leads elsewhere.
    """
    there = [route for route in host.routes if route.table == RT_TABLE_MAIN]
    marked = {_static(route) for route in there if route.protocol == PROTOCOL}
    ours = {route for route in recorded if route in marked}
    refused: dict[StaticRoute, FailedPrecondition] = {}
    for route in wanted:
        try:
            _refuse_own(host, route, subnets, bridge)
            _refuse_other_way(host, route, (each for each in there if _static(each) not in ours))
        except FailedPrecondition as refusal:
            refused[route] = refusal
    present = {*map(_static, there), *refused}
    return RoutePlan(
        kept=tuple(route for route in wanted if route in ours),
        add=tuple(route for route in wanted if route not in present),
        remove=tuple(sorted(ours - set(wanted), key=str)),
        refused=tuple(refused.values()),
    )


def describe_route(host: HostNetworks, route: Route) -> str:
    """As ``ip route`` writes it."""
    if route.kind != RTN_UNICAST:
        return f"{route.destination}, which leads nowhere"
    link = host.link_at(route.link)
    via = f" via {route.gateway}" if route.gateway else ""
    return f"{route.destination}{via}" + (f" dev {link.name}" if link else "")


def _static(route: Route) -> StaticRoute | None:
    """None for one without a gateway, of which we make none."""
    if route.gateway is None or route.kind != RTN_UNICAST:
        return None
    return StaticRoute(route.destination, route.gateway)


def _refuse_own(host: HostNetworks, route: StaticRoute, subnets: Iterable[Network], bridge: str) -> None:
    for subnet in subnets:
        if subnet.version == route.to.version and subnet.overlaps(route.to):
            raise _refusal(route, f"overlaps with {subnet}, the subnet of this node's own pods")
    own = host.link_named(bridge)
    for address in host.addresses:
        if address.interface.ip in route.to and (own is None or address.index != own.index):
            link = host.link_at(address.index)
            raise _refusal(
                route, f"this node has {address.interface.ip} itself" + (f", on {link.name}" if link else "")
            )
        if address.interface.ip == route.via:
            raise _refusal(route, f"{route.via} is this node's own address")


def _refuse_other_way(host: HostNetworks, route: StaticRoute, others: Iterable[Route]) -> None:
    for other in others:
        if other.destination == route.to and _static(other) != route:
            raise _refusal(route, f"the route {describe_route(host, other)} exists already, and crisp did not make it")


def _refusal(route: StaticRoute, words: str) -> FailedPrecondition:
    return FailedPrecondition(f"{words}; change [network] routes", step=STEP, object=f"route {route}")


class MemoryRouteStore:
    """A ``RouteStore`` that forgets with the process: for tests, and to compare others with."""

    def __init__(self) -> None:
        self._routes: tuple[StaticRoute, ...] = ()

    async def load(self) -> tuple[StaticRoute, ...]:
        return self._routes

    async def save(self, routes: Sequence[StaticRoute]) -> None:
        self._routes = tuple(routes)
