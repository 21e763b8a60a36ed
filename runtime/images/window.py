"""A byte stream seen through a buffer: the tar reader's input.

``worker`` puts decompression, hashing and the byte budget behind ``pull``; ``tar``
takes blocks and data out here without a copy per read.

Invariant: memory stays at one chunk plus what one ``take`` asked for.
"""

from __future__ import annotations

from collections.abc import Callable

from runtime.errors import FailedPrecondition

_EMPTY = memoryview(b"")


class Window:
    """Reads exactly, partly or past. ``pull`` gives the next chunk, empty at the end."""

    __slots__ = ("_at", "_buffer", "_pull", "_view")

    def __init__(self, pull: Callable[[], bytes]) -> None:
        self._pull = pull
        self._buffer = b""
        self._view = _EMPTY
        self._at = 0

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes, fewer only at the end of the stream."""
        at = self._at
        end = at + count
        if end <= len(self._buffer):
            self._at = end
            return self._buffer[at:end]
        parts = [self._buffer[at:]]
        missing = count - len(parts[0])
        while missing and self._fill():
            parts.append(self._buffer[:missing])
            self._at = len(parts[-1])
            missing -= self._at
        if missing:
            self._at = len(self._buffer)
        return b"".join(parts)

    def exactly(self, count: int, what: str) -> bytes:
        """The next ``count`` bytes.

        Raises:
            FailedPrecondition: the stream ends before; ``what`` names what was cut.
        """
        data = self.take(count)
        if len(data) != count:
            raise truncated(what)
        return data

    def some(self, limit: int, what: str) -> memoryview:
        """Between 1 and ``limit`` bytes, as many as are at hand.

        Raises:
            FailedPrecondition: the stream has ended.
        """
        if self._at >= len(self._buffer) and not self._fill():
            raise truncated(what)
        at = self._at
        self._at = min(at + limit, len(self._buffer))
        return self._view[at : self._at]

    def skip(self, count: int, what: str) -> None:
        """Pass over ``count`` bytes.

        Raises:
            FailedPrecondition: the stream ends before.
        """
        while count > len(self._buffer) - self._at:
            count -= len(self._buffer) - self._at
            if not self._fill():
                raise truncated(what)
        self._at += count

    def drain(self) -> None:
        """Pass over all that is left."""
        while self._fill():
            pass

    def _fill(self) -> bool:
        self._view = _EMPTY
        self._buffer = self._pull()
        self._view = memoryview(self._buffer)
        self._at = 0
        return bool(self._buffer)


def truncated(what: str) -> FailedPrecondition:
    """The fault for a stream that ends inside ``what``."""
    return FailedPrecondition("the stream ends too early", step="read tar", object=what)
