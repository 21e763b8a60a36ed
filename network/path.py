"""The path of a packet: what the kernel has of each thing on its way, and what it lacks, in words.

``network.bridge_path`` and ``network.cni.path`` plan paths, ``network.path_view`` looks at the
kernel for them, ``crisp explain`` shows them.

Invariant: pure; what is told as found was seen in the kernel, or is said to be only recorded.
"""

from __future__ import annotations

from collections.abc import Iterator

from network.hostnet import HostNetworks
from network.provider import Hop
from network.routes import describe_route
from network.rtnetlink import RT_TABLE_MAIN, RTN_UNICAST, Interface, Link, Network, Route

NO_NAMESPACE = "the pod's network namespace is gone"


def describe_link(link: Link) -> str:
    words = [f"index {link.index}", "up" if link.up else "down", f"mtu {link.mtu}"]
    return ", ".join([*words, link.hardware.hex(":")] if any(link.hardware) else words)


def link_hop(part: str, name: str, networks: HostNetworks | None) -> Hop:
    """``networks`` are those of the namespace that the link belongs in, None if that is gone."""
    if networks is None:
        return Hop(part, name, missing=NO_NAMESPACE)
    link = networks.link_named(name)
    if link is None:
        return Hop(part, name, missing="there is no such interface")
    return Hop(part, name, describe_link(link), "" if link.up else "it is down")


def address_hop(address: Interface, name: str, networks: HostNetworks | None, *, part: str = "address") -> Hop:
    """``address`` on the interface called ``name``."""
    if networks is None:
        return Hop(part, str(address), missing=NO_NAMESPACE)
    link = networks.link_named(name)
    if link is not None and any((each.index, each.interface) == (link.index, address) for each in networks.addresses):
        return Hop(part, str(address), f"on {name}")
    return Hop(part, str(address), missing=f"not on {name}")


def routes_to(networks: HostNetworks, destination: Network) -> Iterator[Route]:
    """Those of the main table, the best one first."""
    found = [
        each
        for each in networks.routes
        if (each.destination, each.table, each.kind) == (destination, RT_TABLE_MAIN, RTN_UNICAST)
    ]
    yield from sorted(found, key=lambda route: route.metric)


def describe_ways(networks: HostNetworks, destination: Network) -> str:
    """The routes to ``destination`` as ``ip route`` has them; '' if there are none."""
    return "; ".join(describe_route(networks, route) for route in routes_to(networks, destination))
