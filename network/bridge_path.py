"""The path of a packet of a pod on the built-in bridge, from its own interface to the node's way out.

``network.wiring`` looks (``Seen``), ``network.bridge`` knows what there has to be (``Expected``).

Invariant: pure; everything of ``Expected`` has a hop, which says what is missing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from network.bridge_port import Port
from network.elements import OF_BRIDGE, PODS, Element, ElementKey, Pod, plan_elements
from network.hostnet import HostNetworks
from network.lease import Lease
from network.names import POD_INTERFACE, host_link_name, table_name
from network.path import NO_NAMESPACE, address_hop, describe_ways, link_hop, routes_to
from network.provider import Hop, PortMapping
from network.routes import PROTOCOL, StaticRoute
from network.rtnetlink import Interface
from network.subnet import Pool
from network.sysctls import dotted, plan_sysctls

_DEFAULTS = {4: ip_network("0.0.0.0/0"), 6: ip_network("::/0")}
_NOWHERE = "none: what is on no link of this node is not reached"


@dataclass(frozen=True, slots=True, kw_only=True)
class Expected:
    """What there has to be: ``interfaces`` are the pod's addresses with their prefixes, ``gateways`` the
    bridge's in the same order; ``table`` is the nftables table's name, ``sysctls`` are as ``set_sysctl`` takes them."""

    pod: Pod
    interfaces: tuple[Interface, ...]
    gateways: tuple[Interface, ...]
    bridge: str
    table: str
    routes: tuple[StaticRoute, ...] = ()
    sysctls: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What there is: ``inside`` the pod's namespace (None if it is gone), and on the node. ``elements`` are
    all in the nftables sets that the pod is in, ``sysctls`` values by the names in ``Expected`` ('' where the
    kernel has none), ``notes`` what other tables drop, in words."""

    inside: HostNetworks | None
    host: HostNetworks
    ports: Mapping[int, Port]
    elements: Mapping[ElementKey, Element]
    sysctls: Mapping[str, str]
    notes: tuple[str, ...] = ()


def plan_expected(
    sandbox_id: str,
    held: Sequence[Lease],
    ports: tuple[PortMapping, ...],
    names: tuple[str, str],
    routes: tuple[StaticRoute, ...],
    *,
    loopback: bool,
) -> Expected:
    """Of a pod that holds these leases and host ports; ``names`` are the instance's and the bridge's, ``loopback``
    whether 127.0.0.1 leads to host ports."""
    instance, bridge = names
    pools = [Pool(ip_network(lease.pool)) for lease in held]
    return Expected(
        pod=Pod(sandbox_id, tuple(lease.address for lease in held), ports),
        interfaces=tuple(pool.interface(lease.address) for pool, lease in zip(pools, held, strict=True)),
        gateways=tuple(pool.gateway_interface for pool in pools),
        bridge=bridge,
        table=table_name(instance),
        routes=routes,
        sysctls=plan_sysctls({pool.version for pool in pools}, bridge, loopback),
    )


def plan_path(expected: Expected, seen: Seen) -> tuple[Hop, ...]:
    """In the order in which a packet of the pod passes them."""
    return (
        *_inside(expected, seen.inside),
        *_link(expected, seen),
        *_elements(expected, seen),
        *_node(expected, seen),
    )


def _inside(expected: Expected, inside: HostNetworks | None) -> Iterator[Hop]:
    if not expected.interfaces:
        yield Hop("address", "", missing="none is leased to the pod")
    for interface in expected.interfaces:
        yield address_hop(interface, POD_INTERFACE, inside)
    for name in (POD_INTERFACE, "lo"):
        yield link_hop("interface", name, inside)
    for gateway in expected.gateways:
        name = f"default via {gateway.ip}"
        if inside is None:
            yield Hop("pod's route", name, missing=NO_NAMESPACE)
            continue
        default = _DEFAULTS[gateway.version]
        there = any(route.gateway == gateway.ip for route in routes_to(inside, default))
        ways = describe_ways(inside, default)
        yield Hop("pod's route", name, ways, "" if there else "another one leads out" if ways else "there is none")


def _link(expected: Expected, seen: Seen) -> Iterator[Hop]:
    """The veth pair's other end, and the bridge that it is a port of."""
    name = host_link_name(expected.pod.sandbox_id)
    hop = link_hop("host's end", name, seen.host)
    link, bridge = seen.host.link_named(name), seen.host.link_named(expected.bridge)
    port = seen.ports.get(link.index) if link else None
    own = seen.inside.link_named(POD_INTERFACE) if seen.inside else None
    if port is not None and own is not None and port.peer != own.index:
        hop = Hop(hop.part, name, hop.found, f"its other end is not the pod's {POD_INTERFACE}")
    yield hop
    on = f"{name} on {expected.bridge}"
    if link is None or bridge is None or link.master != bridge.index or port is None:
        yield Hop("bridge port", on, missing="it is no port of the bridge")
    else:
        yield Hop("bridge port", on, port.describe(), port.problem())
    yield link_hop("bridge", expected.bridge, seen.host)
    for gateway in expected.gateways:
        yield address_hop(gateway, expected.bridge, seen.host, part="gateway")


def _elements(expected: Expected, seen: Seen) -> Iterator[Hop]:
    for element in plan_elements(expected.pod):
        part, family = "host port", "inet"
        if element.set in OF_BRIDGE:
            part, family = "anti-spoofing", "bridge"
        elif element.set in PODS.values():
            part = "masquerade"
        where = f"{family} {expected.table}"
        name = element.describe() if element.set in OF_BRIDGE else f"{element.set} {element.describe()}"
        found = seen.elements.get(element.identity)
        if found is None:
            yield Hop(part, name, missing=f"no such element in {where}")
        elif found.data != element.data:
            leads = f"leads to {found.leads_to() or 'nothing'}"
            yield Hop(part, name, f"element of {where}, {leads}", f"it has to lead to {element.leads_to()}")
        else:
            yield Hop(part, name, f"element of {where}" + (f", leads to {found.leads_to()}" if found.data else ""))


def _node(expected: Expected, seen: Seen) -> Iterator[Hop]:
    bridge = seen.host.link_named(expected.bridge)
    for gateway in expected.gateways:
        there = bridge and any(each.link == bridge.index for each in routes_to(seen.host, gateway.network))
        name = f"{gateway.network} dev {expected.bridge}"
        ways = describe_ways(seen.host, gateway.network)
        yield Hop("route", name, ways, "" if there else "the node has no way to the pod")
    for static in expected.routes:
        there = any(each.gateway == static.via for each in routes_to(seen.host, static.to))
        ways = describe_ways(seen.host, static.to)
        yield Hop("other node", str(static), ways, "" if there else f"no such route (proto {PROTOCOL})")
    for gateway in expected.gateways:
        yield Hop("way out", f"IPv{gateway.version}", describe_ways(seen.host, _DEFAULTS[gateway.version]) or _NOWHERE)
    for name, value in expected.sysctls.items():
        found = seen.sysctls.get(name, "")
        yield Hop("sysctl", dotted(name), found, "" if found == value else f"it has to be {value}")
    for note in seen.notes:
        yield Hop("forwarding", "other tables", missing=note)
