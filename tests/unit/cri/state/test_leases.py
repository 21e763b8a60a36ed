"""The lease table does what the reference in memory does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cri.state.database import Database
from cri.state.leases import LeaseTable
from network.lease import Lease, Leases, LeaseStore, MemoryLeaseStore
from runtime.errors import ResourceExhausted

POOL = "10.85.0.0/29"
ADDRESSES = [f"10.85.0.{number}" for number in range(2, 7)]


async def take(store: LeaseStore, owner: str, pool: str = POOL, now: int = 100, rested: int = 0) -> str | None:
    return await store.allocate(pool, owner, iter(ADDRESSES), rested=rested, now=now)


async def test_an_owner_keeps_its_address_and_another_gets_another(database: Database) -> None:
    table = LeaseTable(database)
    assert await take(table, "a") == "10.85.0.2"
    assert await take(table, "a") == "10.85.0.2"
    assert await take(table, "b") == "10.85.0.3"
    assert await take(table, "a", pool="other") == "10.85.0.2"
    assert set(await table.held_by("a")) == {Lease(POOL, "10.85.0.2", "a"), Lease("other", "10.85.0.2", "a")}


async def test_candidates_are_taken_one_at_a_time(database: Database) -> None:
    def endless() -> Iterable[str]:
        yield "10.85.0.2"
        raise AssertionError("asked for a second one")

    assert await LeaseTable(database).allocate(POOL, "a", endless(), rested=0, now=1) == "10.85.0.2"


async def test_on_a_disk_without_room_none_is_taken_and_those_there_are_read_and_released(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = LeaseTable(database)
    await take(table, "a")
    monkeypatch.setattr("cri.state.database.make_reserve", lambda path: False)
    with pytest.raises(ResourceExhausted, match="nothing new is begun"):
        await take(table, "b")
    assert [lease.owner for lease in await table.all_leases()] == ["a"]
    await table.release("a", now=100)
    assert await table.held_by("a") == ()


async def test_a_released_address_rests_first(database: Database) -> None:
    table = LeaseTable(database)
    await take(table, "a")
    await table.release("a", now=100)
    await table.release("a", now=150)
    assert await table.held_by("a") == ()
    assert await take(table, "b", now=110, rested=60) == "10.85.0.3"
    assert await take(table, "c", now=200, rested=150) == "10.85.0.2"


async def test_a_release_in_the_future_counts_as_rested(database: Database) -> None:
    table = LeaseTable(database)
    await take(table, "a")
    await table.release("a", now=10**18)
    assert await take(table, "b", now=200, rested=150) == "10.85.0.2"


async def test_a_full_pool_gives_none(database: Database) -> None:
    table = LeaseTable(database)
    for owner in range(5):
        assert await take(table, str(owner))
    assert await take(table, "late") is None


async def test_leases_outlive_the_daemon(database: Database) -> None:
    await take(LeaseTable(database), "a")
    assert await LeaseTable(database).all_leases() == (Lease(POOL, "10.85.0.2", "a"),)


async def test_the_allocator_accepts_it(database: Database) -> None:
    from ipaddress import IPv4Network

    from network.subnet import Pool

    leases = Leases(LeaseTable(database))
    assert await leases.acquire(Pool(IPv4Network(POOL)), "a") == "10.85.0.2"
    assert [lease.owner for lease in await leases.held()] == ["a"]


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["take", "release"]), st.sampled_from("abcdefg"), st.integers(0, 40))))
async def test_it_agrees_with_the_reference(
    tmp_path_factory: pytest.TempPathFactory, calls: list[tuple[str, str, int]]
) -> None:
    path: Path = tmp_path_factory.mktemp("leases") / "state.db"
    database = await Database.open(path)
    table, memory, now = LeaseTable(database), MemoryLeaseStore(), 0
    for call, owner, step in calls:
        now += step
        if call == "take":
            assert await take(table, owner, now=now, rested=now - 30) == await take(
                memory, owner, now=now, rested=now - 30
            )
        else:
            await table.release(owner, now=now)
            await memory.release(owner, now=now)
    assert set(await table.all_leases()) == set(await memory.all_leases())
    await database.close()
