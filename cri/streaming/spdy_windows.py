"""How much a SPDY client lets us send, when it says anything about that at all.

One ``Windows`` a session (``cri.streaming.spdy``), with the session's window (3.1, 2.6.8) and one
for each stream.

Clients without flow control never open a window again, so waiting for that would be for
ever. They are told from the others by what they send: SETTINGS with an initial window or a
WINDOW_UPDATE means that windows count. Where neither came and the first window is used up, a
ping is sent: a client that counts has said so before it answers, as it answers in order.

Invariant: with a client that counts, no more is sent than it allows; with one that does not,
nobody waits longer than for one answer to a ping.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable

from cri.streaming.session import StreamReset

DEFAULT_WINDOW = 64 * 1024
"""Of a stream and of the session, before anything is said (2.6.8)."""
PROBE_TIMEOUT = 1.0
UNLIMITED = 1 << 31


class Window:
    """Bytes that may still be sent; below 0 after the client made it smaller."""

    __slots__ = ("left",)

    def __init__(self, left: int) -> None:
        self.left = left


class Windows:
    """``probe`` sends a ping, whose answer is told by ``answered``."""

    def __init__(self, probe: Callable[[], None]) -> None:
        self._probe = probe
        self._initial = DEFAULT_WINDOW
        self._session = Window(DEFAULT_WINDOW)
        self._streams_count: bool | None = None
        """Whether the client has windows for streams; None: not known yet."""
        self._session_counts: bool | None = None
        self._probing: asyncio.TimerHandle | None = None
        self._changed = asyncio.Event()

    def new(self) -> Window:
        """For a stream that was opened."""
        return Window(self._initial)

    def left(self, window: Window) -> int:
        """Bytes that may be sent now."""
        stream = UNLIMITED if self._streams_count is False else window.left
        return min(stream, UNLIMITED if self._session_counts is False else self._session.left)

    def spend(self, window: Window, size: int) -> None:
        window.left -= size
        self._session.left -= size

    async def wait(self, window: Window, why_not: Callable[[], str]) -> None:
        """Until something may be sent.

        Raises:
            StreamReset: with ``why_not()``, once that is not empty.
        """
        while True:
            if why := why_not():
                raise StreamReset(why)
            if self.left(window) > 0:
                return
            if self._probing is None and None in (self._streams_count, self._session_counts):
                self._probing = asyncio.get_running_loop().call_later(PROBE_TIMEOUT, self.answered)
                self._probe()
            await self._changed.wait()

    def update(self, window: Window | None, delta: int) -> None:
        """A WINDOW_UPDATE; None is for the session."""
        if window is None:
            self._session_counts = True
            self._session.left += delta
        else:
            self._streams_count = True
            window.left += delta
        self.wake()

    def resize(self, initial: int, windows: Iterable[Window]) -> None:
        """SETTINGS with an initial window: all streams' windows change by the difference."""
        self._streams_count = True
        for window in windows:
            window.left += initial - self._initial
        self._initial = initial
        self.wake()

    def answered(self) -> None:
        """The ping's answer, or no answer in time: what has not been said until now is not going to be."""
        if self._probing is None:
            return
        self._probing.cancel()
        self._probing = None
        self._streams_count = bool(self._streams_count)
        self._session_counts = bool(self._session_counts)
        self.wake()

    def wake(self) -> None:
        """Whoever waits looks again."""
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        if self._probing is not None:
            self._probing.cancel()
            self._probing = None
        self.wake()


class Allowance:
    """Of control frames: ``BURST`` at once and ``RATE`` a second; a flood of resets or pings ends the session."""

    BURST, RATE = 20_000.0, 5_000.0

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._left = self.BURST
        self._at = clock()

    def spend(self) -> bool:
        """Whether one more is within it."""
        if self._left < 1:
            now = self._clock()
            self._left = min(self.BURST, self._left + (now - self._at) * self.RATE)
            self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
