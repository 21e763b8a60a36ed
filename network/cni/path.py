"""The path of a packet of a pod that CNI plugins have attached: what their result says, and what there is.

What lies between the interfaces of the result is the plugins' own: their bridges, chains and
tunnels have no name that crisp knows.

Invariant: pure; everything in the result has a hop, which says what is missing of it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from network.cni.cache import Entry
from network.cni.environment import INTERFACE
from network.cni.result import Result
from network.hostnet import HostNetworks
from network.path import NO_NAMESPACE, address_hop, describe_ways, link_hop, routes_to
from network.provider import Hop


def plan_path(entry: Entry | None, file: str, inside: HostNetworks | None, host: HostNetworks) -> tuple[Hop, ...]:
    """``file`` is the configuration that has the pod's network now, '' if none does; ``inside`` is the pod's
    namespace, None if it is gone."""
    if entry is None:
        return (Hop("network", "CNI", missing="nothing is recorded of an attachment of the pod"),)
    conf = entry.conf
    plugins = ", ".join(plugin.type for plugin in conf.plugins)
    where = file or "no configuration of now"
    found = f"CNI {conf.version}, of {where}, plugins {plugins}"
    if entry.result is None:
        return (Hop("network", conf.name, found, "ADD has not succeeded"),)
    return (Hop("network", conf.name, found), *_result(entry.result, inside, host))


def _result(result: Result, inside: HostNetworks | None, host: HostNetworks) -> Iterator[Hop]:
    for ip in result.ips:
        name, own = _interface_of(result, ip)
        yield address_hop(ip_interface(ip["address"]), name, inside if own else host)
    for interface in result.interfaces:
        own = bool(interface.get("sandbox"))
        yield link_hop("interface" if own else "host's end", interface["name"], inside if own else host)
    for route in result.routes:
        yield _route(route, result, inside)


def _interface_of(result: Result, ip: Mapping[str, Any]) -> tuple[str, bool]:
    """The interface's name, and whether it is in the pod."""
    at = ip.get("interface")
    link = result.interfaces[at] if at is not None else {"name": INTERFACE, "sandbox": "pod"}
    return str(link["name"]), bool(link.get("sandbox"))


def _route(route: Mapping[str, Any], result: Result, inside: HostNetworks | None) -> Hop:
    """Without a gateway of its own it leads through that of an address (CNI specification, 1.0.0)."""
    destination = ip_network(route["dst"], strict=False)
    gateways = [route["gw"]] if route.get("gw") else [ip["gateway"] for ip in result.ips if ip.get("gateway")]
    wanted = [gateway for each in gateways if (gateway := ip_address(each)).version == destination.version]
    name = f"{destination} via {wanted[0]}" if wanted else str(destination)
    if inside is None:
        return Hop("pod's route", name, missing=NO_NAMESPACE)
    ways = describe_ways(inside, destination)
    there = any(not wanted or way.gateway in wanted for way in routes_to(inside, destination))
    return Hop("pod's route", name, ways, "" if there else "another one leads there" if ways else "there is none")
