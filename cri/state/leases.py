"""The address leases in the state database: ``network.lease.LeaseStore``.

``network.lease.Leases`` decides who gets what; this remembers.

Invariant: each method is one transaction; the table's unique index keeps an owner
from holding two addresses of one pool.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable

from cri.state.database import Database
from network.lease import Lease

HELD = "SELECT address FROM leases WHERE owner = :owner AND pool = :pool AND released_at IS NULL"
TAKE = """
    INSERT INTO leases (pool, address, owner) VALUES (:pool, :address, :owner)
    ON CONFLICT (pool, address) DO UPDATE SET owner = excluded.owner, released_at = NULL
    WHERE released_at <= :rested OR released_at > :now
    RETURNING address
"""
RELEASE = "UPDATE leases SET released_at = :now WHERE owner = :owner AND released_at IS NULL"
ROWS = "SELECT pool, address, owner, released_at FROM leases"


class LeaseTable:
    """Implements the Protocol; its docstrings say what each method does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def allocate(self, pool: str, owner: str, candidates: Iterable[str], *, rested: int, now: int) -> str | None:
        def take(connection: sqlite3.Connection) -> str | None:
            held = connection.execute(HELD, {"owner": owner, "pool": pool}).fetchone()
            if held is not None:
                return str(held[0])
            values = {"pool": pool, "owner": owner, "rested": rested, "now": now}
            for address in candidates:
                if connection.execute(TAKE, {**values, "address": address}).fetchall():
                    return address
            return None

        return await self._database.run(take, begins=True)

    async def release(self, owner: str, *, now: int) -> None:
        def let_go(connection: sqlite3.Connection) -> None:
            connection.execute(RELEASE, {"owner": owner, "now": now})

        await self._database.run(let_go, urgent=True)

    async def held_by(self, owner: str) -> tuple[Lease, ...]:
        return await self._read(f"{ROWS} WHERE owner = ? AND released_at IS NULL", (owner,))

    async def all_leases(self) -> tuple[Lease, ...]:
        return await self._read(ROWS, ())

    async def _read(self, statement: str, values: tuple[str, ...]) -> tuple[Lease, ...]:
        def read(connection: sqlite3.Connection) -> tuple[Lease, ...]:
            return tuple(Lease(*row) for row in connection.execute(statement, values))

        return await self._database.run(read)
