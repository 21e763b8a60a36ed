"""Port-forward over SPDY: which two streams belong to one connection.

``cri.streaming.server`` runs it on a session, native or tunnelled in a WebSocket. The client opens
two streams a connection, ``streamtype`` data and error, with the same ``requestid`` and ``port``;
clients of long ago send no id and open the error stream directly before the data stream.

Invariant: a connection is handed out once, with both streams; half of one is reset after
``PAIR_TIMEOUT``. A fault of one pair touches no other.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from cri.streaming.session import Forward

if TYPE_CHECKING:
    from cri.streaming.spdy_stream import SpdyStream

PAIR_TIMEOUT = 30.0
"""Seconds between the two streams of a connection."""
HALVES_LIMIT = 1024
ID_LIMIT = 64
"""Characters of a request's id."""


@dataclass(slots=True)
class Half:
    """A stream whose partner has not come."""

    kind: str
    port: int
    stream: SpdyStream
    timer: asyncio.TimerHandle


class Pairs:
    """The ``ForwardSession`` of one session, which tells ``admit`` of each new stream, and ``end``."""

    def __init__(self, ports: frozenset[int]) -> None:
        self._ports = ports
        self._halves: dict[str, Half] = {}
        self._ready: deque[Forward] = deque()
        self._over = False
        self._changed = asyncio.Event()

    def admit(self, stream: SpdyStream) -> bool:
        """Pair ``stream``, or keep it until its partner comes."""
        kind, port = stream.header("streamtype"), parse_port(stream.header("port"))
        request = stream.header("requestid") or guess_request(kind, stream.id)
        if kind not in ("data", "error") or not port or len(request) > ID_LIMIT:
            return False
        if self._ports and port not in self._ports:
            return False
        half = self._halves.get(request)
        if half is None:
            if len(self._halves) >= HALVES_LIMIT:
                return False
            timer = asyncio.get_running_loop().call_later(PAIR_TIMEOUT, self._give_up, request)
            self._halves[request] = Half(kind, port, stream, timer)
            return True
        if half.kind == kind or half.port != port:
            return False
        del self._halves[request]
        half.timer.cancel()
        data, error = (stream, half.stream) if kind == "data" else (half.stream, stream)
        error.ignore()  # the client has nothing to say there
        self._ready.append(Forward(port, data, error))
        self._changed.set()
        return True

    async def accept(self) -> Forward | None:
        """As ``ForwardSession.accept``; what was complete before the end is still given out."""
        while True:
            if self._ready:
                return self._ready.popleft()
            if self._over:
                return None
            self._changed.clear()
            await self._changed.wait()

    def end(self) -> None:
        """No more streams come. Idempotent."""
        self._over = True
        for half in self._halves.values():
            half.timer.cancel()
        self._halves.clear()
        self._changed.set()

    def _give_up(self, request: str) -> None:
        self._halves.pop(request).stream.reset()


def parse_port(text: str) -> int:
    """0 for what is no port."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 5 and int(text) < 1 << 16 else 0


def guess_request(kind: str, id: int) -> str:
    """For a client that names none: its data stream is the one after its error stream."""
    return f"#{id - 2 if kind == 'data' else id}"
