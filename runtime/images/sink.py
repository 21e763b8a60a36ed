"""The daemon's end of the pipe into an unpack worker.

``layers`` opens it, ``pull`` and ``archive`` write what they have fetched.

Invariant: the event loop never blocks on a worker that is slower than the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
from collections.abc import Awaitable, Callable, Iterator

PIPE_BYTES = 1 << 20


class PipeSink:
    """Writes to the pipe ``fd``, which it owns. ``begun`` is awaited once, after the first piece."""

    def __init__(self, fd: int, begun: Callable[[], Awaitable[None]] | None = None) -> None:
        os.set_blocking(fd, False)
        self._fd = fd
        self._begun = begun

    async def write(self, data: bytes) -> None:
        """Write all of ``data``, waiting for the reader as needed.

        Raises:
            BrokenPipeError: there is no reader any more.
        """
        view = memoryview(data)
        while view:
            try:
                view = view[os.write(self._fd, view) :]
            except BlockingIOError:
                await self._writable()
        if self._begun is not None:
            begun, self._begun = self._begun, None
            await begun()

    def close(self) -> None:
        """End the stream. A second time is fine."""
        if self._fd >= 0:
            fd, self._fd = self._fd, -1
            os.close(fd)

    async def _writable(self) -> None:
        loop = asyncio.get_running_loop()
        writable: asyncio.Future[None] = loop.create_future()

        def ready() -> None:
            if not writable.done():
                writable.set_result(None)

        loop.add_writer(self._fd, ready)
        try:
            await writable
        finally:
            loop.remove_writer(self._fd)


@contextlib.contextmanager
def open_pipe(begun: Callable[[], Awaitable[None]] | None = None) -> Iterator[tuple[int, PipeSink]]:
    """A reading descriptor for a worker, and the sink that feeds it; both closed at the end."""
    reader, writer = os.pipe2(os.O_CLOEXEC)
    sink = PipeSink(writer, begun)
    try:
        with contextlib.suppress(PermissionError):  # the user's pipe budget is used up: a small one works too
            fcntl.fcntl(writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        yield reader, sink
    finally:
        sink.close()
        os.close(reader)
