"""One descriptor on the event loop: a pipe, a pseudo terminal's master or a socket.

``command`` and ``forward`` carry bytes between these and the streams of a client.
Each reads as much as there is, up to ``CHUNK``, so that framing is paid once for many
bytes.

Invariant: the descriptor is closed exactly once; whoever waits for it then is woken and
gets EBADF, never another file that has its number.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import errno
import fcntl
import os
import socket
import struct
import termios
from collections.abc import Callable
from typing import Any

from cri.streaming.session import Size
from runtime.linux import terminal

CHUNK = 256 * 1024
"""Bytes of one read at most."""

PIPE = 1024 * 1024
"""Bytes of a pipe's buffer, where the kernel lets us have it."""

BULK = 4096
"""Bytes of one read; more is the sign of a transfer. A terminal never gives more, so it never pauses."""

PAUSE = 0.001
"""Seconds that a transfer in small pieces gets to become one in large ones, which cost as much each."""


class Descriptor:
    """``fd`` is taken over."""

    def __init__(self, fd: int) -> None:
        os.set_blocking(fd, False)
        with contextlib.suppress(OSError):  # EBADF: no pipe; EPERM: more than this user may have
            fcntl.fcntl(fd, fcntl.F_SETPIPE_SZ, PIPE)
        self._fd = fd
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[None]] = set()
        self._left: int | None = None
        self._ahead = b""

    @property
    def closed(self) -> bool:
        return self._fd < 0

    async def read(self, limit: int = CHUNK) -> bytes:
        """The next bytes, b"" at the end; a terminal ends when nobody has its other side.

        Raises:
            OSError: of a socket: it was reset. EBADF: closed.
        """
        if self._ahead:
            ahead, self._ahead = self._ahead, b""
            return ahead
        while True:
            if self._left is not None and not (limit := min(limit, self._left)):
                return b""
            try:
                data = os.read(self._fd, limit)
            except BlockingIOError:
                if self._left is not None:
                    return b""
                await self._ready(self._loop.add_reader, self._loop.remove_reader)
                continue
            except OSError as error:
                if error.errno == errno.EIO:
                    return b""
                raise
            if self._left is not None:
                self._left -= len(data)
            return data

    async def write(self, data: bytes | memoryview) -> None:
        """All of ``data``; waits while there is no room.

        Raises:
            OSError: nobody reads any more (EPIPE, EIO, ECONNRESET), or it is closed (EBADF).
        """
        view, count = memoryview(data), CHUNK
        while view:
            try:
                count = os.write(self._fd, view)
                view = view[count:]
            except BlockingIOError:
                await self._ready(self._loop.add_writer, self._loop.remove_writer)
                if count < len(view):  # a pipe has room again from one page on
                    await asyncio.sleep(PAUSE)

    def read_ahead(self) -> None:
        """Take one byte now, for the next read. Only while nobody waits for one."""
        if self._left is None and self._fd >= 0:
            with contextlib.suppress(OSError):
                self._ahead += os.read(self._fd, 1)

    async def rest(self, count: int, limit: int = CHUNK) -> None:
        """Between two reads, after ``count`` bytes of at most ``limit``: let others have their turn, and more
        arrive."""
        await asyncio.sleep(PAUSE if BULK < count < limit // 2 else 0)

    def cut_off(self) -> None:
        """From now on there is only what is in it already: it ends after that, whoever still writes."""
        waiting = array.array("i", [0])
        if self._fd >= 0:
            fcntl.ioctl(self._fd, termios.FIONREAD, waiting)
        self._left = waiting[0]
        self._wake()

    def resize(self, size: Size) -> None:
        """Of a terminal; whoever is in it gets SIGWINCH. One that has ended has no size."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                terminal.resize(self._fd, size.width, size.height)

    def close(self) -> None:
        """Idempotent."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            self._loop.remove_writer(self._fd)
            os.close(self._fd)
            self._fd = -1
            self._wake()

    def _wake(self) -> None:
        for future in self._waiting:
            if not future.done():
                future.set_result(None)

    async def _ready(self, add: Callable[..., Any], remove: Callable[[int], object]) -> None:
        if self._fd < 0:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        future: asyncio.Future[None] = self._loop.create_future()
        self._waiting.add(future)
        add(self._fd, _settle, future)
        try:
            await future
        finally:
            self._waiting.discard(future)
            if self._fd >= 0:
                remove(self._fd)


class Connection(Descriptor):
    """A connected socket, which is taken over; each half ends by itself."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock.detach())

    def finish(self) -> None:
        """Tell the peer that nothing more comes; a connection that is gone already is no error."""
        self._call(lambda sock: sock.shutdown(socket.SHUT_WR))

    def abort(self) -> None:
        """Close it by a reset, so that the peer does not take what it has for all there was. Idempotent."""
        self._call(lambda sock: sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)))
        self.close()

    def _call(self, job: Callable[[socket.socket], None]) -> None:
        if self._fd < 0:
            return
        sock = socket.socket(fileno=self._fd)
        try:
            with contextlib.suppress(OSError):
                job(sock)
        finally:
            sock.detach()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
