"""How many operations that change something work at once; the others wait in order.

``cri.interceptor`` takes a turn for each. Without it, hundreds of pods started together would
share the event loop piecemeal, and whoever asks for the version would wait for all of them.

Invariant: first come, first served; and a turn ends with its lease even if the work does not, so
that what waits or hangs (a dead mount, a process that cannot be killed) holds nobody up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

AT_ONCE = 4
"""More make nothing faster on a few cores, and each adds its slice of the loop to every other answer."""


class Turns:
    """``count`` at once."""

    def __init__(self, count: int = AT_ONCE) -> None:
        self._free = asyncio.Semaphore(count)

    @asynccontextmanager
    async def turn(self, lease: float) -> AsyncIterator[None]:
        """``lease`` in seconds."""
        await self._free.acquire()
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
