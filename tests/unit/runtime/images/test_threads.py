"""Work in threads, and callers that leave."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable

import pytest

from runtime.images.threads import finish


async def test_the_result_is_returned_and_told() -> None:
    told: list[int] = []
    assert await finish(divmod, 7, 4, then=lambda result: told.append(result[1])) == (1, 3)
    assert told == [3]


async def test_what_is_raised_is_passed_on_and_nothing_is_told() -> None:
    told: list[object] = []
    with pytest.raises(ZeroDivisionError):
        await finish(divmod, 7, 0, then=told.append)
    assert told == []


async def leave(work: Callable[[], str], told: list[str], began: threading.Event, go_on: threading.Event) -> None:
    """Cancel a caller of ``work`` once it has begun; then let the work go on."""
    async with asyncio.TaskGroup() as group:
        caller = group.create_task(finish(work, then=told.append))
        await asyncio.to_thread(began.wait, 20)
        caller.cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert not caller.done(), "the caller has gone on while the thread works"
        go_on.set()
    assert caller.cancelled()


async def test_a_cancelled_caller_waits_for_the_end_and_the_result_is_told() -> None:
    began, go_on, told = threading.Event(), threading.Event(), list[str]()

    def work() -> str:
        began.set()
        go_on.wait(20)
        return "done"

    await leave(work, told, began, go_on)
    assert told == ["done"]


async def test_of_work_that_fails_a_cancelled_caller_hears_no_more() -> None:
    began, go_on, told = threading.Event(), threading.Event(), list[str]()

    def work() -> str:
        began.set()
        go_on.wait(20)
        raise OSError("made to fail")

    await leave(work, told, began, go_on)
    assert told == []
