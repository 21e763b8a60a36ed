"""Who has which address, and who gets which next.

``Leases`` decides; a ``LeaseStore`` remembers, in one transaction a call
(``cri.state`` keeps them in the state database, ``MemoryLeaseStore`` is the reference that
its tests compare with). A lease is held by an owner, a sandbox id, until it is
released; then the address rests, so that what still knows the old owner's address
(the kernel takes 20 to 100 ms to drop a veth pair, peers' caches longer) never
reaches the next one.

Invariant: an address of a pool has at most one holder, an owner holds at most one
address of a pool, and allocating again gives an owner the same address.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Protocol

from network.subnet import Pool
from runtime.errors import ResourceExhausted

REST_SECONDS = 5.0
_NANOSECONDS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Lease:
    """``released_at`` in ns since the epoch, None while ``owner`` holds the address."""

    pool: str
    address: str
    owner: str
    released_at: int | None = None


class LeaseStore(Protocol):
    """Remembers leases. Each method is one transaction, and its effect survives a kill
    of the daemon once it has returned (a power cut too: rows of another boot are what
    recovery releases).

    The SQLite schema::

        CREATE TABLE leases (
            pool TEXT NOT NULL, address TEXT NOT NULL, owner TEXT NOT NULL,
            released_at INTEGER,                       -- ns since the epoch, NULL while held
            PRIMARY KEY (pool, address)) STRICT, WITHOUT ROWID;
        CREATE UNIQUE INDEX leases_held ON leases (owner, pool) WHERE released_at IS NULL;

    The clock may jump: a ``released_at`` that lies in the future counts as rested.
    """

    async def allocate(self, pool: str, owner: str, candidates: Iterable[str], *, rested: int, now: int) -> str | None:
        """What ``owner`` holds in ``pool``, else the first candidate that is free; None if none is.

        ``candidates`` is lazy and up to the size of the subnet: take one at a time.
        ``now`` and ``rested`` are ns since the epoch; what was released after
        ``rested`` still rests. In SQL, within one BEGIN IMMEDIATE::

            SELECT address FROM leases WHERE owner = :owner AND pool = :pool AND released_at IS NULL;
            -- none? for each candidate, until a row comes back:
            INSERT INTO leases (pool, address, owner) VALUES (:pool, :address, :owner)
            ON CONFLICT (pool, address) DO UPDATE SET owner = excluded.owner, released_at = NULL
            WHERE released_at <= :rested OR released_at > :now
            RETURNING address;
        """
        ...

    async def release(self, owner: str, *, now: int) -> None:
        """Let go of what ``owner`` holds, in all pools. Nothing held is no error::

        UPDATE leases SET released_at = :now WHERE owner = :owner AND released_at IS NULL;
        """
        ...

    async def held_by(self, owner: str) -> tuple[Lease, ...]:
        """What ``owner`` holds::

        SELECT pool, address FROM leases WHERE owner = :owner AND released_at IS NULL;
        """
        ...

    async def all_leases(self) -> tuple[Lease, ...]:
        """Every row, held or resting::

        SELECT pool, address, owner, released_at FROM leases;
        """
        ...


class Leases:
    """Allocation from a pool, going round, so that an address is not used again at once."""

    def __init__(
        self, store: LeaseStore, *, rest: float = REST_SECONDS, clock: Callable[[], int] = time.time_ns
    ) -> None:
        """``rest`` in seconds, at least 0.1: how long a released address is not given away."""
        self._store = store
        self._rest = max(int(rest * _NANOSECONDS), _NANOSECONDS // 10)
        self._clock = clock
        self._last: dict[str, str] = {}

    async def acquire(self, pool: Pool, owner: str, preferred: str = "") -> str:
        """The address of ``owner`` in ``pool``, the same one however often it is asked for.

        ``preferred`` is tried first; of no influence on who comes next.

        Raises:
            ResourceExhausted: every address is held or rests; names the pool.
        """
        after = self._last.get(pool.name)
        if after is None:
            after = await self._where_it_was(pool)
        now = self._clock()
        candidates = chain((preferred,), pool.candidates(after)) if preferred else pool.candidates(after)
        address = await self._store.allocate(pool.name, owner, candidates, rested=now - self._rest, now=now)
        if address is None:
            raise await self._exhausted(pool)
        self._last[pool.name] = after if address == preferred else address
        return address

    async def release(self, owner: str) -> None:
        await self._store.release(owner, now=self._clock())

    async def held_by(self, owner: str) -> tuple[Lease, ...]:
        return await self._store.held_by(owner)

    async def held(self) -> tuple[Lease, ...]:
        """Every lease that has an owner, of all pools."""
        return tuple(lease for lease in await self._store.all_leases() if lease.released_at is None)

    async def _where_it_was(self, pool: Pool) -> str:
        """After a start: go on behind the highest address that was ever used."""
        known = {lease.address for lease in await self._store.all_leases() if lease.pool == pool.name}
        return max(known, key=lambda address: int(pool.interface(address).ip), default="")

    async def _exhausted(self, pool: Pool) -> ResourceExhausted:
        held = sum(lease.pool == pool.name for lease in await self.held())
        return ResourceExhausted(
            f"no free address: of {pool.size} pods have {held}, the others were released less than "
            f"{self._rest / _NANOSECONDS:g} s ago",
            step="lease an address",
            object=f"pool {pool.name}",
        )


class MemoryLeaseStore:
    """A ``LeaseStore`` that forgets with the process: for tests, and to compare others with."""

    def __init__(self) -> None:
        self._leases: dict[tuple[str, str], Lease] = {}

    async def allocate(self, pool: str, owner: str, candidates: Iterable[str], *, rested: int, now: int) -> str | None:
        for lease in await self.held_by(owner):
            if lease.pool == pool:
                return lease.address
        for address in candidates:
            taken = self._leases.get((pool, address))
            if taken is not None and (taken.released_at is None or rested < taken.released_at <= now):
                continue
            self._leases[pool, address] = Lease(pool, address, owner)
            return address
        return None

    async def release(self, owner: str, *, now: int) -> None:
        for key, lease in self._leases.items():
            if lease.owner == owner and lease.released_at is None:
                self._leases[key] = replace(lease, released_at=now)

    async def held_by(self, owner: str) -> tuple[Lease, ...]:
        return tuple(lease for lease in self._leases.values() if lease.owner == owner and lease.released_at is None)

    async def all_leases(self) -> tuple[Lease, ...]:
        return tuple(self._leases.values())
