"""Pod subnets: what counts as one, and which address in it is whose.

The settings and UpdateRuntimeConfig name subnets as text, one of each IP family at most;
``network.lease`` hands out their addresses. Pure.

Invariant: an address that a pool offers is never the subnet's own, its broadcast
address or the gateway.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import ip_address, ip_interface, ip_network
from itertools import chain

from network.errors import NetworkNotReady
from network.rtnetlink import Address, Interface, Network
from runtime.errors import InvalidArgument

_LONGEST_PREFIX = {4: 30, 6: 126}
"""Such a subnet has an address or two for pods; smaller ones have none beside the gateway."""
_MOST_IPV6 = 1 << 16
"""An IPv6 subnet is far larger than any node has pods; its first addresses suffice, and what
derives from an address (``network.names.hardware_address``) stays unique."""


@dataclass(frozen=True, slots=True)
class Pool:
    """The addresses of one subnet. ``name`` is its text and names it in the state and in faults."""

    network: Network

    @property
    def version(self) -> int:
        """4 or 6."""
        return self.network.version

    @property
    def name(self) -> str:
        return str(self.network)

    @property
    def gateway(self) -> Address:
        """The bridge's address: the first of the subnet."""
        return self.network[1]

    @property
    def gateway_interface(self) -> Interface:
        return self.interface(str(self.gateway))

    @property
    def size(self) -> int:
        """How many addresses pods can have."""
        first, last = self._bounds()
        return last - first + 1

    def interface(self, address: str) -> Interface:
        """``address`` with the subnet's prefix, as the pod's interface gets it."""
        return ip_interface(f"{address}/{self.network.prefixlen}")

    def twin(self, address: str, of: Pool) -> str:
        """The address here that stands where ``address`` stands in ``of``; '' if none does."""
        first, last = self._bounds()
        number = int(self.network.network_address) + int(ip_address(address)) - int(of.network.network_address)
        return str(self._address(number)) if first <= number <= last else ""

    def candidates(self, after: str = "") -> Iterator[str]:
        """Every pod address once, beginning behind ``after`` and going round."""
        first, last = self._bounds()
        begin = int(ip_address(after)) + 1 if after else first
        if not first <= begin <= last:
            begin = first
        for number in chain(range(begin, last + 1), range(first, begin)):
            yield str(self._address(number))

    def _bounds(self) -> tuple[int, int]:
        """The first and the last address of pods. IPv6 has no broadcast address (RFC 4291)."""
        base = int(self.network.network_address)
        if self.version == 4:
            return base + 2, base + self.network.num_addresses - 2
        return base + 2, base + min(self.network.num_addresses, _MOST_IPV6) - 1

    def _address(self, number: int) -> Address:
        return type(self.network.network_address)(number)


def parse_subnets(texts: Sequence[str]) -> tuple[Pool, ...]:
    """The pools of the subnets in ``texts``, in their order; empty texts are skipped.

    Raises:
        InvalidArgument: no subnet, host bits set, too small, not for pods, two of one family.
    """
    pools = tuple(Pool(parse_subnet(text)) for text in map(str.strip, texts) if text)
    for version in (4, 6):
        listed = [pool.name for pool in pools if pool.version == version]
        if len(listed) > 1:
            message = f"a pod has one IPv{version} address: name one IPv{version} subnet"
            raise InvalidArgument(message, object=", ".join(listed))
    return pools


def refuse_overlaps(pools: Iterable[Pool], older: Iterable[Pool]) -> None:
    """That none of ``pools`` has addresses of another pool among ``older``, whose pods are still there: they
    could be given twice, and the kernel would have two ways to each.

    Raises:
        NetworkNotReady: names both.
    """
    older = list(older)
    for pool in pools:
        for other in older:
            if other != pool and other.version == pool.version and other.network.overlaps(pool.network):
                message = f"overlaps with {other.name}, of which pods still have addresses: usable when they are gone"
                raise NetworkNotReady(
                    message, reason="PodSubnetInUse", step="prepare the bridge", object=f"subnet {pool.name}"
                )


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
    if network.prefixlen > _LONGEST_PREFIX[network.version] or (network.version == 4 and network.is_reserved):
        raise InvalidArgument("too small for a gateway and one pod, or reserved", object=text)
    return network
