"""One commit for several functions: each is told how it went, and takes back its own writes only."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from cri.state.batch import Delivery, Job, commit_again, commit_batch


@pytest.fixture
def connection() -> Iterator[sqlite3.Connection]:
    opened = sqlite3.connect(":memory:", isolation_level=None)
    opened.execute("CREATE TABLE things (id INTEGER PRIMARY KEY)")
    yield opened
    opened.close()


def job(work: Callable[[sqlite3.Connection], Any], *, durable: bool = False) -> Job:
    return Job(work, lambda result, error: None, durable)


def put(id: int) -> Callable[[sqlite3.Connection], int]:
    def work(connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO things VALUES (?)", (id,))
        return id

    return work


def put_and_fail(connection: sqlite3.Connection) -> None:
    put(100)(connection)
    raise ValueError("no")


def full(connection: sqlite3.Connection) -> None:
    """As SQLite does it for want of space: the whole transaction is gone."""
    connection.execute("ROLLBACK")
    raise sqlite3.OperationalError("database or disk is full")


def stored(connection: sqlite3.Connection) -> list[int]:
    return [id for (id,) in connection.execute("SELECT id FROM things ORDER BY id")]


def test_each_gets_its_result_and_the_one_that_fails_its_error(connection: sqlite3.Connection) -> None:
    batch = [job(put(1)), job(put_and_fail), job(put(2), durable=True)]
    commit_batch(connection, batch)
    assert [each.result for each in batch] == [1, None, 2]
    assert isinstance(batch[1].error, ValueError)
    assert stored(connection) == [1, 2]
    assert connection.execute("PRAGMA synchronous").fetchone() == (1,)


def test_one_alone_that_fails_writes_nothing(connection: sqlite3.Connection) -> None:
    alone = job(put_and_fail)
    commit_batch(connection, [alone])
    assert isinstance(alone.error, ValueError) and stored(connection) == []
    commit_batch(connection, [])
    assert not connection.in_transaction


def test_a_transaction_that_sqlite_took_back_fails_all(connection: sqlite3.Connection) -> None:
    batch = [job(put(1)), job(full), job(put(2))]
    commit_batch(connection, batch)
    assert all(isinstance(each.error, sqlite3.OperationalError) for each in batch)
    assert stored(connection) == [] and not connection.in_transaction


def test_what_failed_is_done_once_more_as_if_it_had_not(connection: sqlite3.Connection) -> None:
    batch = [job(put(1)), job(full)]
    commit_batch(connection, batch)
    commit_again(connection, batch[:1])
    assert (batch[0].error, batch[0].result) == (None, 1)
    assert batch[1].error is not None and stored(connection) == [1]


async def test_callers_hear_of_a_whole_batch_at_once_and_mirrors_before_them() -> None:
    delivery, loop = Delivery(), asyncio.get_running_loop()
    good, bad, left = (loop.create_future() for _ in range(3))
    order: list[str] = []
    good.add_done_callback(lambda _: order.append("told"))
    finish_good = delivery.to(good, lambda result: order.append(f"mirrored {result}"))
    finish_bad = delivery.to(bad, lambda result: order.append("never"))
    finish_left = delivery.to(left, lambda result: order.append(f"mirrored {result}"))
    left.cancel()

    def writer() -> None:
        finish_good(1, None)
        finish_bad(None, ValueError("no"))
        finish_left(2, None)
        delivery.wake()

    thread = threading.Thread(target=writer)
    thread.start()
    assert await good == 1
    with pytest.raises(ValueError, match="no"):
        await bad
    thread.join()
    assert order == ["mirrored 1", "mirrored 2", "told"]
    delivery.wake()  # there is nothing to be told any more


async def test_a_mirror_that_fails_fails_its_caller_and_no_other() -> None:
    delivery, loop = Delivery(), asyncio.get_running_loop()
    first, second = loop.create_future(), loop.create_future()
    delivery.to(first, lambda result: 1 // result)(0, None)
    delivery.to(second, None)(7, None)
    delivery.wake()
    with pytest.raises(ZeroDivisionError):
        await first
    assert await second == 7


def test_a_loop_that_is_closed_is_told_nothing() -> None:
    delivery, loop = Delivery(), asyncio.new_event_loop()
    future: asyncio.Future[int] = loop.create_future()
    delivery.to(future, None)(1, None)
    loop.close()
    delivery.wake()
    assert not future.done()


def test_a_job_without_a_caller_of_its_own_is_finished_quietly() -> None:
    Job(put(1)).finish(1, None)
