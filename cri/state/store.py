"""What exists: every sandbox and container, and the operations that are owed an answer.

RPC modules read from memory and write through ``commit`` and ``update_*``;
``cri.state.journal`` runs the operations, ``cri.state.rows`` has the SQL.

Invariant: the database is written first and memory follows, also when the caller
was cancelled meanwhile; a reader never sees what a kill could take back, but for what
has happened and cannot be stored yet (``owe``).
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Callable, Coroutine, Iterable, Sequence
from typing import Any, TypeAlias, TypeVar

from cri.state import rows
from cri.state.database import Database
from cri.state.index import Index
from cri.state.records import ContainerRecord, OperationPhase, OperationRecord, SandboxRecord

Record: TypeAlias = SandboxRecord | ContainerRecord
RecordT = TypeVar("RecordT", SandboxRecord, ContainerRecord)
Watch: TypeAlias = Callable[[Record | None, Record | None], None]
"""Called with a record as it was and as it is, None for not there."""


def sandbox_key(name: str, namespace: str, uid: str, attempt: int) -> str:
    """What a sandbox reserves; a list, so that no choice of names makes two keys equal."""
    return json.dumps(["sandbox", namespace, name, uid, attempt])


def container_key(sandbox_id: str, name: str, attempt: int) -> str:
    """What a container reserves."""
    return json.dumps(["container", sandbox_id, name, attempt])


class Store:
    """``sandboxes`` and ``containers`` are read directly; ``operations`` are the
    journal's rows by key. Use ``await Store.open(database)``."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.sandboxes: Index[SandboxRecord] = Index(
            "sandbox", lambda record: sandbox_key(record.name, record.namespace, record.uid, record.attempt)
        )
        self.containers: Index[ContainerRecord] = Index(
            "container", lambda record: container_key(record.sandbox_id, record.name, record.attempt)
        )
        self.operations: dict[str, OperationRecord] = {}
        self._members: dict[str, dict[str, None]] = {}
        self._owed: dict[str, list[Callable[[Any], Any]]] = {}
        self._watch: Watch = lambda before, after: None

    @classmethod
    async def open(cls, database: Database) -> Store:
        """Load everything; records that cannot be decoded go to quarantine."""
        store = cls(database)
        sandboxes, containers, operations = await database.run(rows.load)
        for sandbox in sandboxes:
            store._keep(sandbox)
        for container in containers:
            store._keep(container)
        store.operations = {operation.key: operation for operation in operations}
        return store

    def sandbox(self, id: str) -> SandboxRecord | None:
        """By full id."""
        return self.sandboxes.find(id)

    def container(self, id: str) -> ContainerRecord | None:
        """By full id."""
        return self.containers.find(id)

    def containers_of(self, sandbox_id: str) -> list[ContainerRecord]:
        """The containers of this sandbox (full id), oldest first."""
        found = [self.containers.get(id) for id in self._members.get(sandbox_id, ())]
        return sorted(found, key=lambda record: record.created_at)

    def holder(self, key: str) -> str | None:
        """The id of the object that holds the name ``key`` (``sandbox_key``, ``container_key``)."""
        return self.sandboxes.holder(key) or self.containers.holder(key)

    def watch(self, watch: Watch) -> None:
        """Have ``watch`` told of each record that changes from now on, on the event loop, in the order of the
        commits, at the moment from which readers see it. It must not wait, nor fail."""
        self._watch = watch

    async def commit(
        self,
        puts: Iterable[Record] = (),
        deletes: Iterable[Record] = (),
        begin: OperationRecord | None = None,
        end: str | None = None,
    ) -> None:
        """One transaction: ``puts`` and ``deletes`` of records, ``begin`` an operation in
        the journal, ``end`` (its key) mark one as done and not yet delivered.

        What is deleted takes its operation along. All but ``begin`` works on a full disk;
        that is refused as soon as others need the reserve.

        Raises:
            AlreadyExists: a put record's name is taken.
            FailedPrecondition: a deleted sandbox still has containers.
            NotFound: the operation to end never began.
            ResourceExhausted: the disk is full.
        """
        put, gone = tuple(puts), tuple(deletes)

        def write(connection: sqlite3.Connection) -> OperationRecord | None:
            rows.delete_all(connection, gone)
            for record in put:
                rows.put(connection, record)
            if begin is not None:
                rows.begin_operation(connection, begin)
            return rows.end_operation(connection, end) if end is not None else None

        def mirror(ended: OperationRecord | None) -> None:
            self._drop(gone)
            for record in put:
                self._keep(record)
            for operation in (begin, ended):
                if operation is not None:
                    self.operations[operation.key] = operation

        await self.database.run(write, then=mirror, urgent=begin is None, begins=begin is not None)

    async def delete_sandbox(self, record: SandboxRecord) -> None:
        """Raises FailedPrecondition while it has containers."""
        await self.commit(deletes=(record,))

    async def delete_container(self, record: ContainerRecord) -> None:
        await self.commit(deletes=(record,))

    async def update_sandbox(
        self, id: str, change: Callable[[SandboxRecord], SandboxRecord], end: str | None = None
    ) -> SandboxRecord:
        """Replace the record by ``change(record)``, atomically: no other write comes
        between. ``change`` runs with the database and must be pure; what it raises
        is raised here and nothing is written. Works on a full disk. The operation with the
        key ``end`` is forgotten in the same transaction.

        Raises:
            NotFound: it is gone.
        """
        return await self._update(rows.read_sandbox, id, change, end)

    async def update_container(
        self, id: str, change: Callable[[ContainerRecord], ContainerRecord], end: str | None = None
    ) -> ContainerRecord:
        """As ``update_sandbox``, for a container."""
        return await self._update(rows.read_container, id, change, end)

    async def _update(
        self,
        read: Callable[[sqlite3.Connection, str], RecordT],
        id: str,
        change: Callable[[RecordT], RecordT],
        end: str | None,
    ) -> RecordT:
        def write(connection: sqlite3.Connection) -> RecordT:
            record = change(read(connection, id))
            rows.put(connection, record)
            if end is not None:
                rows.forget_operations(connection, (end,))
            return record

        def mirror(record: RecordT) -> None:
            self._keep(record)
            if end is not None:
                self.operations.pop(end, None)

        return await self.database.run(write, then=mirror, urgent=True)

    def owe(self, id: str, change: Callable[[RecordT], RecordT]) -> None:
        """It has happened and cannot be stored: readers see it from now on, whatever is stored of
        the record meanwhile. ``change`` is that of a failed update; pure, and idempotent.

        Whoever says so tries the update again until it succeeds, then calls ``settle``.
        """
        record = self.sandbox(id) or self.container(id)
        if record is not None:
            self._owed.setdefault(id, []).append(change)
            self._keep(record)

    def settle(self, id: str, change: Callable[[RecordT], RecordT]) -> None:
        """It is stored by now. Idempotent."""
        left = [each for each in self._owed.pop(id, []) if each is not change]
        if left:
            self._owed[id] = left

    def forget_operations(self, keys: Iterable[str]) -> Coroutine[Any, Any, None]:
        """Delivered or undone: the journal owes them nothing more. Idempotent.

        Memory forgets at the call and the table when the result is awaited: a kill in
        between only makes the answer adoptable once more.
        """
        known = tuple(keys)
        for key in known:
            self.operations.pop(key, None)
        return self.database.run(lambda connection: rows.forget_operations(connection, known), urgent=True)

    async def flush(self) -> None:
        """Return once readers see all that was to be stored before, or it has failed."""
        await self.database.run(lambda _connection: None, urgent=True)

    def unfinished(self) -> list[OperationRecord]:
        """The operations whose effects may exist and whose end was not recorded."""
        return [record for record in self.operations.values() if record.phase is OperationPhase.RUNNING]

    # Memory follows the tables.

    def _keep(self, record: Record) -> None:
        before: Record | None
        for change in self._owed.get(record.id, ()):
            record = change(record)
        if isinstance(record, SandboxRecord):
            before = self.sandboxes.find(record.id)
            self.sandboxes.put(record)
        else:
            before = self.containers.find(record.id)
            self.containers.put(record)
            self._members.setdefault(record.sandbox_id, {})[record.id] = None
        self._watch(before, record)

    def _drop(self, records: Sequence[Record]) -> None:
        gone = {record.id for record in records}
        for record in records:
            self._owed.pop(record.id, None)
            if isinstance(record, SandboxRecord):
                self.sandboxes.remove(record.id)
                self._members.pop(record.id, None)
            else:
                self.containers.remove(record.id)
                self._members.get(record.sandbox_id, {}).pop(record.id, None)
            self._watch(record, None)
        for key in [key for key, operation in self.operations.items() if operation.object_id in gone]:
            del self.operations[key]
