"""The tables of ``state.db`` and the way from each older version to the newest.

``cri.state.database`` applies this when it opens a file; ``cri.state.store``,
``leases``, ``ports`` and ``images`` read and write the rows.

Invariant: a migration, once released, is never edited; the newest schema is what
all of them make in order.
"""

from __future__ import annotations

import sqlite3

from runtime.errors import FailedPrecondition

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE sandboxes (
        id TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        namespace TEXT NOT NULL,
        uid TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (name, namespace, uid, attempt)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE containers (
        id TEXT PRIMARY KEY,
        sandbox_id TEXT NOT NULL REFERENCES sandboxes (id) DEFERRABLE INITIALLY DEFERRED,
        name TEXT NOT NULL,
        attempt INTEGER NOT NULL,
        record BLOB NOT NULL,
        UNIQUE (sandbox_id, name, attempt)
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE operations (
        key TEXT PRIMARY KEY,
        object_id TEXT NOT NULL,
        record BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX operations_by_object ON operations (object_id);
    CREATE TABLE images (
        id TEXT PRIMARY KEY,
        record BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;
    CREATE TABLE leases (
        pool TEXT NOT NULL,
        address TEXT NOT NULL,
        owner TEXT NOT NULL,
        released_at INTEGER,
        PRIMARY KEY (pool, address)
    ) STRICT, WITHOUT ROWID;
    CREATE UNIQUE INDEX leases_held ON leases (owner, pool) WHERE released_at IS NULL;
    CREATE TABLE quarantine (
        kind TEXT NOT NULL,
        id TEXT NOT NULL,
        record BLOB NOT NULL,
        reason TEXT NOT NULL,
        moved_at INTEGER NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE host_ports (
        owner TEXT NOT NULL,
        protocol TEXT NOT NULL,
        host_port INTEGER NOT NULL,
        container_port INTEGER NOT NULL,
        host_ip TEXT NOT NULL,
        UNIQUE (protocol, host_port, host_ip, owner)
    ) STRICT
    """,
)
"""``MIGRATIONS[n]`` leads from version n to n + 1; an empty file has version 0."""

VERSION = len(MIGRATIONS)


def read_version(connection: sqlite3.Connection) -> int:
    """The version of an open file; 0 when it has no tables yet."""
    found = connection.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'meta'").fetchone()
    if found is None:
        return 0
    row = connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    return int(row[0]) if row else 0


def migrate(connection: sqlite3.Connection, migrations: tuple[str, ...] = MIGRATIONS) -> None:
    """Bring the file to the newest version, in one transaction a step.

    Raises:
        FailedPrecondition: a newer crisp wrote the file.
    """
    connection.execute(
        "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT, WITHOUT ROWID"
    )
    version = read_version(connection)
    if version > len(migrations):
        raise FailedPrecondition(
            f"a newer crisp wrote it (schema version {version}, this one knows {len(migrations)}); install that again",
            step="open the state database",
        )
    for number in range(version, len(migrations)):
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in migrations[number].split(";"):
                if statement.strip():
                    connection.execute(statement)
            connection.execute(
                "INSERT INTO meta (key, value) VALUES ('schema_version', ?)"
                " ON CONFLICT (key) DO UPDATE SET value = excluded.value",
                (str(number + 1),),
            )
        except BaseException:
            connection.execute("ROLLBACK")
            raise
        connection.execute("COMMIT")
