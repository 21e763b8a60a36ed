"""Readings in the background: once, one at a time, and anew when they are old."""

from __future__ import annotations

import asyncio
import threading

import pytest

from cri import aged
from cri.aged import Aged
from cri.tasks import Tasks


class Taken(list[str]):
    """What was measured; a reading is how many there were by then."""

    def measure(self, key: str) -> int:
        self.append(key)
        return len(self)


async def settle(tasks: Tasks) -> None:
    async with asyncio.timeout(10):
        while len(tasks):
            await asyncio.sleep(0.001)


async def test_a_reading_is_taken_once_and_then_shown() -> None:
    tasks, taken = Tasks(), Taken()
    readings = Aged(taken.measure, tasks)
    assert readings.get("a") is None and readings.get("a") is None
    await settle(tasks)
    assert readings.get("a") == 1 and taken == ["a"] and len(tasks) == 0


async def test_an_old_reading_is_shown_while_a_newer_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aged, "MAX_AGE", 0.0)
    tasks, taken = Tasks(), Taken()
    readings = Aged(taken.measure, tasks)
    readings.get("a")
    await settle(tasks)
    assert readings.get("a") == 1
    await settle(tasks)
    assert readings.get("a") == 2
    await settle(tasks)


async def test_the_first_reading_can_be_waited_for_and_not_for_ever() -> None:
    tasks, gate = Tasks(), threading.Event()
    quick = Aged(lambda key: key.upper(), tasks)
    await quick.first(["a", "b"], 5)
    assert (quick.get("a"), quick.get("b")) == ("A", "B")
    await quick.first(["a"], 0)
    stuck = Aged(lambda _: gate.wait(10), tasks)
    await stuck.first(["a"], 0.01)
    assert stuck.get("a") is None
    gate.set()
    await settle(tasks)


async def test_what_is_forgotten_while_it_is_measured_does_not_come_back() -> None:
    tasks, gate = Tasks(), threading.Event()
    readings = Aged(lambda key: gate.wait(10) and key, tasks)
    readings.get("a")
    await asyncio.sleep(0)
    readings.forget("a")
    gate.set()
    await settle(tasks)
    assert readings._known == {} and readings._measuring == {}


async def test_one_that_fails_is_taken_anew() -> None:
    tasks, taken = Tasks(), Taken()

    def measure(key: str) -> int:
        if taken.measure(key) == 1:
            raise OSError("busy")
        return 5

    readings = Aged(measure, tasks)
    await readings.first(["a"], 5)
    assert readings.get("a") is None
    await settle(tasks)
    assert readings.get("a") == 5
