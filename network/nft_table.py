"""The instance's table as text for ``nft``: static chains over sets that pods come and go in.

Pure: ``network.nft`` has it made, ``network.elements`` says what is in the sets. The
language is that of nft(8).

Invariant: every line names the instance's own table, and the text is one transaction
that is right on a bare host and on its own result: pods' elements stay.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from network.elements import PODS, SUBNETS
from network.names import table_name
from network.rtnetlink import Network

MOST_PODS = 16384
"""With a size the kernel takes a hash that never grows (256 KiB). One that grows, in the
background, leaves elements out of a listing meanwhile, and leaks would go unseen."""

_TYPES = {4: "ipv4_addr", 6: "ipv6_addr"}
_FIELDS = {4: "ip", 6: "ip6"}
_MULTICAST = {4: "224.0.0.0/4", 6: "ff00::/8"}


def plan_table(instance: str, subnets: Iterable[Network]) -> str:
    """The input of ``nft -f -``.

    Pods reach each other (``subnets``) and multicast groups with their own addresses, all
    else with the node's.
    """
    table = f"inet {table_name(instance)}"
    lines = [f"add table {table}"]
    for version in (4, 6):
        lines += [
            f"add set {table} {PODS[version]} {{ type {_TYPES[version]}; size {MOST_PODS}; }}",
            f"add set {table} {SUBNETS[version]} {{ type {_TYPES[version]}; flags interval; }}",
            f"flush set {table} {SUBNETS[version]}",
        ]
    lines += [f"add element {table} {SUBNETS[subnet.version]} {{ {subnet} }}" for subnet in subnets]
    lines += _chain(table, "postrouting", "type nat hook postrouting priority 100; policy accept;", _masquerade())
    return "\n".join(lines) + "\n"


def _chain(table: str, name: str, declaration: str, rules: Iterable[str]) -> Iterator[str]:
    yield f"add chain {table} {name} {{ {declaration} }}"
    yield f"flush chain {table} {name}"
    for rule in rules:
        yield f"add rule {table} {name} {rule}"


def _masquerade() -> Iterator[str]:
    for version, field in _FIELDS.items():
        yield (
            f"{field} saddr @{PODS[version]} {field} daddr != @{SUBNETS[version]} "
            f'{field} daddr != {_MULTICAST[version]} masquerade comment "pods leave with the address of the node"'
        )
