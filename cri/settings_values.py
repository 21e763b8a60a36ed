"""What a single setting may hold; one check a kind of value.

``cri.settings_file`` runs them and adds the place; the messages begin after the
setting's name.

Invariant: pure, and a check either returns None or raises ValueError with a
suggestion where there is an obvious one.
"""

from __future__ import annotations

import difflib
import ipaddress
import re
from collections.abc import Sequence
from posixpath import normpath

LEVELS = ("debug", "info", "warning", "error")
VERDICTS = ("allow", "deny")
SYSTEMD = "systemd"
DRIVERS = ("auto", "cgroupfs", SYSTEMD)
PROVIDERS = ("auto", "bridge", "cni")
CAPABILITIES = ("deviceID", "infinibandGUID", "ipRanges")
MAX_SOCKET_PATH = 107
"""Bytes of a path in a ``sockaddr_un``, unix(7)."""
MAX_POOL = 256
ADMIN_SOCKET = "admin.sock"
"""Below the state directory, for the ``crisp`` command."""
MAX_DURATION = 7 * 24 * 3600
UNITS = {"s": 1, "m": 60, "h": 3600}


def check_listen(value: str) -> None:
    if not value.startswith("unix:///"):
        hint = f'; did you mean "unix://{value}"?' if value.startswith("/") else ""
        raise ValueError(f"must be unix:// and an absolute path, not {value!r}{hint}")
    check_directory(value.removeprefix("unix://"))
    if len(value.removeprefix("unix://").encode(errors="surrogateescape")) > MAX_SOCKET_PATH:
        raise ValueError(f"is longer than the {MAX_SOCKET_PATH} bytes that a socket's path may have")


def check_directory(value: str) -> None:
    if not value.startswith("/"):
        hint = f'; did you mean "/{value}"?' if value else ""
        raise ValueError(f"must be an absolute path, not {value!r}{hint}")
    if value == "/" or ".." in value.split("/") or not value.isprintable():
        raise ValueError(f"must be a printable path below / without '..', not {value!r}")


def check_places(listen: str, root: str, state: str) -> tuple[str, str]:
    """Which setting does not go with the others, and why; two empty strings if all do."""
    if normpath(root) == normpath(state):
        return "state", f"state and root are both {normpath(root)!r}; they must differ"
    admin = f"{state}/{ADMIN_SOCKET}"
    if len(admin.encode(errors="surrogateescape")) > MAX_SOCKET_PATH:
        return "state", f"state is too long: {admin} has more than the {MAX_SOCKET_PATH} bytes of a socket's path"
    if normpath(listen.removeprefix("unix://")) == normpath(admin):
        return "listen", f"listen is the socket of the crisp command, {admin}; choose another name"
    return "", ""


def check_address(value: str) -> None:
    if not value:
        return
    host, colon, port = value.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port) or int(port) > 65535:
        raise ValueError(f"must be host:port or empty, not {value!r}")
    if not host:
        raise ValueError(f'must name the host; did you mean "127.0.0.1{value}"?')
    if ":" in host and not (host.startswith("[") and host.endswith("]")):
        raise ValueError(f'must have brackets around an IPv6 address; did you mean "[{host}]:{port}"?')


def check_streaming(value: str) -> None:
    if not value:
        raise ValueError('must be host:port; "127.0.0.1:0" takes any port')
    check_address(value)


def check_file(value: str) -> None:
    if value:
        check_directory(value)


def check_duration(value: str) -> None:
    if not re.fullmatch(r"[1-9][0-9]{0,8}[smh]", value):
        hint = f'; did you mean "{value}s"?' if re.fullmatch(r"[1-9][0-9]{0,8}", value) else ""
        raise ValueError(f"must be a number and s, m or h, not {value!r}{hint}")
    if seconds_of(value) > MAX_DURATION:
        raise ValueError(f"must be at most 168h, not {value!r}")


def seconds_of(value: str) -> int:
    """Of a duration that ``check_duration`` accepts."""
    return int(value[:-1]) * UNITS[value[-1]]


def check_level(value: str) -> None:
    _check_choice(value, LEVELS)


def check_driver(value: str) -> None:
    _check_choice(value, DRIVERS)


def check_provider(value: str) -> None:
    _check_choice(value, PROVIDERS)


def check_capabilities(values: Sequence[str]) -> None:
    for value in values:
        _check_choice(value, CAPABILITIES)


def check_bridge(value: str) -> None:
    """Source: dev_valid_name in the kernel's net/core/dev.c."""
    if not re.fullmatch(r"[A-Za-z0-9_.-]{1,15}", value) or value in (".", ".."):
        raise ValueError(f"must be an interface name of at most 15 characters, not {value!r}")


def check_subnets(values: Sequence[str]) -> None:
    networks: list[ipaddress.IPv4Network | ipaddress.IPv6Network] = []
    for value in values:
        try:
            network = ipaddress.ip_network(value)
        except ValueError:
            raise ValueError(f"has {value!r}, which is no network in CIDR form{_network_hint(value)}") from None
        if network.num_addresses < 4:
            raise ValueError(f"has {value!r}, which leaves no address for a pod")
        for other in networks:
            if other.version == network.version:
                raise ValueError(f"has {str(other)!r} and {value!r}, but a pod has one IPv{network.version} address")
        networks.append(network)


def check_route(value: str) -> None:
    """Source: RFC 1112, 4291 and 3927 for what no pod can have."""
    try:
        network = ipaddress.ip_network(value)
    except ValueError:
        raise ValueError(f"is {value!r}, which is no network in CIDR form{_network_hint(value)}") from None
    if "/" not in value or network.num_addresses < 4:
        raise ValueError(f"is {value!r}, but another node's pods have a subnet, like 10.86.0.0/24")
    if network.prefixlen == 0:
        raise ValueError(f"is {value!r}, the default route, which is the node's own")
    if network.is_multicast or network.is_loopback or network.is_link_local:
        raise ValueError(f"is {value!r}, which no pods can have")


def check_via(value: str) -> None:
    try:
        address = ipaddress.ip_address(value)
    except ValueError:
        hint = f'; did you mean "{value.partition("/")[0]}"?' if "/" in value else ""
        raise ValueError(f"is {value!r}, which is no IP address{hint}") from None
    if address.is_link_local:
        raise ValueError(f"is {value!r}, which is of one link alone; name an address that the node has for all")
    if address.is_unspecified or address.is_multicast or address.is_loopback:
        raise ValueError(f"is {value!r}, which is no other node's")


def check_routes(routes: Sequence[tuple[str, str]], subnets: Sequence[str]) -> tuple[int, str]:
    """Which of ``routes`` (to, via), each good by itself, does not go with the others or with the pod
    subnets ``subnets``, and why; (0, "") if all do."""
    hint = "; set subnets, or to [] where kubelet names them"
    taken = [(f"the pod subnet {subnet}{hint}", ipaddress.ip_network(subnet)) for subnet in subnets]
    for number, (to, via) in enumerate(routes):
        if not to or not via:
            return number, f"has an entry without {'via' if to else 'to'}; each has to and via"
        network, address = ipaddress.ip_network(to), ipaddress.ip_address(via)
        if network.version != address.version:
            return number, f"leads to {to} via {via}, but the two have to be of one IP version"
        if address in network:
            return number, f"leads to {to} via {via}, which lies in it; name the node's own address, not a pod's"
        for name, other in taken:
            if other.version == network.version and other.overlaps(network):
                return number, f"has {to}, which overlaps with {name}"
        taken.append((f"the route to {to}", network))
    return 0, ""


def check_pool(value: int) -> None:
    if not 0 <= value <= MAX_POOL:
        raise ValueError(f"must be between 0 and {MAX_POOL}, not {value}")


def check_verdict(value: str) -> None:
    _check_choice(value, VERDICTS)


def check_ports(values: Sequence[str]) -> None:
    for value in values:
        if not re.fullmatch(r"(tcp|udp|sctp)/[1-9][0-9]{0,4}", value) or port_of(value)[1] > 65535:
            hint = f'; did you mean "tcp/{value}"?' if re.fullmatch(r"[1-9][0-9]{0,4}", value) else ""
            raise ValueError(f"has {value!r}, which is no port like tcp/443{hint}")


def port_of(value: str) -> tuple[str, int]:
    """Of a port that ``check_ports`` accepts."""
    protocol, _, number = value.partition("/")
    return protocol, int(number)


def check_switch(value: bool) -> None:
    """Either will do."""


def _network_hint(value: str) -> str:
    try:
        return f'; did you mean "{ipaddress.ip_network(value, strict=False)}"?'
    except ValueError:
        return ""


def _check_choice(value: str, choices: Sequence[str]) -> None:
    if value in choices:
        return
    close = difflib.get_close_matches(value.lower(), choices, n=1)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    raise ValueError(f"must be one of {', '.join(choices)}, not {value!r}{hint}")
