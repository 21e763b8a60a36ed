"""SPDY in the binary messages of a WebSocket: what port-forward over WebSocket is.

Between a ``Wire`` and a ``SpdySession``: the receiver of the one, the ``Link`` of the other. Where a
message begins and ends means nothing; the bytes are one stream.

Invariant: what SPDY sends in one call leaves as one message.
"""

from __future__ import annotations

import asyncio

from cri.streaming import websocket
from cri.streaming.wire import Receiver, Wire


class Tunnel:
    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._reader = websocket.FrameReader()
        self._inner: Receiver

    def hand_to(self, inner: Receiver) -> None:
        """What is in the messages goes to ``inner``."""
        self._inner = inner

    # ---- the receiver of a connection

    def receive(self, data: memoryview) -> None:
        try:
            for frame in self._reader.feed(data):
                if isinstance(frame, websocket.Piece):
                    self._inner.receive(memoryview(frame.data))
                elif answer_control(self._wire, frame):
                    return
        except websocket.SocketError as error:
            end_socket(self._wire, error.code, str(error))

    def ended(self, why: str) -> None:
        self._inner.ended(why)

    def knock(self) -> None:
        self._wire.send(websocket.control_frame(websocket.PONG))

    # ---- the link of a session

    @property
    def gone(self) -> str:
        return self._wire.gone

    def send(self, *parts: bytes | memoryview) -> None:
        self._wire.send(websocket.frame_head(sum(map(len, parts))), *parts)

    def turn(self) -> asyncio.Lock:
        return self._wire.turn()

    async def room(self) -> None:
        await self._wire.room()

    def position(self) -> int:
        return self._wire.position()

    def taken(self) -> int:
        return self._wire.taken()

    def pause(self) -> None:
        self._wire.pause()

    def resume(self) -> None:
        self._wire.resume()

    def close(self) -> None:
        end_socket(self._wire, websocket.NORMAL, "")


def answer_control(wire: Wire, frame: websocket.Control) -> bool:
    """Answer a ping or the client's close; whether it was the latter, which ends the connection."""
    if frame.opcode == websocket.PING:
        wire.send(websocket.control_frame(websocket.PONG, frame.payload))
    elif frame.opcode == websocket.CLOSE:
        end_socket(wire, websocket.NORMAL, "")
        return True
    return False


def end_socket(wire: Wire, code: int, reason: str) -> None:
    """The close frame, then the end of the connection."""
    wire.send(websocket.close_frame(code, reason))
    wire.close()
