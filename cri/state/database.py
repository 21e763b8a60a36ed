"""One SQLite file, one connection, one function at a time that uses it.

The event loop calls ``run``, other threads ``run_sync``; each function is one
transaction of its own. While nothing waits, the loop carries it out itself: a commit
that is not durable writes a few pages to memory of the kernel's, which is less work
than waking a thread. All else goes to the writer thread, where functions that wait
at the same time share one commit (``cri.state.batch``). ``cri.state.file`` opens the
file, ``cri.state.schema`` has the tables.

Invariant: functions run one after the other, in the order in which they were handed
over, and a caller is told of success only after the commit. The loop never waits for
the connection. A write survives a killed process at once (WAL, synchronous NORMAL);
with ``durable`` it survives a power cut too.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import queue
import sqlite3
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

from cri.state.batch import Delivery, Job, commit_again, commit_batch
from cri.state.file import fault_of, fold_in, is_full, make_reserve, open_file, refusal, reserve_path
from runtime.errors import Unavailable

LOG = logging.getLogger("crisp.state")
T = TypeVar("T")

BATCH = 64
"""How many waiting functions share one commit at most."""

IDLE_CHECKPOINT = 0.5
"""Seconds without work after which the log is folded into the file, away from any request."""

SLOW, WARY = 0.02, 5.0
"""A commit that kept the loop longer than the first (seconds) tells of a disk in trouble: for the second
all go to the writer thread."""


STIR = Job(lambda connection: None)
"""Tells the writer thread that there will be something to fold in."""


class Database:
    """Use ``await Database.open(path)``; end with ``await close()``."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._opened: Future[None] = Future()
        self._connection: sqlite3.Connection | None = None
        self._in_use = threading.Lock()
        self._counting = threading.Lock()
        self._user = 0
        self._waiting = 0
        self._used = 0.0
        self._stirred = False
        self._wary_until = 0.0
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
    ) -> T:
        """``work`` in one transaction; its result once that is committed.

        ``then(result)`` is called on the event loop before this returns, and also when
        the caller was cancelled meanwhile: what mirrors the rows in memory belongs there.
        ``urgent`` is for what frees things or records what has happened: it may use the reserve
        on a full disk. ``begins`` is for what makes something new: while the reserve is used up
        it is refused, for it would take the room of what is urgent.

        Raises:
            sqlite3.IntegrityError: a constraint of the tables refused.
            ResourceExhausted: the disk is full.
            HostFault: any other error of the database.
            Unavailable: it is closed.
            Exception: what ``work`` raised; nothing of it was written.
        """
        if not durable and self._take_over():
            return self._run_here(Job(work, urgent=urgent, begins=begins), then)
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        deliver = self._delivery.to(future, then)
        self._submit(Job(work, deliver, durable, urgent, begins))
        return await future

    def run_sync(self, work: Callable[[sqlite3.Connection], T], *, durable: bool = False, urgent: bool = False) -> T:
        """As ``run``, blocking; for threads other than the event loop's."""
        if threading.get_ident() == self._user:
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
        with self._counting:
            self._waiting += 1
            self._jobs.put(job)

    # The event loop.

    def _take_over(self) -> bool:
        """Whether the connection is the caller's now: nobody uses it, and nobody was there before."""
        if self._closed or time.monotonic() < self._wary_until:
            return False
        with self._counting:
            return not self._waiting and self._in_use.acquire(blocking=False)

    def _run_here(self, job: Job, then: Callable[[T], None] | None) -> T:
        began = time.monotonic()
        try:
            assert self._connection is not None
            self._carry_out(self._connection, [job])
        finally:
            self._used = time.monotonic()
            if not self._stirred:
                self._stirred = True
                self._jobs.put(STIR)
            self._in_use.release()
        if self._used - began > SLOW:
            self._wary_until = self._used + WARY
        if job.error is not None:
            raise job.error
        result: T = job.result
        if then is not None:
            then(result)
        return result

    # The writer thread.

    def _serve(self) -> None:
        try:
            connection = open_file(self._path)
        except BaseException as error:  # noqa: BLE001 told to the caller of open, whatever it is
            self._opened.set_exception(error)
            return
        self._connection = connection
        self._opened.set_result(None)
        try:
            self._work(connection)
        finally:
            with self._in_use:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
                connection.close()

    def _work(self, connection: sqlite3.Connection) -> None:
        dirty = False
        while True:
            try:
                job = self._jobs.get(timeout=IDLE_CHECKPOINT if dirty else None)
            except queue.Empty:
                dirty = not self._tidy_up(connection)
                continue
            if job is None:
                return
            dirty = True
            if job is STIR:
                continue
            batch, ended = self._gather(job)
            with self._in_use:
                self._carry_out(connection, batch)
                self._used = time.monotonic()
            with self._counting:
                self._waiting -= len(batch)
            for job in batch:
                job.finish(job.result, job.error)
            self._delivery.wake()
            if ended:
                return

    def _tidy_up(self, connection: sqlite3.Connection) -> bool:
        """What can wait, if the loop has not been at work just now; whether it was done."""
        if time.monotonic() < self._used + IDLE_CHECKPOINT:
            return False
        with self._in_use:
            self._stirred = False
            fold_in(connection)
            make_reserve(self._path)
        return True

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
            if job is not STIR:
                batch.append(job)
        return batch, False

    # Whoever has the connection.

    def _carry_out(self, connection: sqlite3.Connection, batch: list[Job]) -> None:
        """Commit ``batch``; each job has its result or its error."""
        self._user = threading.get_ident()
        try:
            self._commit(connection, batch)
        except (sqlite3.Error, OSError) as disorder:  # it must not leave anybody waiting for ever
            for job in batch:
                job.error = job.error or disorder
        finally:
            self._user = 0
        for job in batch:
            if isinstance(job.error, sqlite3.Error) and not isinstance(job.error, sqlite3.IntegrityError):
                job.error = fault_of(job.error, self._path)

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
