"""Reading a pipe to its end without a thread: bounded, non-blocking.

Used by ExecSync. Invariant: the descriptor is closed exactly once, at the end of
the stream or by ``close``.
"""

from __future__ import annotations

import asyncio
import os

CHUNK = 256 * 1024


class PipeReader:
    """Collects what arrives on ``fd``, which it owns; at most ``limit`` bytes are kept,
    the rest is read and dropped so that the writer never blocks."""

    def __init__(self, fd: int, limit: int) -> None:
        self._fd = fd
        self._limit = limit
        self._kept = bytearray()
        self.seen = 0
        """Bytes that have arrived."""
        self._loop = asyncio.get_running_loop()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        os.set_blocking(fd, False)
        self._loop.add_reader(fd, self._on_readable)

    @property
    def size(self) -> int:
        """Bytes that are kept."""
        return len(self._kept)

    @property
    def kept(self) -> bytes:
        return self.first(len(self._kept))

    def first(self, count: int) -> bytes:
        """The beginning of what is kept."""
        with memoryview(self._kept) as view:
            return bytes(view[:count])

    def _on_readable(self) -> None:
        try:
            chunk = os.read(self._fd, CHUNK)
        except BlockingIOError:
            return
        except OSError:  # EIO: the other end of a pty is gone
            chunk = b""
        if not chunk:
            self.close()
            return
        self.seen += len(chunk)
        room = self._limit - len(self._kept)
        if room > 0:
            self._kept += chunk[:room]

    def close(self) -> None:
        """Stop reading; idempotent."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1
        if not self.ended.done():
            self.ended.set_result(None)
