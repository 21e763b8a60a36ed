"""The receiving half of a stream: bytes that came and were not taken yet.

``cri.streaming.spdy`` and ``channels`` have one for each stream that a client can write
to; what limits its size is theirs too (a window, or that they stop reading).

Invariant: every byte that was pushed before the end is read, in order, before the end
is seen, unless the server itself gave the stream up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from cri.streaming.session import StreamReset

PIECE = 256 * 1024
"""Bytes that one ``read`` gives at most, unless a single piece came in larger."""


class Inbound:
    """``taken`` is called with the number of bytes that are not held any more."""

    __slots__ = ("_chunks", "_ended", "_fault", "_taken", "_waiter", "held")

    def __init__(self, taken: Callable[[int], None]) -> None:
        self._chunks: deque[bytes] = deque()
        self._taken = taken
        self._ended = False
        self._fault = ""
        self._waiter: asyncio.Future[None] | None = None
        self.held = 0
        """Bytes that were pushed and not read."""

    @property
    def over(self) -> bool:
        """Nothing more can come."""
        return self._ended or bool(self._fault)

    def push(self, data: bytes) -> None:
        self._chunks.append(data)
        self.held += len(data)
        self._wake()

    def end(self) -> None:
        """The peer's half ended as it should."""
        self._ended = True
        self._wake()

    def fail(self, why: str) -> None:
        """The peer's half was cut off; what came before can still be read. Idempotent."""
        if not self.over:
            self._fault = why
            self._wake()

    def drop(self, why: str) -> None:
        """Nobody will read: forget what is held. Idempotent."""
        self._fault = self._fault or why
        self.discard()
        self._wake()

    def discard(self) -> None:
        """Forget what is held; what comes later can still be read."""
        self._chunks.clear()
        self._release(self.held)

    async def read(self) -> bytes:
        """As ``Stream.read``."""
        while not self._chunks:
            if self._fault:
                raise StreamReset(self._fault)
            if self._ended:
                return b""
            self._waiter = asyncio.get_running_loop().create_future()
            try:
                await self._waiter
            finally:
                self._waiter = None
        data = self._next()
        self._release(len(data))
        return data

    def _next(self) -> bytes:
        first = self._chunks.popleft()
        if not self._chunks or len(first) >= PIECE:
            return first
        pieces, size = [first], len(first)
        while self._chunks and size + len(self._chunks[0]) <= PIECE:
            pieces.append(self._chunks.popleft())
            size += len(pieces[-1])
        return b"".join(pieces)

    def _release(self, size: int) -> None:
        self.held -= size
        if size:
            self._taken(size)

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
