"""What plugins are told of a pod beside its name: the capability arguments (``runtimeConfig``).

``provider`` plans them with each pod, ``chain`` gives each plugin those that it declares.

Invariant: pure; an annotation gives a capability only if the settings name that capability, as
what plugins do with one (which device, which address) is the host's matter.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

from network.bandwidth import Bandwidth, plan_bandwidth
from network.provider import AttachRequest, Dns, PortMapping
from runtime.errors import InvalidArgument

PORT_MAPPINGS, BANDWIDTH, DNS, IP_RANGES = "portMappings", "bandwidth", "dns", "ipRanges"
INFINIBAND_GUID, DEVICE_ID = "infinibandGUID", "deviceID"
POD_ANNOTATIONS = "io.kubernetes.cri.pod-annotations"

BY_ANNOTATION = (DEVICE_ID, INFINIBAND_GUID, IP_RANGES)
"""What a pod may ask for by annotation where the settings allow it."""

ANNOTATION = "cni.crisp/"
"""Before a capability's name: the annotation's key."""

BURST = 2**31 - 1
"""Bits that may go at once. The bandwidth plugin has no rate without one; this is as good as none."""

_GUID = re.compile(r"[0-9a-fA-F]{2}(:[0-9a-fA-F]{2}){7}")
_DEVICE = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:-]{0,127}")


def plan_capabilities(request: AttachRequest, cidrs: Sequence[str], allowed: Collection[str]) -> dict[str, Any]:
    """All capability arguments of a pod. ``cidrs`` are the node's pod subnets, ``allowed`` the
    capabilities that annotations may give.

    Raises:
        InvalidArgument: an annotation is wrong, or gives what is not allowed.
    """
    found: dict[str, Any] = {
        PORT_MAPPINGS: [_port(each) for each in request.port_mappings if each.host_port],
        BANDWIDTH: _bandwidth(request.annotations),
        DNS: _dns(request.dns),
        IP_RANGES: [[{"subnet": cidr}] for cidr in cidrs],
        POD_ANNOTATIONS: dict(request.annotations),
        **_by_annotation(request, allowed),
    }
    return {name: value for name, value in found.items() if value}


def inject(capabilities: Collection[str], arguments: dict[str, Any]) -> dict[str, Any]:
    """Those of ``arguments`` that a plugin declares."""
    return {name: value for name, value in arguments.items() if name in capabilities}


def _port(port: PortMapping) -> dict[str, Any]:
    return {
        "hostPort": port.host_port,
        "containerPort": port.container_port,
        "protocol": port.protocol,
        "hostIP": port.host_ip,
    }


def _bandwidth(annotations: Mapping[str, str]) -> dict[str, int]:
    asked, found = plan_bandwidth(annotations) or Bandwidth(), dict[str, int]()
    for direction, rate in (("ingress", asked.ingress), ("egress", asked.egress)):
        if rate:
            found |= {f"{direction}Rate": rate, f"{direction}Burst": BURST}
    return found


def _dns(dns: Dns) -> dict[str, list[str]]:
    lists = {"servers": dns.servers, "searches": dns.searches, "options": dns.options}
    return {name: list(values) for name, values in lists.items() if values}


def _by_annotation(request: AttachRequest, allowed: Collection[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for capability in BY_ANNOTATION:
        key = f"{ANNOTATION}{capability}"
        text = request.annotations.get(key)
        if text is None:
            continue
        if capability not in allowed:
            raise InvalidArgument("is not allowed on this node ([cni] annotations)", object=f"annotation {key}")
        found[capability] = _parse(capability, text, f"annotation {key}")
    return found


def _parse(capability: str, text: str, where: str) -> Any:
    if capability == DEVICE_ID and _DEVICE.fullmatch(text):
        return text
    if capability == INFINIBAND_GUID and _GUID.fullmatch(text):
        return text
    if capability == IP_RANGES:
        try:
            return _parse_ranges(json.loads(text))
        except (ValueError, TypeError, RecursionError):
            pass
    raise InvalidArgument(f"is no {capability}: {text[:60]!r}", object=where)


def _parse_ranges(ranges: Any) -> list[list[dict[str, str]]]:
    """``[[{"subnet": …, "rangeStart": …, "rangeEnd": …, "gateway": …}]]``; raises ValueError or TypeError."""
    checks: dict[str, Callable[[str], object]] = {
        "subnet": ipaddress.ip_network,
        "rangeStart": ipaddress.ip_address,
        "rangeEnd": ipaddress.ip_address,
        "gateway": ipaddress.ip_address,
    }
    if not isinstance(ranges, list) or not ranges or not all(isinstance(each, list) and each for each in ranges):
        raise ValueError("no list of lists")
    for entry in (entry for group in ranges for entry in group):
        if not isinstance(entry, dict) or "subnet" not in entry or not entry.keys() <= checks.keys():
            raise ValueError("no range")
        for key, value in entry.items():
            if not isinstance(value, str):
                raise TypeError(key)
            checks[key](value)
    return ranges
