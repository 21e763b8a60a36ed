"""The one thread that talks to the kernel about networks.

Netlink calls are short but block on the kernel's RTNL lock, so the event loop hands
them over; one thread suffices, because the kernel does them one by one anyway, and
gives every operation an order. ``network.bridge`` and ``network.host`` use it.

Invariant: jobs run one at a time and in the order of their submission, also when
their callers have gone away.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class NetThread:
    """A thread with a queue. ``enter`` is called in it first: a test moves it into a
    network namespace of its own, which is then "the host"."""

    def __init__(self, enter: Callable[[], None] | None = None) -> None:
        self._executor = ThreadPoolExecutor(1, "crisp-net", enter)

    async def run(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """The job's result. Cancelled before the job began, it never runs; after that
        it runs to its end."""
        return await asyncio.wrap_future(self._executor.submit(job, *args, **kwargs))

    async def run_with_fds(self, fds: Sequence[int], job: Callable[[Sequence[int]], T]) -> T:
        """``job`` with duplicates of ``fds``, open until it ends, whoever closes the originals."""
        copies: list[int] = []
        try:
            for fd in fds:
                copies.append(os.dup(fd))
            future = self._executor.submit(job, tuple(copies))
        except BaseException:
            _close(copies)
            raise
        future.add_done_callback(lambda _: _close(copies))
        return await asyncio.wrap_future(future)

    def submit(self, job: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """The same for who does not wait."""
        return self._executor.submit(job, *args, **kwargs)

    def close(self) -> None:
        """Wait for the jobs that were submitted, then end the thread."""
        self._executor.shutdown()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
