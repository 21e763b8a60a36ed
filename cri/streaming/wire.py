"""One TCP or TLS connection: bytes in, bytes out, and how it ends.

``cri.streaming.server`` makes one for each connection that it accepts; what its bytes
mean is decided by its receiver: first the HTTP head (``upgrade``), then ``spdy`` or
``websocket``.

Invariant: no more than ``HIGH_WATER`` bytes of data wait to be sent, and a peer that makes
us answer without reading is cut off at ``ANSWER_LIMIT``; after ``close`` whatever was sent
still reaches a peer that takes it, however slowly.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from typing import Protocol

from cri.streaming.session import StreamReset

BUFFER_SIZE = 256 * 1024
"""Bytes taken from a socket at once."""
HIGH_WATER, LOW_WATER = 256 * 1024, 64 * 1024
ANSWER_LIMIT = 4 * 1024 * 1024
SEND_BUFFER = 512 * 1024
"""Of the kernel, for each connection; without a bound it grows to megabytes."""
KNOCK = 5.0
"""Seconds between signs of life to a peer that we do not read from: its death shows by them alone."""
LINGER = 10.0
"""Seconds that a peer which has got everything may take to close its end."""
TICK = 0.25

_INT = struct.Struct("i")


class Receiver(Protocol):
    """What the bytes of a connection go to."""

    def receive(self, data: memoryview) -> None:
        """Take all of ``data``, which is overwritten afterwards."""
        ...

    def ended(self, why: str) -> None:
        """No more bytes come and none can be sent. Called once."""
        ...

    def knock(self) -> None:
        """Send something that asks for nothing."""
        ...


class Link(Protocol):
    """What a session sends through: a connection, or a tunnel in one."""

    @property
    def gone(self) -> str: ...
    def send(self, *parts: bytes | memoryview) -> None: ...
    def turn(self) -> asyncio.Lock: ...
    async def room(self) -> None: ...
    def position(self) -> int: ...
    def taken(self) -> int: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def close(self) -> None: ...


class Wire(asyncio.BufferedProtocol):
    """``buffer`` may be shared by all connections of a loop: it is emptied before the next one is
    asked. A connection on which nothing moves for ``idle`` seconds is cut off."""

    def __init__(self, buffer: memoryview, connected: Callable[[Wire], None], idle: float) -> None:
        self._buffer = buffer
        self._connected = connected
        self._idle = idle
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport
        self._receiver: Receiver | None = None
        self._room = asyncio.Event()
        self._room.set()
        self._turn = asyncio.Lock()
        self._ended = asyncio.Event()
        self._closed = asyncio.Event()
        self._timers: dict[str, asyncio.TimerHandle] = {}
        self._active = self._heard = self._loop.time()
        self._sent = 0
        self._untaken = 0
        self._shut = False
        self.gone = ""
        """Why nothing can be sent any more; empty while it can."""

    # ---- what asyncio calls

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(HIGH_WATER, LOW_WATER)
        sock = transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)
        self._after("idle", self._idle, self._check_idle)
        self._connected(self)

    def get_buffer(self, sizehint: int) -> memoryview:
        del sizehint
        return self._buffer

    def buffer_updated(self, nbytes: int) -> None:
        self._heard = self._loop.time()
        if self._receiver is not None:
            self._active = self._heard
            self._receiver.receive(self._buffer[:nbytes])

    def eof_received(self) -> bool:
        self._end("the client has closed the connection")
        return False

    def connection_lost(self, error: Exception | None) -> None:
        self._end(f"the connection was lost: {error}" if error else "the connection was closed")
        for timer in self._timers.values():
            timer.cancel()
        self._timers.clear()
        self._closed.set()

    def pause_writing(self) -> None:
        self._room.clear()

    def resume_writing(self) -> None:
        self._active = self._loop.time()
        self._room.set()

    # ---- what sessions call

    def hand_to(self, receiver: Receiver, first: bytes = b"") -> None:
        """From now on all bytes go to ``receiver``, beginning with ``first``, which came too early."""
        self._receiver = receiver
        if first:
            receiver.receive(memoryview(first))

    def send(self, *parts: bytes | memoryview) -> None:
        """Send at once, in any case; for what is small and cannot wait."""
        if self.gone or self._transport.is_closing():
            return
        self._active = self._loop.time()
        self._sent += sum(map(len, parts))
        # Not writelines: in Python 3.12.1 and 3.13.0 it never pauses whoever writes.
        self._transport.write(b"".join(parts))
        if self._transport.get_write_buffer_size() > ANSWER_LIMIT:
            self._end("the client makes us answer and reads nothing")
            self.abort()

    def turn(self) -> asyncio.Lock:
        """Whoever sends data holds it, so that waiting senders go on one by one and in order."""
        return self._turn

    async def room(self) -> None:
        """Wait until less than ``HIGH_WATER`` bytes wait.

        Raises:
            StreamReset: they never will.
        """
        await self._room.wait()
        if self.gone or self._transport.is_closing():
            raise StreamReset(self.gone or "the connection was lost")

    def pause(self) -> None:
        """Read no more for now."""
        if not self._transport.is_closing():
            self._transport.pause_reading()
            self._after("knock", KNOCK, self._knock)

    def resume(self) -> None:
        if "knock" in self._timers:
            self._timers.pop("knock").cancel()
        if not self._transport.is_closing():
            self._transport.resume_reading()

    def position(self) -> int:
        """Bytes that were handed over."""
        return self._sent

    def taken(self) -> int:
        """How many of them the other end's kernel has got."""
        return self._sent - self._outstanding()

    def close(self) -> None:
        """Send what was handed over, then end; what still arrives is thrown away."""
        if self.gone:
            return
        self._end("the session has ended")
        self._transport.resume_reading()
        self._untaken, self._active = -1, self._loop.time()
        self._linger()

    def abort(self) -> None:
        """Cut the connection off now."""
        self._transport.abort()

    async def wait_gone(self) -> None:
        """Until nothing can be sent any more."""
        await self._ended.wait()

    async def wait_closed(self) -> None:
        """Until the socket is closed."""
        await self._closed.wait()

    # ---- inside

    def _end(self, why: str) -> None:
        self.gone = self.gone or why
        self._room.set()
        self._ended.set()
        receiver, self._receiver = self._receiver, None
        if receiver is not None:
            receiver.ended(why)

    def _after(self, name: str, seconds: float, call: Callable[[], None]) -> None:
        if name in self._timers:
            self._timers[name].cancel()
        self._timers[name] = self._loop.call_later(seconds, call)

    def _check_idle(self) -> None:
        """Bytes that the client takes from what already waits are movement, too."""
        left = self._active + self._idle - self._loop.time()
        if left <= 0 and self._outstanding() == self._untaken:
            self._end(f"nothing moved for {self._idle:g} s")
            self.abort()
            return
        if left <= 0:
            self._active, left = self._loop.time(), self._idle
        self._untaken = self._outstanding()
        self._after("idle", left, self._check_idle)

    def _knock(self) -> None:
        active = self._active
        if self._receiver is not None:
            self._receiver.knock()
        self._active = active  # ours alone is no movement
        if not self._transport.is_closing():
            self._after("knock", KNOCK, self._knock)

    def _linger(self) -> None:
        """Half-close once all is handed over; end the connection once the other end has got it, has had
        time to close its own and says no more; or when it takes nothing for as long as a connection may idle."""
        if self._transport.is_closing():
            return
        untaken, now = self._outstanding(), self._loop.time()
        if untaken != self._untaken:
            self._untaken, self._active = untaken, now
        if self._transport.get_write_buffer_size():
            self._after("linger", TICK / 10, self._linger)
            return
        plain = self._transport.can_write_eof()
        if not self._shut and plain:
            self._shut = True
            with contextlib.suppress(OSError):  # lost meanwhile, which asyncio tells in its own time
                self._transport.get_extra_info("socket").shutdown(socket.SHUT_WR)
        if not untaken and (not plain or now - max(self._active, self._heard) > LINGER):
            self._transport.close()
        else:
            self._after("linger", TICK, self._linger)

    def _outstanding(self) -> int:
        """Bytes that were sent and not acknowledged (tcp(7), SIOCOUTQ)."""
        waiting = self._transport.get_write_buffer_size()
        sock = self._transport.get_extra_info("socket")
        try:
            queued = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(_INT.size))
        except (OSError, ValueError):
            return waiting  # closed meanwhile
        return waiting + int(_INT.unpack(queued)[0])
