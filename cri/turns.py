"""How many operations that change something work at once; the others wait in order.

``cri.interceptor`` takes a turn for each. Without it, hundreds of pods started together would
share the event loop piecemeal, and whoever asks for the version would wait for all of them.

Invariant: first come, first served; and a turn ends with its lease even if the work does not, so
that what waits or hangs (a dead mount, a process that cannot be killed) holds nobody up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

AT_ONCE = 4
"""More make nothing faster on a few cores, and each adds its slice of the loop to every other answer."""


LULL = 0.001
ROUNDS = 3
"""A burst has been taken in when so many times so many seconds have passed without an arrival."""

RECENT = 0.05
"""Seconds after an arrival in which others may be on their way."""

PATIENCE = 0.5
"""Seconds that work waits for that, at most."""


class Arrivals:
    """RPCs that have come in. gRPC hands over one a round of the loop, so each piece of work that is
    done while a burst comes in keeps all of it waiting, with whatever stands at its end."""

    def __init__(self) -> None:
        self._count = 0
        self._latest = 0.0

    def note(self) -> None:
        """One has arrived."""
        self._count += 1
        self._latest = time.monotonic()

    async def wait_lull(self) -> None:
        """Return once all that came together has been taken in."""
        began, quiet = time.monotonic(), 0
        if began - self._latest > RECENT:
            return
        while quiet < ROUNDS and time.monotonic() < began + PATIENCE:
            seen = self._count
            await asyncio.sleep(LULL)
            quiet = quiet + 1 if seen == self._count else 0


class Turns:
    """``count`` at once; whoever had to wait for a turn waits for a lull in ``arrivals`` as well."""

    def __init__(self, arrivals: Arrivals, count: int = AT_ONCE) -> None:
        self._arrivals = arrivals
        self._free = asyncio.Semaphore(count)

    @asynccontextmanager
    async def turn(self, lease: float) -> AsyncIterator[None]:
        """``lease`` in seconds."""
        busy = self._free.locked()
        await self._free.acquire()
        if busy:
            try:
                await self._arrivals.wait_lull()
            except BaseException:
                self._free.release()
                raise
        over = False

        def end() -> None:
            nonlocal over
            if not over:
                over = True
                self._free.release()

        late = asyncio.get_running_loop().call_later(lease, end)
        try:
            yield
        finally:
            late.cancel()
            end()
