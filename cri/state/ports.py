"""The claims of host ports in the state database: ``network.ports.PortStore``.

``network.ports.HostPorts`` decides who gets what; this remembers.

Invariant: each method is one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping, Sequence

from cri.state.database import Database
from network.provider import PortMapping

ADD = """
    INSERT INTO host_ports (owner, protocol, host_port, container_port, host_ip) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT DO NOTHING
"""
REMOVE = "DELETE FROM host_ports WHERE owner = ?"
ROWS = "SELECT owner, protocol, host_port, container_port, host_ip FROM host_ports ORDER BY rowid"


class PortTable:
    """Implements the Protocol; its docstrings say what each method does."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def add(self, owner: str, mappings: Sequence[PortMapping]) -> None:
        rows = [(owner, each.protocol, each.host_port, each.container_port, each.host_ip) for each in mappings]

        def insert(connection: sqlite3.Connection) -> None:
            connection.executemany(ADD, rows)

        await self._database.run(insert, begins=True)

    async def remove(self, owner: str) -> None:
        def delete(connection: sqlite3.Connection) -> None:
            connection.execute(REMOVE, (owner,))

        await self._database.run(delete, urgent=True)

    async def all_claims(self) -> Mapping[str, tuple[PortMapping, ...]]:
        def read(connection: sqlite3.Connection) -> dict[str, tuple[PortMapping, ...]]:
            found: dict[str, tuple[PortMapping, ...]] = {}
            for owner, *mapping in connection.execute(ROWS):
                found[owner] = (*found.get(owner, ()), PortMapping(*mapping))
            return found

        return await self._database.run(read)
