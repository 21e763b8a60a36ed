"""Turns: so many at once, in order, and not for ever."""

from __future__ import annotations

import asyncio

import pytest

from cri import turns as module
from cri.turns import Arrivals, Turns


async def test_so_many_work_at_once_and_the_others_follow_in_order() -> None:
    turns, began, go = Turns(Arrivals(), 2), [], asyncio.Event()

    async def work(number: int) -> None:
        async with turns.turn(60):
            began.append(number)
            await go.wait()

    async with asyncio.TaskGroup() as group:
        for number in range(5):
            group.create_task(work(number))
        await asyncio.sleep(0.01)
        assert began == [0, 1]
        go.set()
    assert began == [0, 1, 2, 3, 4] and turns._free._value == 2


async def test_what_hangs_loses_its_turn_once() -> None:
    turns = Turns(Arrivals(), 1)
    async with turns.turn(0.01), asyncio.timeout(30), turns.turn(60):
        pass
    assert turns._free._value == 1


async def test_who_gives_up_waiting_takes_no_turn() -> None:
    turns = Turns(Arrivals(), 1)
    async with turns.turn(60):
        try:
            async with asyncio.timeout(0.01), turns.turn(60):
                raise AssertionError("two at once")
        except TimeoutError:
            pass
    assert turns._free._value == 1


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that stalls makes no arrival an old one, and nobody impatient."""
    monkeypatch.setattr(module, "RECENT", 60.0)
    monkeypatch.setattr(module, "PATIENCE", 60.0)


async def test_who_waited_for_a_turn_waits_until_a_burst_has_been_taken_in(
    patient: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "LULL", 0.02)
    arrivals = Arrivals()
    turns = Turns(arrivals, 1)
    order: list[str] = []

    async def work(name: str) -> None:
        async with turns.turn(60):
            order.append(name)
            await asyncio.sleep(0.001)

    async with asyncio.TaskGroup() as group:
        group.create_task(work("first"))
        group.create_task(work("second"))
        for _ in range(20):
            await asyncio.sleep(0.0005)
            arrivals.note()
        order.append("taken in")
    assert order == ["first", "taken in", "second"]


async def test_arrivals_that_never_end_keep_nobody_waiting_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.05)
    arrivals, over = Arrivals(), asyncio.Event()

    async def arrive() -> None:
        while not over.is_set():
            arrivals.note()
            await asyncio.sleep(0)

    async with asyncio.timeout(30), asyncio.TaskGroup() as group:
        group.create_task(arrive())
        await asyncio.sleep(0.001)
        await arrivals.wait_lull()
        over.set()


async def test_without_arrivals_nobody_waits() -> None:
    arrivals = Arrivals()
    async with asyncio.timeout(0.001):
        await arrivals.wait_lull()


async def test_who_gives_up_waiting_for_a_lull_leaves_the_turn(patient: None) -> None:
    arrivals = Arrivals()
    turns = Turns(arrivals, 1)
    async with turns.turn(60):
        waiting = asyncio.get_running_loop().create_task(turns.turn(60).__aenter__())
        await asyncio.sleep(0.001)
    arrivals.note()
    await asyncio.sleep(0.0005)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert turns._free._value == 1
