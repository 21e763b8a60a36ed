"""Which pod has which ports of the host.

``HostPorts`` decides, a ``PortStore`` remembers (``cri.state.ports`` in the state database,
``MemoryPortStore`` in tests); ``network.bridge`` maps what was claimed.

Invariant: of two pods never both have a port of one protocol on addresses that overlap;
a claim is stored before the port is mapped, and released after it is mapped no more.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from ipaddress import ip_address
from typing import Protocol

from network.provider import PortMapping
from runtime.errors import FailedPrecondition

_STEP = "claim the host port"


def normalize(mapping: PortMapping) -> PortMapping:
    """The same with its address as everybody writes it."""
    return replace(mapping, host_ip=str(ip_address(mapping.host_ip))) if mapping.host_ip else mapping


def versions_of(mapping: PortMapping) -> tuple[int, ...]:
    """The IP versions that the mapping is for."""
    return (ip_address(mapping.host_ip).version,) if mapping.host_ip else (4, 6)


def is_any(mapping: PortMapping) -> bool:
    """Whether it is for every address of the host (of its IP versions)."""
    return not mapping.host_ip or ip_address(mapping.host_ip).is_unspecified


def overlap(one: PortMapping, other: PortMapping) -> bool:
    """Whether a packet could be meant for both."""
    if (one.protocol, one.host_port) != (other.protocol, other.host_port):
        return False
    if not set(versions_of(one)) & set(versions_of(other)):
        return False
    return is_any(one) or is_any(other) or ip_address(one.host_ip) == ip_address(other.host_ip)


def describe(mapping: PortMapping) -> str:
    """As in ``tcp 127.0.0.1:80``, ``*`` for any address."""
    host = f"[{mapping.host_ip}]" if ":" in mapping.host_ip else mapping.host_ip or "*"
    return f"{mapping.protocol} {host}:{mapping.host_port}"


class PortStore(Protocol):
    """Remembers claims. Each method is one transaction, whose effect survives a kill of the daemon."""

    async def add(self, owner: str, mappings: Sequence[PortMapping]) -> None:
        """Those that ``owner`` has already stay."""
        ...

    async def remove(self, owner: str) -> None:
        """All that ``owner`` has; nothing is no error."""
        ...

    async def all_claims(self) -> Mapping[str, tuple[PortMapping, ...]]: ...


class HostPorts:
    """Of one daemon, which is the only one that uses its store."""

    def __init__(self, store: PortStore) -> None:
        self._store = store
        self._claims: dict[str, tuple[PortMapping, ...]] | None = None
        self._reserved: dict[str, tuple[PortMapping, ...]] = {}

    async def claims(self) -> Mapping[str, tuple[PortMapping, ...]]:
        """Who has what, by sandbox id."""
        return await self._load()

    async def _load(self) -> dict[str, tuple[PortMapping, ...]]:
        if self._claims is None:
            stored = dict(await self._store.all_claims())
            if self._claims is None:  # another may have been quicker, and have claimed since
                self._claims = stored
        return self._claims

    @contextlib.asynccontextmanager
    async def reserve(self, owner: str, mappings: Sequence[PortMapping]) -> AsyncIterator[None]:
        """Nobody else gets them meanwhile. Raises FailedPrecondition, as ``claim``."""
        wanted = tuple(map(normalize, mappings))
        claims = await self._load()
        _refuse_taken(owner, wanted, claims)
        _refuse_taken(owner, wanted, self._reserved)
        self._reserved[owner] = wanted
        try:
            yield
        finally:
            del self._reserved[owner]

    async def claim(self, owner: str, mappings: Sequence[PortMapping]) -> tuple[PortMapping, ...]:
        """They are ``owner``'s until released; as ``normalize`` writes them.

        Raises:
            FailedPrecondition: another has one of them.
        """
        wanted = tuple(map(normalize, mappings))
        if wanted:
            claims = await self._load()
            _refuse_taken(owner, wanted, claims)
            claims[owner] = wanted
            await self._store.add(owner, wanted)
        return wanted

    async def release(self, owner: str) -> None:
        claims = await self._load()
        if owner in claims:
            await self._store.remove(owner)
            claims.pop(owner, None)


def refuse_versions(mappings: Iterable[PortMapping], versions: Collection[int]) -> None:
    """Raises FailedPrecondition for a port on addresses of an IP version that pods have none of."""
    for mapping in mappings:
        wanted = versions_of(mapping)
        if not set(wanted) & set(versions):
            message = f"pods have no IPv{wanted[0]} address that it could lead to"
            raise FailedPrecondition(message, step=_STEP, object=describe(mapping))


def refuse_loopback(mappings: Iterable[PortMapping], *, allowed: bool) -> None:
    """Raises FailedPrecondition for a port on ::1, and unless ``allowed`` on 127.0.0.1: those lead nowhere."""
    for mapping in mappings:
        address = ip_address(mapping.host_ip) if mapping.host_ip else None
        if address is None or not address.is_loopback or (allowed and address.version == 4):
            continue
        off, never = "the setting [network] loopback_host_ports is off", "the kernel sends nothing from ::1 to a pod"
        raise FailedPrecondition(off if address.version == 4 else never, step=_STEP, object=describe(mapping))


def _refuse_taken(owner: str, wanted: Iterable[PortMapping], taken: Mapping[str, Iterable[PortMapping]]) -> None:
    for other, theirs in taken.items():
        if other == owner:
            continue
        for mapping in wanted:
            if any(overlap(mapping, each) for each in theirs):
                raise FailedPrecondition(f"sandbox {other} has it", step=_STEP, object=describe(mapping))


class MemoryPortStore:
    """A ``PortStore`` that forgets with the process: for tests, and to compare others with."""

    def __init__(self) -> None:
        self._claims: dict[str, tuple[PortMapping, ...]] = {}

    async def add(self, owner: str, mappings: Sequence[PortMapping]) -> None:
        held = self._claims.get(owner, ())
        self._claims[owner] = (*held, *(mapping for mapping in mappings if mapping not in held))

    async def remove(self, owner: str) -> None:
        self._claims.pop(owner, None)

    async def all_claims(self) -> Mapping[str, tuple[PortMapping, ...]]:
        return dict(self._claims)
