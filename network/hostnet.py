"""What is on this host's network already, and whether a bridge and a subnet fit beside it.

``network.device`` reads a ``HostNetworks`` from the kernel; the functions here judge it
and are pure. ``network.bridge`` asks them before it makes anything, and again after.

Invariant: what another instance, another program or a route of the host uses is
refused with its name; only links with this instance's alias count as our own.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from network.names import Alias, parse_alias
from network.rtnetlink import RT_TABLE_MAIN, RTN_UNICAST, Link, LinkAddress, Network, Route
from runtime.errors import FailedPrecondition

DEFAULT_MTU = 1500
MINIMUM_MTU = {4: 68, 6: 1280}
"""RFC 791 and RFC 8200; by IP version."""
_LOOPBACK = 1
_RT_SCOPE_UNIVERSE = 0


@dataclass(frozen=True, slots=True)
class HostNetworks:
    """One look at a network namespace."""

    links: tuple[Link, ...]
    addresses: tuple[LinkAddress, ...]
    routes: tuple[Route, ...]

    def link_named(self, name: str) -> Link | None:
        return next((link for link in self.links if link.name == name), None)

    def link_at(self, index: int) -> Link | None:
        return next((link for link in self.links if link.index == index), None)


def owner_of(link: Link) -> Alias | None:
    return parse_alias(link.alias)


def belongs_to(link: Link, owner: Alias) -> bool:
    """Whether ``link`` is ``owner``'s: by its alias, or by its group while it has none. Of a
    bridge the instance alone decides, as the kernel cuts a long path."""
    if not link.alias:
        return bool(owner.group) and link.group == owner.group
    found = owner_of(link)
    return found == owner or (found is not None and found.is_bridge and owner.is_bridge and _same(found, owner))


def _same(one: Alias, other: Alias) -> bool:
    return one.instance == other.instance


def uplink(host: HostNetworks, version: int = 4) -> Link | None:
    """The link of the best default route of this IP version."""
    defaults = [route for route in _defaults(host, version) if route.link]
    return host.link_at(defaults[0].link) if defaults else None


def uplink_mtu(host: HostNetworks, versions: Iterable[int] = (4,)) -> int:
    """The least MTU of the uplinks of these IP versions; with IPv6 no less than it needs, as the
    kernel takes IPv6 away from such a link."""
    found = [link.mtu for version in versions if (link := uplink(host, version)) and link.mtu]
    return max(min(found, default=DEFAULT_MTU), MINIMUM_MTU[max(versions, default=4)])


def listening_links(host: HostNetworks) -> list[str]:
    """The links on which router advertisements can matter to this host: hardware, and what an
    IPv6 default route leads through; none of crisp's own."""
    ways = {route.link for route in _defaults(host, 6)}
    foreign = [link for link in host.links if owner_of(link) is None and link.index != _LOOPBACK]
    return [link.name for link in foreign if not link.kind or link.index in ways]


def node_addresses(host: HostNetworks) -> tuple[str, ...]:
    """The node's addresses as others see them, one of each IP version that it has, IPv4 first."""
    return tuple(address for version in (4, 6) for address in _node_address(host, version))


def _node_address(host: HostNetworks, version: int) -> tuple[str, ...]:
    """The default route's source, or the first global address of its link, or of any link that
    is not crisp's. Empty if there is none."""
    defaults = _defaults(host, version)
    for route in defaults:
        if route.source is not None:
            return (str(route.source),)
    ranks = {route.link: rank for rank, route in reversed(list(enumerate(defaults)))}
    foreign = {link.index for link in host.links if owner_of(link) is None}
    found = [
        address
        for address in host.addresses
        if address.interface.version == version and address.scope == _RT_SCOPE_UNIVERSE and address.index in foreign
    ]
    found.sort(key=lambda address: ranks.get(address.index, len(ranks)))
    return (str(found[0].interface.ip),) if found else ()


def check_bridge(host: HostNetworks, name: str, ours: Alias) -> Link | None:
    """The bridge called ``name`` if it is there and ours; None if the name is free.

    Raises:
        FailedPrecondition: it is no bridge, another instance's, or nobody's that we know.
    """
    link = host.link_named(name)
    if link is None:
        return None
    owner = owner_of(link)
    if link.kind == "bridge" and belongs_to(link, ours):
        return link
    if owner is not None and owner.is_bridge:
        raise FailedPrecondition(
            f"belongs to the crisp instance with the root {owner.subject}; set another [network] bridge",
            step="prepare the bridge",
            object=name,
        )
    # Hardware cannot be deleted, and should not be: it may be the way to this node.
    removal = f" or remove it: ip link delete {name}" if link.kind else ""
    raise FailedPrecondition(
        f"an interface of this name (kind {link.kind or 'hardware'}) exists and crisp did not make it; "
        f"set another [network] bridge{removal}",
        step="prepare the bridge",
        object=name,
    )


def check_subnet(host: HostNetworks, subnet: Network, bridge: str, ours: Alias) -> None:
    """That ``subnet`` overlaps nothing but what our own ``bridge`` has.

    Default routes overlap everything and do not count, nor do routes that lead nowhere.

    Raises:
        FailedPrecondition: names the link with its owner, or the route.
    """
    own = host.link_named(bridge)
    own_index = own.index if own is not None else 0
    for address in host.addresses:
        if address.index != own_index and _overlap(subnet, address.interface.network):
            raise _taken(subnet, host, address.index, f"the address {address.interface}", ours)
    for route in host.routes:
        concerns = route.table == RT_TABLE_MAIN and route.kind == RTN_UNICAST and not _is_default(route)
        if concerns and route.link != own_index and _overlap(subnet, route.destination):
            via = f" via {route.gateway}" if route.gateway else ""
            raise _taken(subnet, host, route.link, f"the route {route.destination}{via}", ours)


def links_of_pods(links: Iterable[Link], ours: Alias) -> list[tuple[str, Link]]:
    """This instance's pod links with their sandbox ids ('' where a kill came before the alias)."""
    found: list[tuple[str, Link]] = []
    for link in links:
        alias = owner_of(link)
        if alias is not None and alias.instance == ours.instance and not alias.is_bridge:
            found.append((alias.subject, link))
        elif link.kind in ("veth", "ifb") and not link.alias and belongs_to(link, ours):
            found.append(("", link))
    return found


def _taken(subnet: Network, host: HostNetworks, index: int, by: str, ours: Alias) -> FailedPrecondition:
    link = host.link_at(index)
    name = f" of {link.name}" if link else ""
    owner = owner_of(link) if link else None
    whose = ""
    if owner is not None and not _same(owner, ours):
        whose = f", which belongs to the crisp instance with the root {owner.subject}"
    elif owner is not None:
        whose = ", an earlier bridge of this instance"
    return FailedPrecondition(
        f"overlaps with {by}{name}{whose}; set another [network] subnets",
        step="prepare the bridge",
        object=f"subnet {subnet}",
    )


def _overlap(subnet: Network, other: Network) -> bool:
    return subnet.version == other.version and subnet.overlaps(other)


def _is_default(route: Route) -> bool:
    return route.destination.prefixlen == 0 and route.table == RT_TABLE_MAIN and route.kind == RTN_UNICAST


def _defaults(host: HostNetworks, version: int) -> list[Route]:
    """The default routes of this IP version, the best one first."""
    found = (route for route in host.routes if _is_default(route) and route.destination.version == version)
    return sorted(found, key=lambda route: route.metric)
