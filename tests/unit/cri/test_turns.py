"""Turns: so many at once, in order, and not for ever."""

from __future__ import annotations

import asyncio

from cri.turns import Turns


async def test_so_many_work_at_once_and_the_others_follow_in_order() -> None:
    turns, began, go = Turns(2), [], asyncio.Event()

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
    turns = Turns(1)
    async with turns.turn(0.01), asyncio.timeout(5), turns.turn(60):
        pass
    assert turns._free._value == 1


async def test_who_gives_up_waiting_takes_no_turn() -> None:
    turns = Turns(1)
    async with turns.turn(60):
        try:
            async with asyncio.timeout(0.01), turns.turn(60):
                raise AssertionError("two at once")
        except TimeoutError:
            pass
    assert turns._free._value == 1
