"""The monitor's loop serves every source in its turn and survives what callbacks raise."""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Iterator

import pytest

from runtime.loop import READ, WRITE, Loop


class Recorded(Loop):
    def __init__(self) -> None:
        self.faults: list[BaseException] = []
        super().__init__(self.faults.append)
        self.open()


@pytest.fixture
def loop() -> Iterator[Recorded]:
    made = Recorded()
    yield made
    made.close()


@pytest.fixture
def ends() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for end in (read, write):
        os.close(end)


def test_a_readable_descriptor_is_served(loop: Recorded, ends: tuple[int, int]) -> None:
    got: list[bytes] = []
    loop.watch(ends[0], READ, lambda: got.append(os.read(ends[0], 10)))
    loop.turn(0)
    assert got == []
    os.write(ends[1], b"x")
    loop.turn(1)
    assert got == [b"x"]


def test_the_events_of_a_watch_can_change(loop: Recorded, ends: tuple[int, int]) -> None:
    calls: list[str] = []
    loop.watch(ends[1], READ, lambda: calls.append("read"))
    loop.watch(ends[1], WRITE, lambda: calls.append("write"))
    loop.turn(1)
    assert calls == ["write"]


def test_an_unwatched_descriptor_is_forgotten(loop: Recorded, ends: tuple[int, int]) -> None:
    loop.watch(ends[1], WRITE, lambda: pytest.fail("called"))
    loop.unwatch(ends[1])
    loop.unwatch(ends[1])
    loop.turn(0)


def test_a_watch_removed_in_the_same_turn_is_not_served(loop: Recorded) -> None:
    first, second = os.pipe(), os.pipe()
    served: list[int] = []

    def serve(own: int, other: int) -> None:
        served.append(own)
        loop.unwatch(other)

    loop.watch(first[1], WRITE, lambda: serve(first[1], second[1]))
    loop.watch(second[1], WRITE, lambda: serve(second[1], first[1]))
    loop.turn(1)
    assert len(served) == 1
    for end in (*first, *second):
        os.close(end)


def test_what_was_told_of_a_closed_descriptor_never_reaches_the_next_one_of_its_number(loop: Recorded) -> None:
    pipes = [os.pipe() for _ in range(2)]
    called: list[str] = []

    def replace_the_other(own: int, other: int) -> None:
        called.append("first")
        loop.unwatch(own)
        loop.unwatch(other)
        os.dup2(quiet[0], other)  # closes it, and takes its number
        loop.watch(other, READ, lambda: called.append("new"))

    quiet = os.pipe()
    ends = [read for read, _ in pipes]
    for own, other in (ends, reversed(ends)):
        loop.watch(own, READ, functools.partial(replace_the_other, own, other))
    for _, write in pipes:
        os.write(write, b"x")
    loop.turn(1)
    assert called == ["first"]
    loop.turn(0)
    assert called == ["first"]
    os.write(quiet[1], b"x")
    loop.turn(1)
    assert called == ["first", "new"]
    for descriptor in (*pipes[0], *pipes[1], *quiet):
        os.close(descriptor)


def test_a_callback_that_raises_loses_its_watch_and_nothing_else(loop: Recorded, ends: tuple[int, int]) -> None:
    def fail() -> None:
        raise RuntimeError("broken")

    loop.watch(ends[1], WRITE, fail)
    loop.turn(1)
    loop.turn(0)
    assert [str(fault) for fault in loop.faults] == ["broken"]


def test_timers_fire_in_order_once(loop: Recorded, monkeypatch: pytest.MonkeyPatch) -> None:
    now, fired = 100.0, list[str]()
    monkeypatch.setattr("runtime.loop.time.monotonic", lambda: now)
    loop.later(0.02, lambda: fired.append("second"))
    loop.later(0.01, lambda: fired.append("first"))
    loop.turn(0)
    assert fired == []
    now += 0.015
    loop.turn(0)
    assert fired == ["first"]
    now += 0.015
    loop.turn(0)
    loop.turn(0)
    assert fired == ["first", "second"]


def test_a_cancelled_timer_does_not_fire_and_does_not_wake(loop: Recorded) -> None:
    loop.later(0.01, lambda: pytest.fail("fired")).cancel()
    began = time.monotonic()
    loop.turn(0.1)
    assert time.monotonic() - began >= 0.09


def test_a_timer_that_raises_is_reported(loop: Recorded) -> None:
    def fail() -> None:
        raise OSError("late")

    loop.later(0, fail)
    loop.turn(0.1)
    assert [str(fault) for fault in loop.faults] == ["late"]


def test_cancelled_timers_do_not_pile_up(loop: Recorded) -> None:
    for _ in range(1000):
        loop.later(3600, lambda: None).cancel()
    assert len(loop._timers) <= 64


def test_it_runs_until_it_is_stopped(loop: Recorded) -> None:
    def stop() -> None:
        loop.stopped = True

    loop.later(0.01, stop)
    loop.run()
    assert loop.stopped
