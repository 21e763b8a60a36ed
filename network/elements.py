"""What a pod is in nftables: elements of the sets and maps of ``network.nft_table``.

Pure. ``network.nft_messages`` encodes them, ``network.wiring`` adds and removes them.
A key or value of several fields has each of them filled up to four bytes, as the kernel's
registers are (nft(8), concatenations).

Invariant: a pod's elements follow from its sandbox id and what it was given, so that
whoever knows those can remove them; each names the sandbox in its comment.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address

from network.names import IFNAMSIZ, hardware_address, host_link_name
from network.ports import is_any, versions_of
from network.provider import PortMapping
from network.rtnetlink import Address

PODS = {4: "pods_v4", 6: "pods_v6"}
"""The sets of pods' addresses by IP version."""
SUBNETS = {4: "subnets_v4", 6: "subnets_v6"}
PORTS = {4: "ports_v4", 6: "ports_v6"}
"""Maps from host address, protocol and port to a pod's address and port."""
ANY_PORTS = {4: "any_ports_v4", 6: "any_ports_v6"}
"""The same for any address of the host."""
TARGETS = {4: "targets_v4", 6: "targets_v6"}
"""Sets of protocol and of pod's address and port: what host ports lead to."""

LINKS, SENDERS = "links", "senders"
"""In the bridge's table: sets of the hosts' ends of pods' links, and of those with a pod's MAC address."""
SOURCES = {4: "sources_v4", 6: "sources_v6"}
"""Sets of a pod's link, its MAC address, and an address that it may send from."""
ADVERTISED = "advertised"
"""The same for what a pod may say in IPv6 that it has."""
OF_BRIDGE = frozenset({LINKS, SENDERS, *SOURCES.values(), ADVERTISED})
"""The sets of the table of family bridge; all others are in that of family inet."""

PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}
_NAMES = {number: name for name, number in PROTOCOLS.items()}
_COMMENT = "pod "

ElementKey = tuple[str, bytes]
"""A set's name and the key in it, which is what an element is known by."""


@dataclass(frozen=True, slots=True)
class Element:
    """``key`` as the kernel has it in the set called ``set``; ``owner`` is a sandbox id, '' where
    nothing says so. ``data`` is what a map leads to."""

    set: str
    key: bytes
    owner: str = ""
    data: bytes = b""

    @property
    def identity(self) -> ElementKey:
        return self.set, self.key

    @property
    def comment(self) -> str:
        return f"{_COMMENT}{self.owner}" if self.owner else ""

    def leads_to(self) -> str:
        """The pod's address and port that a map's element leads to, '' for another's."""
        return _join(ip_address(self.data[:-4]), self.data[-4:]) if self.data else ""

    def describe(self) -> str:
        """The address, the port as in ``tcp 192.0.2.1:80`` (``*`` for any address), or the link and
        what it may send."""
        if self.set in OF_BRIDGE:
            name, rest = self.key[:IFNAMSIZ].rstrip(b"\0").decode(errors="replace"), self.key[IFNAMSIZ + 8 :]
            return f"{self.set} {name}" + (f" {ip_address(rest)}" if rest else "")
        if self.set in PODS.values():
            return str(ip_address(self.key))
        if self.set in ANY_PORTS.values():
            any_address = "[*]" if self.set == ANY_PORTS[6] else "*"
            return f"{_NAMES[self.key[0]]} {any_address}:{_port(self.key[4:])}"
        if self.set in PORTS.values():
            address, rest = self.key[:-8], self.key[-8:]
            return f"{_NAMES[rest[0]]} {_join(ip_address(address), rest[4:])}"
        return f"{_NAMES[self.key[0]]} to {_join(ip_address(self.key[4:-4]), self.key[-4:])}"


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod as the tables know it; ``addresses`` of any pool, of both IP versions, ``ports`` those of the host."""

    sandbox_id: str
    addresses: tuple[str, ...]
    ports: tuple[PortMapping, ...] = ()


def plan_elements(pod: Pod) -> list[Element]:
    """All elements of a pod, each once."""
    found = [ip_address(address) for address in pod.addresses]
    elements = [Element(PODS[address.version], address.packed, pod.sandbox_id) for address in found]
    elements += _plan_senders(pod.sandbox_id, found)
    for mapping in pod.ports:
        for address in found:
            if address.version in versions_of(mapping):
                elements += _plan_port(pod.sandbox_id, mapping, address)
    return list({element.identity: element for element in elements}.values())


def _plan_senders(owner: str, addresses: Sequence[Address]) -> Iterator[Element]:
    """What may come from the pod's link. A pod without an IPv6 address sends no IPv6."""
    link = host_link_name(owner).encode().ljust(IFNAMSIZ, b"\0")
    yield Element(LINKS, link, owner)
    primary = [address for address in addresses if address.version == 4] or addresses
    for hardware in {hardware_address(address) for address in primary}:
        sender = _fields(link, hardware)
        yield Element(SENDERS, sender, owner)
        own = [*addresses, *([link_local(hardware)] if any(each.version == 6 for each in addresses) else [])]
        for address in own:
            yield Element(SOURCES[address.version], sender + address.packed, owner)
            if address.version == 6:
                yield Element(ADVERTISED, sender + address.packed, owner)


def link_local(hardware: bytes) -> IPv6Address:
    """The address that the kernel makes of a MAC address (RFC 4291, appendix A)."""
    tail = bytes((hardware[0] ^ 2, *hardware[1:3], 0xFF, 0xFE, *hardware[3:]))
    return IPv6Address(b"\xfe\x80" + bytes(6) + tail)


def _plan_port(owner: str, mapping: PortMapping, address: Address) -> Iterator[Element]:
    protocol, host_port = bytes((PROTOCOLS[mapping.protocol],)), mapping.host_port.to_bytes(2, "big")
    target = (address.packed, mapping.container_port.to_bytes(2, "big"))
    if is_any(mapping):
        yield Element(ANY_PORTS[address.version], _fields(protocol, host_port), owner, _fields(*target))
    else:
        key = _fields(ip_address(mapping.host_ip).packed, protocol, host_port)
        yield Element(PORTS[address.version], key, owner, _fields(*target))
    yield Element(TARGETS[address.version], _fields(protocol, *target), owner)


def _fields(*parts: bytes) -> bytes:
    return b"".join(part + bytes(-len(part) % 4) for part in parts)


def _port(raw: bytes) -> int:
    return int.from_bytes(raw[:2], "big")


def _join(address: Address, port: bytes) -> str:
    return f"[{address}]:{_port(port)}" if address.version == 6 else f"{address}:{_port(port)}"


def owner_in(comment: str) -> str:
    """The sandbox id of a comment that :class:`Element` made, or the comment itself."""
    return comment.removeprefix(_COMMENT)


def by_set(elements: Iterable[Element]) -> Mapping[str, Sequence[Element]]:
    """The same, grouped: a message to the kernel is about one set."""
    grouped: dict[str, list[Element]] = {}
    for element in elements:
        grouped.setdefault(element.set, []).append(element)
    return grouped
