"""Readings that cost too much for a request: taken in the background, kept for a while.

``cri.layers`` (what a container has written) and ``cri.sweep`` (what its processes have
open) keep theirs here.

Invariant: readings are taken in a thread, one at a time; one that is asked for is
at most ``MAX_AGE`` and one reading's time older than the question before.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from typing import Generic, TypeVar

from cri.tasks import Tasks

MAX_AGE = 10.0
"""Seconds after which a reading that is asked for is taken anew."""

ReadingT = TypeVar("ReadingT")


class Aged(Generic[ReadingT]):
    """Readings by key; ``measure`` takes one, in a thread."""

    def __init__(self, measure: Callable[[str], ReadingT], tasks: Tasks) -> None:
        self._measure = measure
        self._tasks = tasks
        self._known: dict[str, tuple[float, ReadingT]] = {}
        self._measuring: dict[str, asyncio.Task[None]] = {}
        self._one = asyncio.Semaphore(1)

    def get(self, key: str) -> ReadingT | None:
        """The newest reading, None before there is one; asks for a newer if it is old."""
        at, found = self._known.get(key, (-MAX_AGE, None))
        if time.monotonic() - at >= MAX_AGE and key not in self._measuring:
            self._measuring[key] = self._tasks.spawn(f"measure {key[-12:]}", self._take(key))
        return found

    async def first(self, keys: Iterable[str], patience: float) -> None:
        """Wait until each of ``keys`` has been measured once, ``patience`` seconds at most."""
        new = [key for key in keys if key not in self._known]
        for key in new:
            self.get(key)
        waiting = [self._measuring[key] for key in new if key in self._measuring]
        if waiting:
            await asyncio.wait(waiting, timeout=patience)

    def forget(self, key: str) -> None:
        """What it was taken of is gone; a reading in the making is dropped."""
        self._known.pop(key, None)
        self._measuring.pop(key, None)

    async def _take(self, key: str) -> None:
        mine = asyncio.current_task()
        try:
            async with self._one:
                found = await asyncio.to_thread(self._measure, key)
            if self._measuring.get(key) is mine:
                self._known[key] = (time.monotonic(), found)
        finally:
            if self._measuring.get(key) is mine:
                del self._measuring[key]
