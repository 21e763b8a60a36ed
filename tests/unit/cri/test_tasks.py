"""Background tasks: kept, reported, ended in time."""

from __future__ import annotations

import asyncio
import gc
import logging

import pytest

from cri.tasks import Tasks


async def boom() -> None:
    raise ValueError("boom")


async def test_a_task_is_kept_until_it_ends() -> None:
    tasks, done = Tasks(), asyncio.Event()

    async def work() -> None:
        await asyncio.sleep(0.01)
        done.set()

    tasks.spawn("work", work())
    gc.collect()
    assert tasks.names() == ["work"]
    await asyncio.wait_for(done.wait(), 5)
    await asyncio.sleep(0)
    assert len(tasks) == 0


async def test_an_unexpected_end_is_logged_with_its_name(caplog: pytest.LogCaptureFixture) -> None:
    Tasks().spawn("sweep", boom())
    await asyncio.sleep(0.01)
    assert "the task sweep ended unexpectedly: boom" in caplog.text


async def test_a_watched_end_is_its_callers_business(caplog: pytest.LogCaptureFixture) -> None:
    task = Tasks().spawn("sweep", boom(), watched=True)
    with pytest.raises(ValueError, match="boom"):
        await task
    assert caplog.text == ""


async def test_cancelling_all_spares_the_one_that_asks() -> None:
    tasks = Tasks()
    for number in range(3):
        tasks.spawn(f"sleep {number}", asyncio.sleep(60))

    async def stop() -> list[str]:
        return await tasks.cancel_all(1.0)

    assert await tasks.spawn("stop", stop()) == []
    await asyncio.sleep(0)
    assert len(tasks) == 0
    assert await tasks.cancel_all(1.0) == []


async def test_one_that_does_not_end_is_named(caplog: pytest.LogCaptureFixture) -> None:
    tasks, release = Tasks(), asyncio.Event()

    async def stubborn() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            await release.wait()

    tasks.spawn("stubborn", stubborn())
    await asyncio.sleep(0)
    with caplog.at_level(logging.ERROR):
        assert await tasks.cancel_all(0.01) == ["stubborn"]
    assert "stubborn" in caplog.text
    release.set()
    await asyncio.sleep(0.01)
