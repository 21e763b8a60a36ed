"""The result of ADD: read in any version, kept in the newest, written in the one that is spoken.

``chain`` reads what a plugin printed and hands it on as ``prevResult``; ``cache`` keeps it.

Invariant: pure; a ``Result`` has sound addresses, and what a version does not know is left
out when it is written in that version.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from typing import Any

from network.cni import versions

MAX_ENTRIES = 1024
"""Of each list."""

_INTERFACE_KEYS = ("name", "mac", "sandbox")
_INTERFACE_DETAILS = ("mtu", "socketPath", "pciID")
_ROUTE_KEYS = ("dst", "gw")
_ROUTE_DETAILS = ("mtu", "advmss", "priority", "table", "scope")
_NUMBERS = frozenset({"mtu", "advmss", "priority", "table", "scope"})
_DNS_LISTS = ("nameservers", "search", "options")


class ResultError(ValueError):
    """What is wrong with a result; the words go after "its result"."""


@dataclass(frozen=True, slots=True)
class Result:
    """Each list as the newest version has it."""

    interfaces: tuple[Mapping[str, Any], ...] = ()
    ips: tuple[Mapping[str, Any], ...] = ()
    routes: tuple[Mapping[str, Any], ...] = ()
    dns: Mapping[str, Any] | None = None

    def to_document(self, version: str = versions.NEWEST) -> dict[str, Any]:
        """The result as ``version`` writes it."""
        details = versions.has_link_details(version)
        interfaces = _INTERFACE_KEYS + (_INTERFACE_DETAILS if details else ())
        routes = _ROUTE_KEYS + (_ROUTE_DETAILS if details else ())
        ips = [dict(ip) for ip in self.ips]
        if versions.numbers_families(version):
            ips = [{"version": str(ip_interface(ip["address"]).version), **ip} for ip in ips]
        return {
            "cniVersion": version,
            "interfaces": [_only(each, interfaces) for each in self.interfaces],
            "ips": ips,
            "routes": [_only(each, routes) for each in self.routes],
            "dns": dict(self.dns or {}),
        }

    def addresses(self, interface: str) -> tuple[str, ...]:
        """The pod's addresses without prefix: those of ``interface`` first, never those of the host's ends."""
        own: list[str] = []
        others: list[str] = []
        for ip in self.ips:
            at = ip.get("interface")
            link = self.interfaces[at] if at is not None else {"name": interface, "sandbox": "pod"}
            if link.get("sandbox"):
                found = own if link["name"] == interface else others
                found.append(str(ip_interface(ip["address"]).ip))
        return tuple(dict.fromkeys([*own, *others]))

    def gateway(self) -> str:
        return next((str(ip["gateway"]) for ip in self.ips if ip.get("gateway")), "")

    def host_interface(self) -> str:
        """The first interface outside of the pod, '' if none is told."""
        return next((str(each["name"]) for each in self.interfaces if not each.get("sandbox")), "")


def parse(document: Any, version: str) -> Result:
    """A result as a plugin printed it; ``version`` is that of the network, for one that does not say.

    Raises:
        ResultError: it is no result.
    """
    if not isinstance(document, dict):
        raise ResultError("is no JSON object")
    said = document.get("cniVersion") or version
    if said not in versions.SUPPORTED:
        raise ResultError(f"has the unknown cniVersion {str(said)[:40]!r}")
    interfaces = _parse_each(document, "interfaces", _parse_interface)
    return Result(
        interfaces=interfaces,
        ips=_parse_each(document, "ips", lambda ip, where: _parse_ip(ip, where, len(interfaces))),
        routes=_parse_each(document, "routes", _parse_route),
        dns=_parse_dns(document.get("dns") or {}),
    )


def _parse_each(
    document: Mapping[str, Any], key: str, parse_one: Callable[[Mapping[str, Any], str], dict[str, Any]]
) -> tuple[Mapping[str, Any], ...]:
    entries = document.get(key) or []
    if not isinstance(entries, list) or not all(isinstance(each, dict) for each in entries):
        raise ResultError(f"has {key} that are no list of objects")
    if len(entries) > MAX_ENTRIES:
        raise ResultError(f"has {len(entries)} {key}, more than {MAX_ENTRIES}")
    return tuple(parse_one(each, f"{key}[{number}]") for number, each in enumerate(entries))


def _parse_interface(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    kept = _only(entry, _INTERFACE_KEYS + _INTERFACE_DETAILS)
    _check_values(kept, where)
    if not kept.get("name"):
        raise ResultError(f"has no name in {where}")
    return kept


def _parse_ip(entry: Mapping[str, Any], where: str, interfaces: int) -> dict[str, Any]:
    kept = _only(entry, ("address", "gateway", "interface"))
    _check_address(ip_interface, kept.get("address"), f"{where}.address")
    if kept.get("gateway"):
        _check_address(ip_address, kept["gateway"], f"{where}.gateway")
    at = kept.get("interface")
    if at is None or (type(at) is int and at < 0):  # some plugins say -1 for none
        kept.pop("interface", None)
    elif type(at) is not int or at >= interfaces:
        raise ResultError(f"has an interface in {where} that is not among its interfaces")
    return kept


def _parse_route(entry: Mapping[str, Any], where: str) -> dict[str, Any]:
    kept = _only(entry, _ROUTE_KEYS + _ROUTE_DETAILS)
    _check_values(kept, where)
    _check_address(lambda value: ip_network(value, strict=False), kept.get("dst"), f"{where}.dst")
    if kept.get("gw"):
        _check_address(ip_address, kept["gw"], f"{where}.gw")
    return kept


def _parse_dns(entry: Any) -> dict[str, Any]:
    if not isinstance(entry, dict):
        raise ResultError("has dns that is no object")
    kept = _only(entry, ("domain", *_DNS_LISTS))
    for key, value in kept.items():
        texts = value if key in _DNS_LISTS else [value]
        if not isinstance(texts, Sequence) or not all(isinstance(text, str) for text in texts):
            raise ResultError(f"has dns.{key} that is no text")
    return kept


def _check_values(entry: Mapping[str, Any], where: str) -> None:
    for key, value in entry.items():
        if type(value) is not (int if key in _NUMBERS else str):
            raise ResultError(f"has a {key} of the wrong type in {where}")


def _check_address(parse_one: Callable[[str], object], value: Any, where: str) -> None:
    try:
        if not isinstance(value, str):
            raise ValueError
        parse_one(value)
    except ValueError:
        raise ResultError(f"has no address in {where}: {str(value)[:60]!r}") from None


def _only(entry: Mapping[str, Any], keys: Sequence[str]) -> dict[str, Any]:
    return {key: entry[key] for key in keys if entry.get(key) is not None}
