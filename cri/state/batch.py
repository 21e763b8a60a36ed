"""A function that wants a transaction, one commit for several of them, and the way back to the loop.

``cri.state.database`` gathers what waits, and calls this with the connection.

Invariant: a function that fails takes back its own writes and nobody else's, and each is told
how it went.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

T = TypeVar("T")


def _ignore(result: Any, error: BaseException | None) -> None:
    """Of a job whose caller looks at it himself."""


@dataclass(slots=True, eq=False)
class Job:
    """``finish(result, error)`` is called by the writer thread, once, after the commit. ``urgent`` and
    ``begins`` as in ``cri.state.database.Database.run``."""

    work: Callable[[sqlite3.Connection], Any]
    finish: Callable[[Any, BaseException | None], None] = _ignore
    durable: bool = False
    urgent: bool = False
    begins: bool = False
    result: Any = None
    error: BaseException | None = None


def commit_batch(connection: sqlite3.Connection, batch: list[Job]) -> None:
    """Run and commit ``batch``; each job's ``result`` or ``error`` says how it went.

    One that fails takes back its own writes only; a commit that fails fails all.
    """
    if not batch:
        return
    durable = any(job.durable for job in batch)
    try:
        if durable:
            connection.execute("PRAGMA synchronous=FULL")
        connection.execute("BEGIN IMMEDIATE")
        alone = len(batch) == 1
        for job in batch:
            run_job(connection, job, alone)
        connection.execute("ROLLBACK" if alone and batch[0].error else "COMMIT")
    except sqlite3.Error as error:
        with contextlib.suppress(sqlite3.Error):
            if connection.in_transaction:
                connection.execute("ROLLBACK")
        for job in batch:
            job.error = job.error or error
    finally:
        if durable:
            connection.execute("PRAGMA synchronous=NORMAL")


def commit_again(connection: sqlite3.Connection, batch: list[Job]) -> None:
    """What has failed once more, as if it had not."""
    for job in batch:
        job.error = None
    commit_batch(connection, batch)


def run_job(connection: sqlite3.Connection, job: Job, alone: bool) -> None:
    """One function; with others in the transaction inside a savepoint of its own.

    Raises:
        sqlite3.Error: the transaction as a whole is lost.
    """
    if not alone:
        connection.execute("SAVEPOINT job")
    try:
        job.result = job.work(connection)
    except BaseException as error:  # belongs to the job's caller, whatever it is
        job.error = error
        if not connection.in_transaction:  # SQLite itself rolled back (full disk)
            raise sqlite3.OperationalError("the transaction was rolled back") from error
        if not alone:
            connection.execute("ROLLBACK TO job")
    if not alone:
        connection.execute("RELEASE job")


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
