"""Operations that outlive their caller: reserve a name, join, adopt; change what is there.

A creation is run under the key of the name that it reserves. The identical
request, sent again, joins the work in flight or adopts its result as long as
that was never delivered; a different request for the same name is refused. Changes
of one object come one after the other.
``cri.state.store`` keeps the rows, in the same transactions as the records.

Invariant: at most one operation per key is in flight, and no cancelled caller
ever cancels its work.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, TypeVar

from cri.state.records import OperationPhase, OperationRecord
from cri.state.store import Store
from cri.tasks import Tasks
from runtime.errors import AlreadyExists

LOG = logging.getLogger("crisp.operations")
T = TypeVar("T")

FORGET_AFTER = 0.2
"""Seconds after which delivered operations leave the table; until then a kill would make
their answers adoptable once more, which does no harm."""


@dataclass(frozen=True, slots=True)
class Operation:
    """A creation or a change in flight. ``object_id`` is the id that the new object gets, or the changed one
    has; ``digest`` the sha256 of a creation's request (hex); ``began_at`` ns since the epoch."""

    key: str
    kind: str
    digest: str
    object_id: str = field(default_factory=lambda: secrets.token_hex(32))
    began_at: int = field(default_factory=time.time_ns)

    def record(self, steps: bytes) -> OperationRecord:
        """What ``Store.commit(begin=...)`` wants before the first effect."""
        return OperationRecord(
            key=self.key,
            digest=self.digest,
            kind=self.kind,
            object_id=self.object_id,
            steps=steps,
            phase=OperationPhase.RUNNING,
            began_at=self.began_at,
        )


@dataclass(slots=True)
class Flight:
    """``waiting`` counts the callers that still want the answer."""

    task: asyncio.Task[Any]
    digest: str = ""
    object_id: str = ""
    waiting: int = 0


class Operations:
    """The operations of one daemon; made after ``Store.open``."""

    def __init__(self, store: Store, tasks: Tasks) -> None:
        self._store = store
        self._tasks = tasks
        self._creating: dict[str, Flight] = {}
        self._single: dict[str, Flight] = {}
        self._delivered: list[str] = []

    async def run(
        self,
        key: str,
        kind: str,
        request_digest: str,
        work: Callable[[Operation], Awaitable[T]],
        new_id: Callable[[], str] = lambda: secrets.token_hex(32),
    ) -> str:
        """Create what ``key`` names; the new object's id.

        ``work`` records the intent (``store.commit(begin=operation.record(...))``), makes
        the object and records the end (``store.commit(puts=..., end=operation.key)``);
        when it fails it has undone what it did and deleted its records. The object's id
        is ``operation.object_id``, from ``new_id``; what ``work`` returns is not looked at.

        Raises:
            AlreadyExists: the name is taken, by an object whose creation was answered or
                by a request that differs from this one.
            Exception: what ``work`` raised.
        """
        flight = self._creating.get(key)
        if flight is not None:
            if flight.digest != request_digest:
                raise AlreadyExists(f"another request for this name is being carried out as {flight.object_id}")
            LOG.debug("joins the %s in flight", kind, extra={"object_id": flight.object_id})
            await self._wait(flight)
            return flight.object_id
        adopted = self._adopt(key, request_digest)
        if adopted:
            return adopted
        operation = Operation(key, kind, request_digest, new_id())
        task = self._spawn(f"{kind} {operation.object_id[:12]}", work, operation)
        flight = Flight(task, request_digest, operation.object_id)
        self._track(self._creating, key, flight)
        await self._wait(flight)
        return flight.object_id

    async def change(self, key: str, kind: str, object_id: str, work: Callable[[Operation], Awaitable[T]]) -> None:
        """Change the object ``object_id``, one at a time under ``key``: after those that came before have ended.

        ``work`` is that of ``run``, but ends its operation by forgetting it: the same change
        may be asked for again at any time, and is made again.

        Raises:
            Exception: what ``work`` raised.
        """
        while key in self._creating:
            await asyncio.wait([self._creating[key].task])
        task = self._spawn(f"{kind} {object_id[:12]}", work, Operation(key, kind, "", object_id))
        flight = Flight(task, "", object_id)
        self._track(self._creating, key, flight)
        await self._wait(flight)

    async def join(self, key: str, work: Callable[[], Coroutine[Any, Any, T]]) -> T:
        """One flight a key for work that may simply be done again (stop, pull, remove): a
        second caller waits for the first one's result, which outlives both."""
        flight = self._single.get(key)
        if flight is None:
            flight = Flight(self._tasks.spawn(key, work(), watched=True))
            self._track(self._single, key, flight)
        result: T = await self._wait(flight)
        return result

    def delivered(self, key: str) -> None:
        """The answer has reached the client: from now on the same request is refused.

        The table follows a moment later, for many at once, off the path of any request.
        """
        record = self._store.operations.get(key)
        if record is None or record.phase is not OperationPhase.DONE:
            return
        del self._store.operations[key]
        if not self._delivered:
            self._tasks.spawn("forget delivered operations", self._forget_delivered())
        self._delivered.append(key)

    async def _forget_delivered(self) -> None:
        await asyncio.sleep(FORGET_AFTER)
        keys, self._delivered = self._delivered, []
        # A name that was taken again meanwhile has its new operation's row under the same key.
        await self._store.forget_operations([key for key in keys if key not in self._store.operations])

    async def forget(self, key: str) -> None:
        """Recovery has undone it. Idempotent."""
        await self._store.forget_operations([key])

    def in_flight(self, object_id: str) -> bool:
        """Whether the object is being made at this moment."""
        return any(flight.object_id == object_id for flight in self._creating.values())

    def unfinished(self) -> list[OperationRecord]:
        """The operations that an earlier daemon began and did not end: to be undone."""
        return [record for record in self._store.unfinished() if record.key not in self._creating]

    def _adopt(self, key: str, digest: str) -> str | None:
        """The id of an object that this very request made (or started), if its answer never arrived."""
        holder = self._store.holder(key)
        record = self._store.operations.get(key)
        if record is None or record.phase is not OperationPhase.DONE:
            if holder is None:
                return None
            raise AlreadyExists(f"the name and attempt are taken by {holder}")
        if record.digest != digest:
            raise AlreadyExists(f"the name and attempt are taken by {record.object_id}, which another request made")
        LOG.info("adopts the result of an earlier request", extra={"object_id": record.object_id})
        return record.object_id

    def _spawn(self, name: str, work: Callable[[Operation], Awaitable[Any]], operation: Operation) -> asyncio.Task[Any]:
        async def carry_out() -> Any:
            return await work(operation)

        return self._tasks.spawn(name, carry_out(), watched=True)

    def _track(self, flights: dict[str, Flight], key: str, flight: Flight) -> None:
        def ended(task: asyncio.Task[Any]) -> None:
            flights.pop(key, None)
            if task.cancelled():
                return
            error = task.exception()
            if error is not None and not flight.waiting:
                LOG.warning("%s failed after its client had left: %s", task.get_name(), error)

        flights[key] = flight
        flight.task.add_done_callback(ended)

    async def _wait(self, flight: Flight) -> Any:
        """What the task returns; the task survives this caller."""
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        finally:
            flight.waiting -= 1
