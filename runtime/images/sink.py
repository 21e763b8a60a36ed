"""The daemon's end of the pipe into an unpack worker.

``layers`` opens it, ``pull`` writes what it has fetched, ``archive`` what is in a file.

Invariant: the event loop never blocks on a worker that is slower than the network.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import os
from collections.abc import Awaitable, Callable, Iterator

from runtime.errors import FailedPrecondition
from runtime.images.threads import finish

PIPE_BYTES = 1 << 20
CHUNK = 1 << 20


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


def feed_descriptor(fd: int, what: str, digest: str = "") -> Callable[[PipeSink], Awaitable[None]]:
    """Feeds what the file ``fd`` has from where it is; with ``digest`` it must be that, or ``what`` is refused."""

    async def feed(sink: PipeSink) -> None:
        hasher = hashlib.sha256()
        while chunk := await finish(os.read, fd, CHUNK):
            hasher.update(chunk)
            await sink.write(chunk)
        found = f"sha256:{hasher.hexdigest()}"
        if digest and found != digest:
            raise FailedPrecondition(f"the content is {found}", step="verify blob", object=what)

    return feed
