"""Bytes that came and were not taken yet."""

from __future__ import annotations

import asyncio

import pytest

from cri.streaming.inbound import PIECE, Inbound
from cri.streaming.session import StreamReset
from tests.unit.cri.streaming.peer import soon


def make() -> tuple[Inbound, list[int]]:
    taken: list[int] = []
    return Inbound(taken.append), taken


async def test_what_came_is_read_together_and_then_the_end_for_ever() -> None:
    inbound, taken = make()
    for piece in (b"a", b"bc", b"d"):
        inbound.push(piece)
    inbound.end()
    assert [await inbound.read() for _ in range(3)] == [b"abcd", b"", b""]
    assert taken == [4] and inbound.over


async def test_one_read_is_bounded() -> None:
    inbound, _ = make()
    for _ in range(3):
        inbound.push(b"x" * (PIECE // 2))
    inbound.push(b"y" * (2 * PIECE))
    assert [len(await inbound.read()) for _ in range(3)] == [PIECE, PIECE // 2, 2 * PIECE]
    assert inbound.held == 0


async def test_a_reader_waits_for_bytes() -> None:
    inbound, _ = make()
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(inbound.read())
        await asyncio.sleep(0)
        inbound.push(b"late")
    assert reading.result() == b"late"


async def test_what_came_before_a_reset_is_not_lost() -> None:
    inbound, _ = make()
    inbound.push(b"before")
    inbound.fail("gone")
    inbound.fail("again")
    assert await inbound.read() == b"before"
    with pytest.raises(StreamReset, match=r"^gone$"):
        await inbound.read()


async def test_a_reader_is_told_of_a_reset() -> None:
    inbound, _ = make()
    asyncio.get_running_loop().call_soon(inbound.drop, "reset")
    with pytest.raises(StreamReset, match="reset"):
        await soon(inbound.read())


async def test_what_is_dropped_counts_as_taken() -> None:
    inbound, taken = make()
    inbound.push(b"abc")
    inbound.drop("why")
    inbound.drop("why")
    assert taken == [3] and inbound.held == 0
