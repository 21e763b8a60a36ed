"""Blocking work in a thread, for callers that may be cancelled.

``layers`` and ``trash`` make and rename directories so. A thread cannot be stopped: if its
caller went on at once, the thread would finish what the caller has just taken back.

Invariant: when ``finish`` is over, so is the work, unless its caller was cancelled twice.
"""

from __future__ import annotations

import asyncio
import functools
from collections.abc import Callable
from typing import Any, TypeVar

T = TypeVar("T")


def ignore(result: object) -> None:
    """Nothing depends on it."""


async def finish(work: Callable[..., T], *args: Any, then: Callable[[T], None] = ignore) -> T:
    """``work(*args)`` in a thread. A caller that is cancelled meanwhile waits for its end first.

    ``then(result)`` is called on the event loop in either case, if the work has succeeded.
    """
    running = asyncio.get_running_loop().run_in_executor(None, functools.partial(work, *args))
    try:
        result = await asyncio.shield(running)
    except asyncio.CancelledError:
        await asyncio.wait([running])
        if running.exception() is None:
            then(running.result())
        raise
    then(result)
    return result
