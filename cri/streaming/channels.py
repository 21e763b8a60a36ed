"""Exec and attach over WebSocket: one byte of channel before the bytes of each message.

``cri.streaming.server`` runs it on a connection whose subprotocol is ``v5.channel.k8s.io`` or
``v4.channel.k8s.io``. Channels are stdin 0, stdout 1, stderr 2, error 3, resize 4; in v5 a message to
255 ends the channel that it names. A server ends its halves with the connection alone.

Invariant: no more than ``HELD_LIMIT`` bytes and one read of stdin are held; the status is
the last message, after everything that the command wrote.
"""

from __future__ import annotations

import contextlib

from cri.streaming import websocket
from cri.streaming.inbound import Inbound
from cri.streaming.resizes import Resizes
from cri.streaming.session import CommandStreams, CommandTicket, StreamReset
from cri.streaming.status import encode_outcome, outcome_of
from cri.streaming.tunnel import answer_control, end_socket
from cri.streaming.wire import Wire

STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
HELD_LIMIT = 1024 * 1024
MESSAGE_SIZE = 32 * 1024
"""Bytes of one message of ours: clients read with buffers of that size."""
V5 = "v5.channel.k8s.io"


class Channel:
    """A ``session.Stream``: the one half of a channel that has a meaning."""

    def __init__(self, wire: Wire, number: int, inbound: Inbound | None = None) -> None:
        self._wire = wire
        self._number = bytes((number,))
        self._inbound = inbound
        self._finished = ""
        self._reach = 0
        """Where in the connection the last byte of ours is."""

    async def read(self) -> bytes:
        return b"" if self._inbound is None else await self._inbound.read()

    async def write(self, data: bytes | memoryview, *, small: bool = False) -> None:
        """As ``Stream.write``; what is ``small`` does not wait behind a client that reads nothing."""
        view = memoryview(data)
        if not view.readonly:
            view = memoryview(bytes(view))  # what waits to be sent must not change any more
        view = view.cast("B")
        for at in range(0, len(view), MESSAGE_SIZE):
            part = view[at : at + MESSAGE_SIZE]
            async with contextlib.nullcontext() if small else self._wire.turn():
                if not small:
                    await self._wire.room()
                if self._finished:
                    raise StreamReset(self._finished)
                self._wire.send(websocket.frame_head(len(part) + 1) + self._number, part)
                self._reach = self._wire.position()

    async def finish(self) -> None:
        self._finished = self._finished or "the own half has ended"

    def reset(self) -> None:
        self._finished = self._finished or "the stream was reset by the server"
        if self._inbound is not None:
            self._inbound.drop(self._finished)

    def delivered(self) -> int:
        return min(self._wire.taken(), self._reach)


class ChannelSession:
    """The receiver of a connection's bytes."""

    def __init__(self, wire: Wire, ticket: CommandTicket, protocol: str) -> None:
        self._wire = wire
        self._ticket = ticket
        self._protocol = protocol
        self._reader = websocket.FrameReader()
        self._stdin = Inbound(self._taken)
        self._sizes = Resizes()
        self._paused = False
        self._channel = -1
        """Of the message that is being read; -1 before its first byte."""

    # ---- the receiver of a connection

    def receive(self, data: memoryview) -> None:
        try:
            for frame in self._reader.feed(data):
                if isinstance(frame, websocket.Piece):
                    self._on_piece(frame)
                elif frame.opcode == websocket.CLOSE and websocket.close_code(frame.payload) == websocket.NORMAL:
                    self._stdin.end()
                    end_socket(self._wire, websocket.NORMAL, "")
                    return
                elif answer_control(self._wire, frame):
                    return
        except websocket.SocketError as error:
            end_socket(self._wire, error.code, str(error))
        if self._stdin.held >= HELD_LIMIT and not self._paused and not self._wire.gone:
            self._paused = True
            self._wire.pause()

    def ended(self, why: str) -> None:
        self._stdin.fail(why)
        self._sizes.end()

    def knock(self) -> None:
        # A pong that nobody asked for (5.5.3) also tells client-go, which may wait behind its own
        # data with its ping, that we are alive.
        self._wire.send(websocket.control_frame(websocket.PONG))

    # ---- the session

    async def serve(self) -> None:
        """Carry the ticket out; tell the client how it ended."""
        wanted = self._ticket.wanted
        stdout = Channel(self._wire, STDOUT) if wanted.stdout else None
        stderr = Channel(self._wire, STDERR) if wanted.stderr and not wanted.tty else None
        # An empty message on the first channel that is written to says that the session stands.
        first = STDOUT if stdout else STDERR if stderr else ERROR
        self._wire.send(websocket.frame_head(1) + bytes((first,)))
        if not wanted.tty:
            self._sizes.end()
        streams = CommandStreams(
            stdin=Channel(self._wire, STDIN, self._stdin) if wanted.stdin else None,
            stdout=stdout,
            stderr=stderr,
            next_size=self._sizes.next_size,
            closed=self._wire.wait_gone,
        )
        outcome = await outcome_of(self._ticket, streams)
        if status := encode_outcome(outcome, self._protocol):
            await Channel(self._wire, ERROR).write(status, small=True)
        end_socket(self._wire, websocket.NORMAL, "")

    def _on_piece(self, piece: websocket.Piece) -> None:
        data = piece.data
        if piece.first:
            self._channel = -1
        if self._channel < 0 and data:
            self._channel, data = data[0], data[1:]
        if not data:
            return
        if self._channel == STDIN and self._ticket.wanted.stdin and not self._stdin.over:
            self._stdin.push(data)
        elif self._channel == RESIZE:
            self._sizes.feed(data)
        elif self._channel == CLOSE and self._protocol == V5 and data[0] == STDIN:
            self._stdin.end()

    def _taken(self, size: int) -> None:
        del size
        if self._paused and self._stdin.held <= HELD_LIMIT // 2:
            self._paused = False
            self._wire.resume()
