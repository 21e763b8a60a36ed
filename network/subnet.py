"""Pod subnets: what counts as one, and which address in it is whose.

The settings and UpdateRuntimeConfig name subnets as text; ``network.bridge`` uses the
first IPv4 one, ``network.lease`` hands out its addresses. Pure.

Invariant: an address that a pool offers is never the subnet's own, its broadcast
address or the gateway.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Interface, IPv4Network, IPv6Network, ip_address, ip_network
from itertools import chain

from network.rtnetlink import Address, Interface, Network
from runtime.errors import InvalidArgument

_LONGEST_IPV4_PREFIX = 30
"""A /30 has one address for a pod; smaller subnets have none beside the gateway."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The addresses of one subnet. ``name`` is its text and names it in the state and in faults."""

    network: IPv4Network

    @property
    def name(self) -> str:
        return str(self.network)

    @property
    def gateway(self) -> Address:
        """The bridge's address: the first of the subnet."""
        return self.network[1]

    @property
    def gateway_interface(self) -> Interface:
        return IPv4Interface((int(self.network[1]), self.network.prefixlen))

    @property
    def size(self) -> int:
        """How many addresses pods can have."""
        return self.network.num_addresses - 3

    def interface(self, address: str) -> Interface:
        """``address`` with the subnet's prefix, as the pod's interface gets it."""
        return IPv4Interface(f"{address}/{self.network.prefixlen}")

    def candidates(self, after: str = "") -> Iterator[str]:
        """Every pod address once, beginning behind ``after`` and going round."""
        first, last = int(self.network.network_address) + 2, int(self.network.broadcast_address) - 1
        begin = int(ip_address(after)) + 1 if after else first
        if not first <= begin <= last:
            begin = first
        make = type(self.network.network_address)
        for number in chain(range(begin, last + 1), range(first, begin)):
            yield str(make(number))


@dataclass(frozen=True, slots=True)
class Subnets:
    """What a list of subnets means: the pool, and what of it does not count (yet), in words."""

    pool: Pool | None
    notes: tuple[str, ...] = ()


def parse_subnets(texts: Sequence[str]) -> Subnets:
    """The subnets in ``texts``; empty texts are skipped. IPv6 subnets are checked and noted only.

    Raises:
        InvalidArgument: no subnet, host bits set, too small, not for pods, more than one IPv4 one.
    """
    pools: list[Pool] = []
    notes: list[str] = []
    for text in (text.strip() for text in texts):
        if not text:
            continue
        network = parse_subnet(text)
        if isinstance(network, IPv6Network):
            notes.append(f"{network}: pods have no IPv6 addresses from the built-in bridge yet")
        else:
            pools.append(Pool(network))
    if len(pools) > 1:
        listed = ", ".join(pool.name for pool in pools)
        raise InvalidArgument("a pod has one IPv4 address: name one IPv4 subnet", object=listed)
    return Subnets(pools[0] if pools else None, tuple(notes))


def parse_subnet(text: str) -> Network:
    """One subnet in CIDR notation.

    Raises:
        InvalidArgument: see :func:`parse_subnets`.
    """
    try:
        network = ip_network(text)
    except ValueError as error:
        raise InvalidArgument(f"not a subnet in CIDR notation: {error}", object=repr(text)) from None
    if "/" not in text:
        raise InvalidArgument("a pod subnet needs its prefix length, like 10.85.0.0/16", object=repr(text))
    if network.is_multicast or network.is_loopback or network.is_link_local or network.network_address.is_unspecified:
        raise InvalidArgument("not a subnet that pods can have", object=text)
    if isinstance(network, IPv4Network) and (network.prefixlen > _LONGEST_IPV4_PREFIX or network.is_reserved):
        raise InvalidArgument("too small for a gateway and one pod, or reserved", object=text)
    return network
