"""One SQLite file, one connection, one thread that uses it.

The event loop hands functions over with ``run``, other threads with ``run_sync``;
each function is one transaction of its own. Functions that wait at the same time
share one commit (``cri.state.batch``). ``cri.state.file`` opens the file, ``cri.state.schema``
has the tables.

Invariant: only the writer thread touches the connection, functions run in the
order in which they were handed over, and a caller is told of success only after
the commit. A write survives a killed process at once (WAL, synchronous NORMAL);
with ``durable`` it survives a power cut too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from cri.state.batch import Job, commit_again, commit_batch
from cri.state.file import fault_of, fold_in, is_full, make_reserve, open_file, refusal, reserve_path
from runtime.errors import Unavailable

LOG = logging.getLogger("crisp.state")
T = TypeVar("T")

BATCH = 64
"""How many waiting functions share one commit at most."""

IDLE_CHECKPOINT = 0.5
"""Seconds without work after which the log is folded into the file, away from any request."""


class Database:
    """Use ``await Database.open(path)``; end with ``await close()``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._opened: Future[None] = Future()
        self._closed = False
        self._delivery = Delivery()
        self._thread = threading.Thread(target=self._serve, name="crisp-state", daemon=True)

    @classmethod
    async def open(cls, path: Path) -> Database:
        """Open ``path``, made if absent; a file that is no database any more is moved
        aside to ``<path>.corrupt-<time>`` and replaced by an empty one.

        Raises:
            FailedPrecondition: a newer crisp wrote the file.
            HostFault, ResourceExhausted: it cannot be opened or written.
        """
        database = cls(path)
        database._thread.start()
        try:
            await asyncio.wrap_future(database._opened)
        except sqlite3.Error as error:
            raise fault_of(error, path) from error
        return database

    async def run(
        self,
        work: Callable[[sqlite3.Connection], T],
        *,
        then: Callable[[T], None] | None = None,
        durable: bool = False,
        urgent: bool = False,
        begins: bool = False,
        meanwhile: Callable[[], None] | None = None,
    ) -> T:
        """``work`` in one transaction; its result once that is committed.

        ``then(result)`` is called on the event loop before this returns, and also when
        the caller was cancelled meanwhile: what mirrors the rows in memory belongs there.
        ``urgent`` is for what frees things or records what has happened: it may use the reserve
        on a full disk. ``begins`` is for what makes something new: while the reserve is used up
        it is refused, for it would take the room of what is urgent. ``meanwhile()`` is called
        on the event loop while the writer thread works; it must not raise.

        Raises:
            sqlite3.IntegrityError: a constraint of the tables refused.
            ResourceExhausted: the disk is full.
            HostFault: any other error of the database.
            Unavailable: it is closed.
            Exception: what ``work`` raised; nothing of it was written.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        deliver = self._delivery.to(future, then)
        self._submit(Job(work, deliver, durable, urgent, begins))
        if meanwhile is not None:
            meanwhile()
        return await future

    def run_sync(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = False, urgent: bool = False) -> T:
        """As ``run``, blocking; for threads other than the event loop's."""
        if threading.current_thread() is self._thread:
            raise RuntimeError("run_sync inside a transaction would wait for itself")
        future: Future[T] = Future()

        def finish(result: Any, error: BaseException | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self._submit(Job(work, finish, durable, urgent))
        return future.result()

    async def close(self) -> None:
        """Finish what was handed over, fold the log in and end the thread. Idempotent."""
        if not self._closed:
            self._closed = True
            self._jobs.put(None)
        await asyncio.get_running_loop().run_in_executor(None, self._thread.join)

    def _submit(self, job: Job) -> None:
        if self._closed:
            raise Unavailable("the state database is closed", object=str(self._path))
        self._jobs.put(job)

    # The writer thread.

    def _serve(self) -> None:
        try:
            connection = open_file(self._path)
        except BaseException as error:  # noqa: BLE001 told to the caller of open, whatever it is
            self._opened.set_exception(error)
            return
        self._opened.set_result(None)
        try:
            self._work(connection)
        finally:
            with contextlib.suppress(sqlite3.Error):
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
            connection.close()

    def _work(self, connection: sqlite3.Connection) -> None:
        dirty = False
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_CHECKPOINT if dirty else None)
            except queue.Empty:
                fold_in(connection)
                make_reserve(self._path)
                dirty = False
                continue
            if job is None:
                return
            batch, ended = self._gather(job)
            try:
                self._commit(connection, batch)
            except (sqlite3.Error, OSError) as disorder:  # it must not leave anybody waiting for ever
                for job in batch:
                    job.error = job.error or disorder
            for job in batch:
                error = job.error
                if isinstance(error, sqlite3.Error) and not isinstance(error, sqlite3.IntegrityError):
                    error = fault_of(error, self._path)
                job.finish(job.result, error)
            self._delivery.wake()
            dirty = True
            if ended:
                return

    def _gather(self, first: Job) -> tuple[list[Job], bool]:
        """``first`` and what else waits already; whether the end was asked for."""
        batch = [first]
        while len(batch) < BATCH:
            try:
                job = self._jobs.get_nowait()
            except queue.Empty:
                break
            if job is None:
                return batch, True
            batch.append(job)
        return batch, False

    def _commit(self, connection: sqlite3.Connection, batch: list[Job]) -> None:
        """``batch``, as far as the disk has room for it."""
        self._refuse_beginnings(batch)
        commit_batch(connection, [job for job in batch if job.error is None])
        if len(batch) > 1:  # the one for which there is no room has failed those that shared its commit
            for job in [job for job in batch if is_full(job.error) and not job.begins]:
                commit_again(connection, [job])
        urgent = [job for job in batch if job.urgent and is_full(job.error)]
        if urgent:
            self._make_room(connection)
            commit_again(connection, urgent)

    def _refuse_beginnings(self, batch: list[Job]) -> None:
        """While there is neither the reserve nor room to make it anew: it is looked for each time, for
        whoever has freed some room wants to begin at once."""
        beginnings = [job for job in batch if job.begins]
        if beginnings and not make_reserve(self._path):
            for job in beginnings:
                job.error = refusal(self._path)

    def _make_room(self, connection: sqlite3.Connection) -> None:
        """The disk is full: give up the reserve, and let the log begin at its beginning again."""
        reserve = reserve_path(self._path)
        if reserve.exists():
            LOG.warning("the disk of %s is full; the reserve is given up to let pods be removed", self._path)
            reserve.unlink(missing_ok=True)
        fold_in(connection)


class Delivery:
    """Carries finished jobs to the event loop, one wake-up for a whole batch."""

    def __init__(self) -> None:
        self._ready: list[Callable[[], None]] = []
        self._loop: asyncio.AbstractEventLoop | None = None

    def to(
        self, future: asyncio.Future[T], then: Callable[[T], None] | None
    ) -> Callable[[Any, BaseException | None], None]:
        """The ``finish`` of a job whose caller awaits ``future``; called on the loop."""
        self._loop = future.get_loop()

        def settle(result: Any, error: BaseException | None) -> None:
            if error is None and then is not None:
                try:
                    then(result)
                except Exception as failure:  # noqa: BLE001 the caller hears of it as of any other failure
                    error = failure
            if future.done():  # the caller was cancelled
                return
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        return lambda result, error: self._ready.append(lambda: settle(result, error))

    def wake(self) -> None:
        """Called in the writer thread after a batch."""
        if not self._ready or self._loop is None:
            return
        ready, self._ready = self._ready, []
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
            self._loop.call_soon_threadsafe(call_all, ready)


def call_all(functions: list[Callable[[], None]]) -> None:
    for function in functions:
        function()
