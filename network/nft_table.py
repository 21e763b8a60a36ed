"""The instance's table as text for ``nft``: static chains over sets that pods come and go in.

Pure: ``network.nft`` has it made, ``network.elements`` says what is in the sets. The
language is that of nft(8).

Invariant: every line names the instance's own table, and the text is one transaction
that is right on a bare host and on its own result: pods' elements stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from network.elements import ADVERTISED, ANY_PORTS, LINKS, PODS, PORTS, SENDERS, SOURCES, SUBNETS, TARGETS
from network.names import table_name
from network.rtnetlink import Network

MOST_PODS, MOST_PORTS = 16384, 8192
"""With a size the kernel takes a hash that never grows (256 KiB). One that grows, in the
background, leaves elements out of a listing meanwhile, and leaks would go unseen."""

_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_FIELDS = {4: "ip", 6: "ip6"}
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}
_TARGET = "@th,64,128"
"""The target of a neighbour advertisement, behind 64 bits of header (RFC 4861, 4.4)."""
_BEFORE_AN_ADDRESS = ("nd-neighbor-solicit", "nd-router-solicit", "mld-listener-report", "mld2-listener-report")
"""What IPv6 sends from no address (RFC 4862, RFC 3590)."""
_DNS = (("udp", 53), ("tcp", 53))
_LOOPBACK = "127.0.0.0/8"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the table is to do: for pods on ``bridge``, in ``subnets``; ``loopback`` leads host ports on
    127.0.0.1 to pods. ``host_ports`` are what pods may use of the node itself, as pairs of protocol
    and port beside DNS; None for everything. ``elsewhere`` are the subnets of other nodes' pods."""

    bridge: str
    subnets: tuple[Network, ...] = ()
    loopback: bool = True
    host_ports: tuple[tuple[str, int], ...] | None = None
    elsewhere: tuple[Network, ...] = ()


def plan_table(instance: str, rules: Rules) -> str:
    """The input of ``nft -f -``."""
    table = f"inet {table_name(instance)}"
    lines = [f"add table {table}"]
    for version, kind in _TYPES.items():
        target = f"{kind} . inet_service"
        lines += [
            f"add set {table} {PODS[version]} {{ type {kind}; size {MOST_PODS}; }}",
            f"add map {table} {PORTS[version]} "
            f"{{ type {kind} . inet_proto . inet_service : {target}; size {MOST_PORTS}; }}",
            f"add map {table} {ANY_PORTS[version]} {{ type inet_proto . inet_service : {target}; size {MOST_PORTS}; }}",
            f"add set {table} {TARGETS[version]} {{ type inet_proto . {target}; size {MOST_PORTS}; }}",
            f"add set {table} {SUBNETS[version]} {{ type {kind}; flags interval; }}",
            f"flush set {table} {SUBNETS[version]}",
        ]
    lines += [
        f"add element {table} {SUBNETS[subnet.version]} {{ {subnet} }}" for subnet in (*rules.subnets, *rules.elsewhere)
    ]
    for name, declaration, content in _chains(rules):
        lines += [f"add chain {table} {name} {declaration}".rstrip(), f"flush chain {table} {name}"]
        lines += [f"add rule {table} {name} {rule}" for rule in content]
    return "\n".join([*lines, *_bridge_table(instance)]) + "\n"


def _bridge_table(instance: str) -> Iterator[str]:
    """What comes from a pod's link is looked at before the bridge or the node learns anything of it."""
    table = f"bridge {table_name(instance)}"
    kinds = {LINKS: "type ifname", SENDERS: "type ifname . ether_addr"}
    kinds |= {SOURCES[version]: f"type ifname . ether_addr . {kind}" for version, kind in _TYPES.items()}
    kinds[ADVERTISED] = f"typeof iifname . ether saddr . {_TARGET}"
    yield f"add table {table}"
    for name, kind in kinds.items():
        most = 2 * MOST_PODS if name in (SOURCES[6], ADVERTISED) else MOST_PODS
        yield f"add set {table} {name} {{ {kind}; size {most}; }}"
    for name, declaration, content in (
        ("from_pods", "", _from_pods()),
        ("prerouting", _hook("filter", "prerouting", -350), [f"iifname @{LINKS} jump from_pods"]),
    ):
        yield from (f"add chain {table} {name} {declaration}".rstrip(), f"flush chain {table} {name}")
        yield from (f"add rule {table} {name} {rule}" for rule in content)


def _from_pods() -> Iterator[str]:
    """ARP, IPv4 and IPv6 with the pod's own addresses, and nothing else. No answers of a DHCP
    server, no router advertisements or redirects, no neighbour advertisements for others."""
    yield f"iifname . ether saddr != @{SENDERS} drop"
    yield f"ether type arp iifname . arp saddr ether . arp saddr ip @{SOURCES[4]} accept"
    yield f"ether type arp iifname . arp saddr ether @{SENDERS} arp saddr ip 0.0.0.0 accept"
    yield "ether type ip udp sport 67 drop"
    yield f"ether type ip iifname . ether saddr . ip saddr @{SOURCES[4]} accept"
    yield "ether type ip6 udp sport 547 drop"
    yield "ether type ip6 icmpv6 type { nd-router-advert, nd-redirect } drop"
    yield f"ether type ip6 icmpv6 type nd-neighbor-advert iifname . ether saddr . {_TARGET} != @{ADVERTISED} drop"
    yield f"ether type ip6 iifname . ether saddr . ip6 saddr @{SOURCES[6]} accept"
    yield f"ether type ip6 ip6 saddr :: icmpv6 type {{ {', '.join(_BEFORE_AN_ADDRESS)} }} accept"
    yield "drop"


def _chains(rules: Rules) -> Iterator[tuple[str, str, Iterable[str]]]:
    """Each chain's name, its hook ('' for one that is jumped to) and its rules."""
    yield "host_ports", "", _host_ports()
    jump = "fib daddr type local jump host_ports"
    yield "prerouting", _hook("nat", "prerouting", -100), [jump]
    own = ["ip6 daddr ::1 return"]  # the kernel sends nothing from there to a pod
    own += [] if rules.loopback else [f"ip daddr {_LOOPBACK} return"]
    yield "output", _hook("nat", "output", -100), [*own, jump]
    yield "postrouting", _hook("nat", "postrouting", 100), _masquerade(rules)
    yield "guard", _hook("filter", "prerouting", -300), _guard(rules)
    yield "input", _hook("filter", "input", 0), () if rules.host_ports is None else _firewall(rules, rules.host_ports)


def _hook(kind: str, hook: str, priority: int) -> str:
    return f"{{ type {kind} hook {hook} priority {priority}; policy accept; }}"


def _host_ports() -> Iterator[str]:
    """A port of one address comes before the same port of any."""
    for version, field in _FIELDS.items():
        whose = f"meta nfproto ipv{version} dnat {field} to"
        yield f"{whose} {field} daddr . meta l4proto . th dport map @{PORTS[version]}"
        yield f"{whose} meta l4proto . th dport map @{ANY_PORTS[version]}"


def _masquerade(rules: Rules) -> Iterator[str]:
    """Pods reach each other, those of other nodes too, and multicast groups with their own addresses,
    all else with the node's. Who is led from a host port to a pod and could be answered past the node,
    or not at all, comes from the node as well: a pod (that one itself, say), and the loopback. Whose
    rule has led him there cannot be seen; so does who came by a service for the same port."""
    for version, field in _FIELDS.items():
        yield (
            f"{field} saddr @{PODS[version]} ct status dnat "
            f"meta l4proto . {field} daddr . th dport @{TARGETS[version]} "
            'masquerade comment "from a pod through a host port"'
        )
        yield (
            f"{field} saddr @{PODS[version]} {field} daddr != @{SUBNETS[version]} "
            f'{field} daddr != {_MULTICAST[version]} masquerade comment "pods leave with the address of the node"'
        )
    yield f'oifname "{rules.bridge}" ip saddr {_LOOPBACK} masquerade comment "through a host port on the loopback"'


def _firewall(rules: Rules, ports: Iterable[tuple[str, int]]) -> Iterator[str]:
    """What pods may begin with the node: DNS, what is listed, and what IPv6 needs to find the node."""
    pods = f'iifname "{rules.bridge}"'
    yield f"{pods} ct state established,related accept"
    yield f"{pods} icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept"
    for protocol, port in (*_DNS, *ports):
        yield f"{pods} {protocol} dport {port} accept"
    yield f'{pods} drop comment "pods may not use the node"'


def _guard(rules: Rules) -> Iterator[str]:
    """With route_localnet a pod could reach what listens on the node's loopback alone
    (CVE-2020-8558). Answers are not on the loopback yet when they come here."""
    for side in ("saddr", "daddr"):
        yield f'iifname "{rules.bridge}" ip {side} {_LOOPBACK} drop comment "the loopback is the node\'s own"'
