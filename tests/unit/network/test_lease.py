"""Who gets which address; the memory store and the SQL of the Protocol's docstring agree."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Iterable
from ipaddress import IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.lease import Lease, Leases, LeaseStore, MemoryLeaseStore
from network.subnet import Pool
from runtime.errors import ResourceExhausted

SECOND = 1_000_000_000
POOL = Pool(IPv4Network("10.85.0.0/29"))
SMALL = Pool(IPv4Network("10.86.0.0/30"))


class SqlLeaseStore:
    """The statements of ``LeaseStore``'s docstrings, word for word."""

    def __init__(self) -> None:
        self._db = sqlite3.connect(":memory:", isolation_level=None)
        self._db.executescript("""
            CREATE TABLE leases (
                pool TEXT NOT NULL, address TEXT NOT NULL, owner TEXT NOT NULL,
                released_at INTEGER,                       -- ns since the epoch, NULL while held
                PRIMARY KEY (pool, address)) STRICT, WITHOUT ROWID;
            CREATE UNIQUE INDEX leases_held ON leases (owner, pool) WHERE released_at IS NULL;
        """)

    async def allocate(self, pool: str, owner: str, candidates: Iterable[str], *, rested: int, now: int) -> str | None:
        values: dict[str, str | int] = {"pool": pool, "owner": owner, "rested": rested, "now": now}
        self._db.execute("BEGIN IMMEDIATE")
        held = self._db.execute(
            "SELECT address FROM leases WHERE owner = :owner AND pool = :pool AND released_at IS NULL", values
        ).fetchone()
        found = str(held[0]) if held else self._first_free(values, candidates)
        self._db.execute("COMMIT")
        return found

    def _first_free(self, values: dict[str, str | int], candidates: Iterable[str]) -> str | None:
        for address in candidates:
            row = self._db.execute(
                """
                INSERT INTO leases (pool, address, owner) VALUES (:pool, :address, :owner)
                ON CONFLICT (pool, address) DO UPDATE SET owner = excluded.owner, released_at = NULL
                WHERE released_at <= :rested OR released_at > :now
                RETURNING address
                """,
                {**values, "address": address},
            ).fetchone()
            if row:
                return address
        return None

    async def release(self, owner: str, *, now: int) -> None:
        self._db.execute(
            "UPDATE leases SET released_at = :now WHERE owner = :owner AND released_at IS NULL",
            {"owner": owner, "now": now},
        )

    async def held_by(self, owner: str) -> tuple[Lease, ...]:
        query = "SELECT pool, address FROM leases WHERE owner = :owner AND released_at IS NULL"
        return tuple(Lease(pool, address, owner) for pool, address in self._db.execute(query, {"owner": owner}))

    async def all_leases(self) -> tuple[Lease, ...]:
        return tuple(Lease(*row) for row in self._db.execute("SELECT pool, address, owner, released_at FROM leases"))

    def close(self) -> None:
        self._db.close()


class Clock:
    def __init__(self) -> None:
        self.now = 1_700_000_000 * SECOND

    def __call__(self) -> int:
        return self.now


@pytest.fixture(params=[MemoryLeaseStore, SqlLeaseStore])
def store(request: pytest.FixtureRequest) -> Iterable[LeaseStore]:
    made = request.param()
    yield made
    if isinstance(made, SqlLeaseStore):
        made.close()


def test_an_owner_gets_the_same_address_again_and_others_another(store: LeaseStore) -> None:
    async def cycle() -> None:
        leases = Leases(store)
        assert await leases.acquire(POOL, "a") == "10.85.0.2"
        assert await leases.acquire(POOL, "b") == "10.85.0.3"
        assert await leases.acquire(POOL, "a") == "10.85.0.2"
        assert await leases.held_by("a") == (Lease(POOL.name, "10.85.0.2", "a"),)
        assert {lease.owner for lease in await leases.held()} == {"a", "b"}

    asyncio.run(cycle())


def test_a_preferred_address_is_given_if_it_is_free_and_moves_nobody(store: LeaseStore) -> None:
    async def cycle() -> None:
        leases = Leases(store)
        assert await leases.acquire(POOL, "a", "10.85.0.5") == "10.85.0.5"
        assert await leases.acquire(POOL, "b", "10.85.0.5") == "10.85.0.2"
        assert await leases.acquire(POOL, "c") == "10.85.0.3"
        assert await leases.acquire(POOL, "a", "10.85.0.6") == "10.85.0.5"

    asyncio.run(cycle())


def test_an_address_goes_round_before_it_is_used_again(store: LeaseStore) -> None:
    async def cycle() -> None:
        clock = Clock()
        leases = Leases(store, rest=0.1, clock=clock)
        given_out = []
        for number in range(7):
            given_out.append(await leases.acquire(POOL, str(number)))
            await leases.release(str(number))
            clock.now += SECOND
        assert given_out == [f"10.85.0.{host}" for host in (2, 3, 4, 5, 6, 2, 3)]

    asyncio.run(cycle())


def test_a_released_address_rests(store: LeaseStore) -> None:
    async def cycle() -> None:
        clock = Clock()
        leases = Leases(store, rest=5, clock=clock)
        assert await leases.acquire(SMALL, "a") == "10.86.0.2"
        await leases.release("a")
        assert await leases.held() == ()
        clock.now += 5 * SECOND - 1
        with pytest.raises(ResourceExhausted, match=r"pool 10\.86\.0\.0/30.*of 1 pods have 0.*less than 5 s ago"):
            await leases.acquire(SMALL, "b")
        clock.now += 1
        assert await leases.acquire(SMALL, "b") == "10.86.0.2"
        await leases.release("a")
        assert [lease.owner for lease in await leases.held()] == ["b"]

    asyncio.run(cycle())


def test_a_clock_that_goes_back_a_year_does_not_keep_an_address(store: LeaseStore) -> None:
    async def cycle() -> None:
        clock = Clock()
        leases = Leases(store, clock=clock)
        await leases.acquire(SMALL, "a")
        await leases.release("a")
        clock.now -= 365 * 86400 * SECOND
        assert await leases.acquire(SMALL, "b") == "10.86.0.2"

    asyncio.run(cycle())


def test_no_rest_is_shorter_than_the_kernel_needs_to_drop_a_link(store: LeaseStore) -> None:
    async def cycle() -> None:
        clock = Clock()
        leases = Leases(store, rest=0, clock=clock)
        await leases.acquire(SMALL, "a")
        await leases.release("a")
        clock.now += SECOND // 20
        with pytest.raises(ResourceExhausted):
            await leases.acquire(SMALL, "b")

    asyncio.run(cycle())


def test_an_exhausted_pool_is_named_and_another_is_not_touched(store: LeaseStore) -> None:
    async def cycle() -> None:
        leases = Leases(store)
        for number in range(POOL.size):
            await leases.acquire(POOL, str(number))
        with pytest.raises(ResourceExhausted, match=r"pool 10\.85\.0\.0/29: no free address: of 5 pods have 5"):
            await leases.acquire(POOL, "one too many")
        assert await leases.acquire(SMALL, "0") == "10.86.0.2"
        await leases.release("0")
        assert await leases.held_by("0") == ()

    asyncio.run(cycle())


def test_after_a_restart_it_goes_on_behind_what_was_used(store: LeaseStore) -> None:
    async def cycle() -> None:
        before = Leases(store)
        for owner in "abc":
            await before.acquire(POOL, owner)
        await before.release("c")
        assert await Leases(store).acquire(POOL, "d") == "10.85.0.5"

    asyncio.run(cycle())


def test_allocations_at_once_never_share_an_address(store: LeaseStore) -> None:
    async def cycle() -> None:
        leases = Leases(store)
        got = await asyncio.gather(*(leases.acquire(POOL, owner) for owner in "abcab"))
        assert got[0] == got[3] and got[1] == got[4]
        assert len(set(got)) == 3

    asyncio.run(cycle())


@given(
    st.lists(
        st.tuples(st.sampled_from(["acquire", "release", "wait"]), st.sampled_from("abcdefg"), st.integers(0, 6)),
        max_size=40,
    )
)
def test_memory_and_sql_hand_out_the_same_and_nothing_twice(events: list[tuple[str, str, int]]) -> None:
    async def cycle(store: LeaseStore, check: Callable[[tuple[Lease, ...]], None]) -> list[str]:
        clock = Clock()
        leases = Leases(store, rest=3, clock=clock)
        seen = []
        for action, owner, seconds in events:
            if action == "wait":
                clock.now += seconds * SECOND
            elif action == "release":
                await leases.release(owner)
            else:
                try:
                    seen.append(await leases.acquire(POOL, owner))
                except ResourceExhausted:
                    seen.append("none")
            check(await leases.held())
        return seen

    def exclusive(held: tuple[Lease, ...]) -> None:
        assert len({lease.address for lease in held}) == len({lease.owner for lease in held}) == len(held)

    sql = SqlLeaseStore()
    try:
        assert asyncio.run(cycle(MemoryLeaseStore(), exclusive)) == asyncio.run(cycle(sql, exclusive))
    finally:
        sql.close()
