"""Records to rows and back: the SQL that ``cri.state.store`` is made of.

Every function runs inside a transaction of ``cri.state.database``. Records are stored
as JSON, so that an operator can read ``state.db`` with the sqlite3 shell.

Invariant: a row that cannot be decoded is moved to the table ``quarantine`` with
the reason; it never keeps the daemon from starting.
"""

from __future__ import annotations

import logging
import sqlite3
import time
from collections.abc import Sequence
from typing import TypeVar

import msgspec

from cri.state.records import ContainerRecord, OperationPhase, OperationRecord, SandboxRecord
from runtime.errors import AlreadyExists, FailedPrecondition, NotFound

LOG = logging.getLogger("crisp.state")
StructT = TypeVar("StructT", SandboxRecord, ContainerRecord, OperationRecord)

ENCODE = msgspec.json.Encoder().encode
SANDBOX = msgspec.json.Decoder(SandboxRecord)
CONTAINER = msgspec.json.Decoder(ContainerRecord)
OPERATION = msgspec.json.Decoder(OperationRecord)

PUT_SANDBOX = """
    INSERT INTO sandboxes (id, name, namespace, uid, attempt, record) VALUES (?, ?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET record = excluded.record
"""
PUT_CONTAINER = """
    INSERT INTO containers (id, sandbox_id, name, attempt, record) VALUES (?, ?, ?, ?, ?)
    ON CONFLICT (id) DO UPDATE SET record = excluded.record
"""
PUT_OPERATION = "INSERT OR REPLACE INTO operations (key, object_id, record) VALUES (?, ?, ?)"


def put(connection: sqlite3.Connection, record: SandboxRecord | ContainerRecord) -> None:
    """Insert or replace by id; what an id is called never changes.

    Raises:
        AlreadyExists: another object holds the name.
    """
    blob = ENCODE(record)
    try:
        if isinstance(record, SandboxRecord):
            values = (record.id, record.name, record.namespace, record.uid, record.attempt, blob)
            connection.execute(PUT_SANDBOX, values)
        else:
            connection.execute(PUT_CONTAINER, (record.id, record.sandbox_id, record.name, record.attempt, blob))
    except sqlite3.IntegrityError as error:
        noun = "sandbox" if isinstance(record, SandboxRecord) else "container"
        taken = f"its name and attempt {record.attempt} are taken"
        raise AlreadyExists(taken, object=f"{noun} {record.name}") from error


def delete_all(connection: sqlite3.Connection, records: Sequence[SandboxRecord | ContainerRecord]) -> None:
    """The rows and what the journal has about them, in any order. Idempotent.

    Raises:
        FailedPrecondition: a container of a deleted sandbox remains.
    """
    for record in records:
        table = "sandboxes" if isinstance(record, SandboxRecord) else "containers"
        connection.execute(f"DELETE FROM {table} WHERE id = ?", (record.id,))
        connection.execute("DELETE FROM operations WHERE object_id = ?", (record.id,))
    for record in records:
        if isinstance(record, SandboxRecord):
            refuse_orphans(connection, record)


def refuse_orphans(connection: sqlite3.Connection, sandbox: SandboxRecord) -> None:
    """Raises FailedPrecondition while containers of ``sandbox`` remain."""
    row = connection.execute("SELECT count(*) FROM containers WHERE sandbox_id = ?", (sandbox.id,)).fetchone()
    if row[0]:
        raise FailedPrecondition(f"still has {row[0]} containers", object=f"sandbox {sandbox.id}")


def read_sandbox(connection: sqlite3.Connection, id: str) -> SandboxRecord:
    return SANDBOX.decode(read_blob(connection, "sandboxes", "sandbox", id))


def read_container(connection: sqlite3.Connection, id: str) -> ContainerRecord:
    return CONTAINER.decode(read_blob(connection, "containers", "container", id))


def read_blob(connection: sqlite3.Connection, table: str, noun: str, id: str) -> bytes:
    row = connection.execute(f"SELECT record FROM {table} WHERE id = ?", (id,)).fetchone()
    if row is None:
        raise NotFound("does not exist", object=f"{noun} {id}")
    return bytes(row[0])


def begin_operation(connection: sqlite3.Connection, operation: OperationRecord) -> None:
    connection.execute(PUT_OPERATION, (operation.key, operation.object_id, ENCODE(operation)))


def end_operation(connection: sqlite3.Connection, key: str) -> OperationRecord:
    """Mark as done and not yet delivered: no step will be undone. Raises NotFound when it never began."""
    row = connection.execute("SELECT record FROM operations WHERE key = ?", (key,)).fetchone()
    if row is None:
        raise NotFound("has not begun", object=f"operation {key}")
    done = msgspec.structs.replace(OPERATION.decode(row[0]), phase=OperationPhase.DONE, steps=b"")
    begin_operation(connection, done)
    return done


def forget_operations(connection: sqlite3.Connection, keys: tuple[str, ...]) -> None:
    connection.executemany("DELETE FROM operations WHERE key = ?", [(key,) for key in keys])


def load(
    connection: sqlite3.Connection,
) -> tuple[list[SandboxRecord], list[ContainerRecord], list[OperationRecord]]:
    """Everything that can be read; the rest goes to quarantine."""
    sandboxes = load_table(connection, "sandboxes", "id", SANDBOX)
    containers = load_table(connection, "containers", "id", CONTAINER)
    known = {sandbox.id for sandbox in sandboxes}
    for container in containers:
        if container.sandbox_id not in known:
            quarantine(connection, "containers", "id", container.id, ENCODE(container), "its sandbox is not there")
    operations = load_table(connection, "operations", "key", OPERATION)
    return sandboxes, [container for container in containers if container.sandbox_id in known], operations


def load_table(
    connection: sqlite3.Connection, table: str, column: str, decoder: msgspec.json.Decoder[StructT]
) -> list[StructT]:
    records = []
    for id, blob in connection.execute(f"SELECT {column}, record FROM {table}").fetchall():
        try:
            records.append(decoder.decode(blob))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            quarantine(connection, table, column, id, blob, str(error))
    return records


def quarantine(connection: sqlite3.Connection, table: str, column: str, id: str, blob: bytes, reason: str) -> None:
    LOG.error("the record of %s in %s cannot be used (%s); moved to the table quarantine", id, table, reason)
    connection.execute(f"DELETE FROM {table} WHERE {column} = ?", (id,))
    connection.execute("INSERT INTO quarantine VALUES (?, ?, ?, ?, ?)", (table, id, blob, reason, time.time_ns()))
