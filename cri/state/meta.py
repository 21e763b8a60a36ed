"""The few facts about the daemon itself that outlive it: boot id, pod CIDR.

A key and a text each, in the table ``meta`` beside the schema version.

Invariant: a value that was set survives a power cut.
"""

from __future__ import annotations

import sqlite3

from cri.state.database import Database

BOOT_ID = "boot_id"
"""The boot in which the daemon ran last (/proc/sys/kernel/random/boot_id)."""

POD_CIDR = "pod_cidr"
"""What UpdateRuntimeConfig said last; several, separated by commas."""

SYSCTLS = "sysctls"
"""What ``cri.changed_sysctls`` keeps, as JSON."""

ROUTES = "routes"
"""What ``cri.state.routes`` keeps, as JSON."""

PUT = "INSERT INTO meta (key, value) VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


class Meta:
    """Use ``await Meta.open(database)``; reading is from memory."""

    def __init__(self, database: Database, values: dict[str, str]) -> None:
        self._database = database
        self._values = values

    @classmethod
    async def open(cls, database: Database) -> Meta:
        rows = await database.run(lambda connection: connection.execute("SELECT key, value FROM meta").fetchall())
        return cls(database, {str(key): str(value) for key, value in rows})

    def get(self, key: str) -> str:
        """ "" when it was never set."""
        return self._values.get(key, "")

    async def set(self, key: str, value: str) -> None:
        """Raises ResourceExhausted or HostFault when it cannot be stored."""

        def write(connection: sqlite3.Connection) -> None:
            connection.execute(PUT, (key, value))

        def mirror(_: None) -> None:
            self._values[key] = value

        await self._database.run(write, then=mirror, durable=True)
