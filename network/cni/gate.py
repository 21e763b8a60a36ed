"""What may go on at once in a network: a gate, and a lock a pod.

Attaching and detaching pods go on at once; the collection of garbage is told which
attachments there are, and so has to be alone (the specification, GC).

Invariant: nobody is inside with whoever is alone, and who wants to be alone is not kept
waiting by those that come later.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator


class Locks:
    """A lock a key; one that nobody holds or awaits costs nothing."""

    def __init__(self) -> None:
        self._locks: dict[str, asyncio.Lock] = {}
        self._users: Counter[str] = Counter()

    @contextlib.asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        self._users[key] += 1
        try:
            async with self._locks.setdefault(key, asyncio.Lock()):
                yield
        finally:
            self._users[key] -= 1
            if not self._users[key]:
                del self._users[key], self._locks[key]


class Gate:
    """Of one event loop."""

    def __init__(self) -> None:
        self._inside = 0
        self._alone = False
        self._opened, self._emptied = asyncio.Event(), asyncio.Event()

    @contextlib.asynccontextmanager
    async def together(self) -> AsyncIterator[None]:
        while self._alone:
            await self._opened.wait()
        self._inside += 1
        try:
            yield
        finally:
            self._inside -= 1
            self._emptied.set()

    @contextlib.asynccontextmanager
    async def alone(self) -> AsyncIterator[None]:
        while self._alone:
            await self._opened.wait()
        self._alone = True
        self._opened.clear()
        try:
            while self._inside:
                self._emptied.clear()
                await self._emptied.wait()
            yield
        finally:
            self._alone = False
            self._opened.set()
