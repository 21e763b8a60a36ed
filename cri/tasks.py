"""The daemon's background tasks: named, referenced, and never lost quietly.

The only place that calls ``asyncio.create_task``. Work that must outlive the RPC
that asked for it is spawned here.

Invariant: every task that ends with an exception was reported once, and after
``cancel_all`` none runs any more or its name was logged.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Coroutine
from typing import Any, TypeVar

LOG = logging.getLogger("crisp.tasks")
T = TypeVar("T")


class Tasks:
    """The tasks of one daemon."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[Any]] = set()
        self._watched: set[asyncio.Task[Any]] = set()

    def __len__(self) -> int:
        return len(self._tasks)

    def names(self) -> list[str]:
        return sorted(task.get_name() for task in self._tasks)

    def spawn(self, name: str, coro: Coroutine[Any, Any, T], *, watched: bool = False) -> asyncio.Task[T]:
        """Start ``coro``; an exception that ends it is logged, unless the caller looks at
        the task's result itself (``watched``)."""
        task = asyncio.get_running_loop().create_task(coro, name=name)
        self._tasks.add(task)
        if watched:
            self._watched.add(task)
        task.add_done_callback(self._ended)
        return task

    async def cancel_all(self, deadline: float) -> list[str]:
        """Cancel every task and wait for ``deadline`` seconds; the names of those that
        did not end in time."""
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        for task in tasks:
            task.cancel()
        if not tasks:
            return []
        _, pending = await asyncio.wait(tasks, timeout=deadline)
        late = sorted(task.get_name() for task in pending)
        if late:
            LOG.error("still running %g s after they were cancelled: %s", deadline, ", ".join(late))
        return late

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        watched = task in self._watched
        self._watched.discard(task)
        if task.cancelled():
            return
        error = task.exception()
        if error is not None and not watched:
            LOG.error("the task %s ended unexpectedly: %s", task.get_name(), error, exc_info=error)
