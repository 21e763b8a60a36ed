"""The database: one transaction a function, in order, one commit for those that wait together."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from cri.state import database as module
from cri.state.batch import Job, commit_batch
from cri.state.database import Database
from cri.state.file import reserve_path
from runtime.errors import FailedPrecondition, HostFault, ResourceExhausted, Unavailable


@pytest.fixture(params=["by the loop", "by the thread"])
async def database(tmp_path: Path, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """Whoever carries out what is handed over, callers see no difference."""
    opened = await Database.open(tmp_path / "state.db")
    if request.param == "by the thread":
        opened._wary_until = float("inf")
    yield opened
    await opened.close()


def insert(id: str, size: int = 1) -> Callable[[sqlite3.Connection], None]:
    def work(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO images VALUES (?, ?)", (id, b"x" * size))

    return work


def later(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE meta SET value = '999' WHERE key = 'schema_version'")


def ids(connection: sqlite3.Connection) -> list[str]:
    return [row[0] for row in connection.execute("SELECT id FROM images ORDER BY id")]


async def test_what_was_committed_is_there_after_opening_again(tmp_path: Path) -> None:
    first = await Database.open(tmp_path / "state.db")
    await first.run(insert("a"))
    await first.close()
    second = await Database.open(tmp_path / "state.db")
    assert await second.run(ids) == ["a"]
    await second.close()


async def test_a_commit_is_on_the_file_before_the_caller_hears_of_it(database: Database, tmp_path: Path) -> None:
    await database.run(insert("a"))
    other = sqlite3.connect(tmp_path / "state.db")
    assert ids(other) == ["a"]
    other.close()


async def test_a_function_that_fails_writes_nothing(database: Database) -> None:
    def half(connection: sqlite3.Connection) -> None:
        insert("a")(connection)
        raise FailedPrecondition("no")

    with pytest.raises(FailedPrecondition):
        await database.run(half)
    assert await database.run(ids) == []


async def test_in_a_shared_commit_only_the_failing_function_is_taken_back(database: Database) -> None:
    gate = threading.Event()
    results = await asyncio.gather(
        database.run(lambda _: gate.wait(30), durable=True),
        database.run(insert("a")),
        database.run(lambda connection: [insert("b")(connection), 1 / 0]),
        database.run(insert("c")),
        asyncio.to_thread(gate.set),
        return_exceptions=True,
    )
    assert isinstance(results[2], ZeroDivisionError)
    assert await database.run(ids) == ["a", "c"]


async def test_functions_that_wait_together_share_a_commit(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []

    def count(connection: sqlite3.Connection, batch: list[Job]) -> None:
        sizes.append(len(batch))
        commit_batch(connection, batch)

    monkeypatch.setattr(module, "commit_batch", count)
    gate = threading.Event()
    first = database.run(lambda _: gate.wait(30), durable=True)
    blocked = asyncio.gather(first, *(database.run(insert(f"{n}")) for n in range(10)))
    await asyncio.sleep(0.05)
    gate.set()
    await blocked
    assert sum(sizes) == 11
    assert len(sizes) <= 3


async def test_the_order_of_the_calls_is_the_order_of_the_writes(database: Database) -> None:
    seen: list[int] = []
    await asyncio.gather(*(database.run(lambda _, n=n: seen.append(n)) for n in range(200)))  # type: ignore[misc]
    assert seen == list(range(200))


async def test_a_constraint_is_told_as_such(database: Database) -> None:
    await database.run(insert("a"))
    with pytest.raises(sqlite3.IntegrityError):
        await database.run(insert("a"))


async def test_any_other_database_error_is_a_host_fault(database: Database) -> None:
    with pytest.raises(HostFault, match="no such table"):
        await database.run(lambda connection: connection.execute("SELECT * FROM absent"))


async def test_memory_follows_even_when_the_caller_was_cancelled(database: Database) -> None:
    gate, mirrored = threading.Event(), asyncio.Event()
    blocked = asyncio.ensure_future(database.run(lambda _: gate.wait(30), durable=True))
    caller = asyncio.ensure_future(database.run(insert("a"), then=lambda _: mirrored.set()))
    await asyncio.sleep(0.01)
    caller.cancel()
    gate.set()
    await asyncio.wait_for(mirrored.wait(), 5)
    await blocked
    assert caller.cancelled()
    assert await database.run(ids) == ["a"]


async def test_a_mirror_that_fails_is_told_to_the_caller(database: Database) -> None:
    def broken(_: None) -> None:
        raise ValueError("mirror")

    with pytest.raises(ValueError, match="mirror"):
        await database.run(insert("a"), then=broken)


async def test_another_thread_waits_for_its_own_transaction(database: Database) -> None:
    await asyncio.to_thread(database.run_sync, insert("a"))
    assert await asyncio.to_thread(database.run_sync, ids) == ["a"]
    with pytest.raises(sqlite3.IntegrityError):
        await asyncio.to_thread(database.run_sync, insert("a"))


async def test_a_transaction_inside_a_transaction_is_refused(database: Database) -> None:
    with pytest.raises(RuntimeError, match="wait for itself"):
        await database.run(lambda _: database.run_sync(ids))


async def test_a_durable_write_is_synced_and_the_next_is_not(database: Database) -> None:
    def synchronous(connection: sqlite3.Connection) -> int:
        return int(connection.execute("PRAGMA synchronous").fetchone()[0])

    assert await database.run(synchronous, durable=True) == 2
    assert await database.run(synchronous) == 1


async def test_a_full_disk_refuses_what_is_new_and_lets_what_frees_through(database: Database, tmp_path: Path) -> None:
    await database.run(insert("a", 100_000))
    limit = await database.run(lambda connection: int(connection.execute("PRAGMA page_count").fetchone()[0]))
    await database.run(lambda connection: connection.execute(f"PRAGMA max_page_count={limit + 1}").fetchone() and None)
    with pytest.raises(ResourceExhausted, match="disk is full"):
        await database.run(insert("b", 100_000))
    assert reserve_path(tmp_path / "state.db").exists()

    tries = []

    def frees_at_the_second_try(connection: sqlite3.Connection) -> None:
        tries.append(1)
        if len(tries) == 1:
            insert("c", 100_000)(connection)
        connection.execute("DELETE FROM images")

    await database.run(frees_at_the_second_try, urgent=True)
    assert not reserve_path(tmp_path / "state.db").exists()
    assert await database.run(ids) == []


async def test_one_that_fills_the_disk_fails_nobody_that_shares_its_commit(database: Database, tmp_path: Path) -> None:
    await database.run(insert("0"))
    limit = await database.run(lambda connection: int(connection.execute("PRAGMA page_count").fetchone()[0]))
    await database.run(lambda connection: connection.execute(f"PRAGMA max_page_count={limit + 2}").fetchone() and None)
    gate = threading.Event()
    blocked = asyncio.gather(
        database.run(lambda _: gate.wait(30), durable=True),
        database.run(insert("a")), database.run(insert("b", 100_000), begins=True), database.run(ids),
        database.run(insert("c"), urgent=True),
        return_exceptions=True,
    )  # fmt: skip
    await asyncio.sleep(0.05)
    gate.set()
    _, small, large, read, urgent = await blocked
    assert isinstance(large, ResourceExhausted)
    assert (small, read, urgent) == (None, ["0", "a"], None)
    assert await database.run(ids) == ["0", "a", "c"]
    assert reserve_path(tmp_path / "state.db").exists()


async def test_without_reserve_and_room_nothing_begins_and_all_else_goes_on(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reserve = reserve_path(tmp_path / "state.db")
    reserve.unlink()
    with monkeypatch.context() as full:
        full.setattr("os.posix_fallocate", no_room)
        for _ in range(2):
            with pytest.raises(ResourceExhausted, match="disk is full; nothing new is begun until there is room"):
                await database.run(insert("new"), begins=True)
        gate = threading.Event()
        blocked = asyncio.gather(
            database.run(lambda _: gate.wait(30), durable=True),
            database.run(insert("new"), begins=True), database.run(insert("a"), urgent=True), database.run(ids),
            return_exceptions=True,
        )  # fmt: skip
        await asyncio.sleep(0.05)
        gate.set()
        _, refused, urgent, read = await blocked
        assert isinstance(refused, ResourceExhausted) and (urgent, read) == (None, ["a"])
        assert not reserve.exists()
    await database.run(insert("b"), begins=True)  # at once, now that there is room
    assert reserve.exists()
    assert await database.run(ids) == ["a", "b"]


def no_room(fd: int, offset: int, size: int) -> None:
    raise OSError(errno.ENOSPC, "no space left")


async def test_what_is_urgent_gets_the_room_of_the_log_when_the_reserve_is_gone(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.run(insert("a", 100_000))
    await database.run(lambda connection: connection.execute("PRAGMA max_page_count=1").fetchone() and None)
    reserve_path(tmp_path / "state.db").unlink()
    folded = []

    def fold(connection: sqlite3.Connection) -> None:
        folded.append(1)
        connection.execute("PRAGMA max_page_count=1000")

    monkeypatch.setattr(module, "fold_in", fold)
    await database.run(insert("b", 100_000), urgent=True)
    assert folded == [1]
    assert await database.run(ids) == ["a", "b"]


async def test_a_disk_in_disorder_fails_who_waits_and_not_the_thread(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(connection: sqlite3.Connection, batch: list[Job]) -> None:
        raise sqlite3.OperationalError("safety level may not be changed inside a transaction")

    with monkeypatch.context() as patch:
        patch.setattr(module, "commit_batch", refuse)
        with pytest.raises(HostFault, match="safety level"):
            await asyncio.wait_for(database.run(lambda connection: None), 5)
    assert await asyncio.wait_for(database.run(lambda connection: 1), 5) == 1


async def test_the_log_is_folded_in_when_nothing_is_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "IDLE_CHECKPOINT", 0.02)
    opened = await Database.open(tmp_path / "state.db")
    await opened.run(insert("a", 50_000))
    async with asyncio.timeout(30):
        while b"x" * 1000 not in (tmp_path / "state.db").read_bytes():
            await asyncio.sleep(0.01)
    await opened.close()


async def test_the_first_write_after_a_rest_does_not_begin_a_log_which_would_be_synced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "IDLE_CHECKPOINT", 0.02)
    opened = await Database.open(tmp_path / "state.db")
    begun = log_header(tmp_path)
    await opened.run(insert("a"))
    async with asyncio.timeout(30):
        while log_header(tmp_path) == begun:
            await asyncio.sleep(0.01)
    monkeypatch.setattr(module, "IDLE_CHECKPOINT", 3600.0)
    begun = log_header(tmp_path)
    await opened.run(insert("b"))
    assert log_header(tmp_path) == begun
    await opened.close()


def log_header(folder: Path) -> bytes:
    """The head of the write-ahead log, with salts of its own for each log (sqlite.org/fileformat2, 4.1)."""
    with (folder / "state.db-wal").open("rb") as log:
        return log.read(32)


async def test_a_closed_database_is_unavailable(database: Database) -> None:
    waiting = asyncio.ensure_future(database.run(insert("a")))
    await asyncio.sleep(0)
    await database.close()
    await waiting
    await database.close()
    with pytest.raises(Unavailable):
        await database.run(ids)


async def test_a_folder_that_is_not_there_is_a_host_fault(tmp_path: Path) -> None:
    with pytest.raises(HostFault, match="unable to open"):
        await Database.open(tmp_path / "absent" / "state.db")


async def test_a_file_of_a_newer_crisp_is_refused(tmp_path: Path) -> None:
    opened = await Database.open(tmp_path / "state.db")
    await opened.run(later)
    await opened.close()
    with pytest.raises(FailedPrecondition, match="newer crisp"):
        await Database.open(tmp_path / "state.db")


def who(connection: sqlite3.Connection) -> int:
    return threading.get_ident()


async def test_while_nothing_waits_the_loop_commits_by_itself(tmp_path: Path) -> None:
    opened = await Database.open(tmp_path / "state.db")
    assert await opened.run(who) == threading.get_ident()
    assert await opened.run(who, durable=True) != threading.get_ident()
    await opened.close()


async def test_it_never_overtakes_what_waits_nor_waits_for_it(tmp_path: Path) -> None:
    opened = await Database.open(tmp_path / "state.db")
    gate = threading.Event()
    order: list[int] = []
    slow = asyncio.ensure_future(opened.run(lambda _: order.append(gate.wait(20)), durable=True))
    await asyncio.sleep(0)
    second = asyncio.ensure_future(opened.run(lambda connection: order.append(who(connection))))
    await asyncio.sleep(0)
    gate.set()
    await asyncio.gather(slow, second)
    assert order[0] == 1
    assert order[1] != threading.get_ident()
    await opened.close()


async def test_while_the_log_is_folded_in_the_loop_does_not_wait_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate, folding = threading.Event(), threading.Event()

    def fold_in(connection: sqlite3.Connection) -> None:
        folding.set()
        gate.wait(20)

    monkeypatch.setattr(module, "IDLE_CHECKPOINT", 0.01)
    monkeypatch.setattr(module, "fold_in", fold_in)
    opened = await Database.open(tmp_path / "state.db")
    await opened.run(insert("a"))
    await asyncio.to_thread(folding.wait, 20)
    waiting = asyncio.ensure_future(opened.run(who))
    await asyncio.sleep(0)
    assert not waiting.done()
    gate.set()
    assert await waiting != threading.get_ident()
    await opened.close()


async def test_after_a_commit_that_took_long_the_thread_has_them_for_a_while(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SLOW", 0.0)
    opened = await Database.open(tmp_path / "state.db")
    assert await opened.run(who) == threading.get_ident()
    assert await opened.run(who) != threading.get_ident()
    opened._wary_until = 0.0
    assert await opened.run(who) == threading.get_ident()
    await opened.close()
