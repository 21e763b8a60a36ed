"""A SPDY/3.1 session as its server: streams that the client opens, windows, pings, the end.

Below it is a ``Link`` (the connection, or a tunnel in a WebSocket), above it are ``spdy_command``
and ``spdy_forward``, which say by ``admit`` whether a new stream is wanted.

The client that matters, moby/spdystream in kubectl, crictl and kubelet, has no flow control:
it sends no WINDOW_UPDATE and keeps to no window. So windows bind us once a client shows that
it has them (``spdy_windows``); and a client that sends more than we take is held by TCP: we
stop reading at ``HELD_LIMIT``.

Invariant: a session holds no more than ``HELD_LIMIT`` and one read of unread bytes, and
``STREAM_LIMIT`` streams; bytes that were read before a reset or the end are still there to take.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from cri.streaming import spdy_frames as frames
from cri.streaming.session import StreamReset
from cri.streaming.spdy_headers import HeaderDecoder, HeaderEncoder, HeadersRefused
from cri.streaming.spdy_stream import SpdyStream
from cri.streaming.spdy_windows import DEFAULT_WINDOW, Allowance, Windows

if TYPE_CHECKING:
    from cri.streaming.wire import Link

STREAM_LIMIT = 1024
"""Open at once: 512 forwarded connections."""
STREAM_WINDOW = 256 * 1024
HELD_LIMIT = 4 * 1024 * 1024
"""Unread bytes of all streams, at which we read no more. Also the window of the session."""
REPLY = {":status": "200", ":version": "HTTP/1.1"}
"""What the specification asks of a reply (3.2.2); spdystream asks for nothing, spdy-transport does."""
LEFT_OUT_LIMIT = 16
FRAME_SIZE = 64 * 1024
"""Bytes of one data frame, so that streams take turns."""


class SpdySession:
    """The receiver of a connection's bytes. ``admit`` is told of each new stream before it is answered;
    where it says no, the stream is refused. ``over`` is called once no more of them can come."""

    def __init__(self, link: Link, admit: Callable[[SpdyStream], bool], over: Callable[[], None]) -> None:
        self._link = link
        self._admit = admit
        self._over = over
        self._reader = frames.FrameReader()
        self._decoder = HeaderDecoder()
        self._encoder = HeaderEncoder()
        self._streams: dict[int, SpdyStream] = {}
        self._last = 0
        """The highest stream that the client has opened."""
        self._left_out: set[int] = set()
        """Lower ones that it has not."""
        self._held = 0
        self._paused = False
        self._credit = 0
        """Bytes of the session's window that were taken and not given back."""
        self._pings = 0
        self._allowance = Allowance()
        self.windows = Windows(self._send_ping)
        self.going = False
        """No stream is accepted any more: GOAWAY came, or the connection has ended."""

    def start(self) -> None:
        """Say what we allow; the first frames of ours."""
        values = {frames.MAX_CONCURRENT_STREAMS: STREAM_LIMIT, frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW}
        self._link.send(frames.settings(values), frames.window_update(0, HELD_LIMIT - DEFAULT_WINDOW))

    # ---- the receiver of a connection

    def receive(self, data: memoryview) -> None:
        try:
            for frame in self._reader.feed(data):
                if type(frame) is frames.Data:
                    self._on_data(frame)
                else:
                    self._on_control(frame)
        except frames.FrameError as error:
            self._fail(frames.GOAWAY_PROTOCOL_ERROR, str(error))
        if self._held >= HELD_LIMIT and not self._paused and not self._link.gone:
            self._paused = True
            self._link.pause()

    def ended(self, why: str) -> None:
        for stream in list(self._streams.values()):
            stream.cut(why)
        self._streams.clear()
        self.windows.close()
        self._go()

    def knock(self) -> None:
        self._send_ping()

    # ---- what streams call

    async def send_data(self, stream: SpdyStream, data: memoryview, *, small: bool = False) -> None:
        """All of ``data``, in frames, as the windows and the connection allow; where it is ``small``, the
        windows alone.

        Raises:
            StreamReset: as ``Stream.write``.
        """
        at = 0
        while at < len(data):
            await self.windows.wait(stream.window, lambda: self._why_not(stream))
            async with contextlib.nullcontext() if small else self._link.turn():
                if not small:
                    await self._link.room()
                size = min(len(data) - at, FRAME_SIZE, self.windows.left(stream.window))
                if why := self._why_not(stream):
                    raise StreamReset(why)
                if size <= 0:
                    continue  # another stream was faster
                self.windows.spend(stream.window, size)
                self._link.send(frames.data_header(stream.id, size), data[at : at + size])
                stream.reach = self._link.position()
                at += size

    def delivered(self, stream: SpdyStream) -> int:
        """As ``Stream.delivered``: what a window holds back is not on its way, however much else is."""
        return min(self._link.taken(), stream.reach)

    def send_fin(self, stream: SpdyStream) -> None:
        self._link.send(frames.data_header(stream.id, 0, fin=True))

    def send_reset(self, stream: SpdyStream, status: int = frames.CANCEL) -> None:
        self._link.send(frames.reset(stream.id, status))
        self.windows.wake()

    def forget(self, stream: SpdyStream) -> None:
        """Both halves are over."""
        self._streams.pop(stream.id, None)

    def taken(self, stream: SpdyStream, size: int) -> None:
        """``size`` bytes of ``stream`` are not held any more: the client may send as many."""
        self._held -= size
        if self._paused and self._held <= HELD_LIMIT // 2:
            self._paused = False
            self._link.resume()
        self._give_back(size)
        if not stream.inbound.over:
            stream.credit += size
            if stream.credit >= STREAM_WINDOW // 2:
                self._link.send(frames.window_update(stream.id, stream.credit))
                stream.credit = 0

    def close(self) -> None:
        """End in good order: GOAWAY, then the connection once everything was sent. Idempotent."""
        if not self._link.gone:
            self._link.send(frames.goaway(self._last, frames.GOAWAY_OK))
        self._link.close()

    # ---- frames

    def _on_data(self, frame: frames.Data) -> None:
        stream = self._streams.get(frame.stream)
        if stream is None or stream.inbound.over:
            if frame.stream > self._last or not frame.stream & 1:
                raise frames.FrameError(f"data for stream {frame.stream}, which was never opened")
            self._give_back(len(frame.data))
            if stream is not None and (frame.data or frame.fin):
                stream.abandon(frames.STREAM_ALREADY_CLOSED)
            return
        if frame.data:
            self._held += len(frame.data)
            if stream.ignored:
                self.taken(stream, len(frame.data))
            else:
                stream.inbound.push(frame.data)
        if frame.fin:
            stream.remote_fin()

    def _on_control(self, frame: frames.Frame) -> None:
        if type(frame) is frames.WindowUpdate:
            stream = self._streams.get(frame.stream)
            if frame.stream == 0 or stream is not None:
                self.windows.update(None if stream is None else stream.window, frame.delta)
            return
        if not self._allowance.spend():
            raise frames.FrameError("too many control frames in too short a time")
        if type(frame) is frames.SynStream:
            self._on_syn(frame)
        elif type(frame) is frames.Reset:
            stream = self._streams.pop(frame.stream, None)
            if stream is not None:
                stream.cut("the client has reset the stream")
                self.windows.wake()
        elif type(frame) is frames.Ping:
            self._on_ping(frame)
        elif type(frame) is frames.Settings:
            if frames.INITIAL_WINDOW_SIZE in frame.values:
                size = min(frame.values[frames.INITIAL_WINDOW_SIZE], frames.ID_MASK)
                self.windows.resize(size, [stream.window for stream in self._streams.values()])
        elif type(frame) is frames.GoAway:
            self._go()
        elif type(frame) is frames.Headers or type(frame) is frames.SynReply:
            self._on_headers(frame)

    def _on_syn(self, frame: frames.SynStream) -> None:
        self._check_number(frame.stream)
        try:
            headers = self._decoder.decode(frame.block)
        except HeadersRefused:
            self._link.send(frames.reset(frame.stream, frames.PROTOCOL_ERROR))
            return
        stream = SpdyStream(self, frame.stream, headers, self.windows.new(), one_way=frame.unidirectional)
        if self.going or len(self._streams) >= STREAM_LIMIT or not self._admit(stream):
            self._link.send(frames.reset(frame.stream, frames.REFUSED_STREAM))
            stream.refuse()
            return
        self._streams[frame.stream] = stream
        self._link.send(frames.syn_reply(frame.stream, self._encoder.encode(REPLY)))
        if frame.fin:
            stream.remote_fin()

    def _check_number(self, stream: int) -> None:
        """Numbers grow; but clients that compress in parallel (spdy-transport) may send two in the
        wrong order, so those that were left out can still come.

        Raises:
            FrameError: it is not one that a client may use, or was used before.
        """
        if not stream & 1 or (stream <= self._last and stream not in self._left_out):
            raise frames.FrameError(f"SYN_STREAM for stream {stream} after {self._last}")
        if stream > self._last and stream != (self._last + 1 | 1):
            first = max(self._last + 1 | 1, stream - 2 * LEFT_OUT_LIMIT)
            self._left_out = set(sorted({*self._left_out, *range(first, stream, 2)})[-LEFT_OUT_LIMIT:])
        self._last = max(self._last, stream)
        self._left_out.discard(stream)

    def _on_headers(self, frame: frames.Headers | frames.SynReply) -> None:
        """They mean nothing here, but the next block cannot be read without this one."""
        try:
            self._decoder.decode(frame.block)
        except HeadersRefused:
            self._link.send(frames.reset(frame.stream, frames.PROTOCOL_ERROR))
        stream = self._streams.get(frame.stream)
        if frame.fin and stream is not None and not stream.inbound.over:
            stream.remote_fin()

    def _on_ping(self, frame: frames.Ping) -> None:
        if frame.id & 1:
            self._link.send(frames.ping(frame.id))
        elif frame.id == self._pings:
            self.windows.answered()

    # ---- inside

    def _go(self) -> None:
        if not self.going:
            self.going = True
            self._over()

    def _send_ping(self) -> None:
        """A server's pings have even numbers."""
        self._pings = (self._pings + 2) & frames.ID_MASK or 2
        self._link.send(frames.ping(self._pings))

    def _why_not(self, stream: SpdyStream) -> str:
        return stream.why_cut or self._link.gone

    def _give_back(self, size: int) -> None:
        self._credit += size
        if self._credit >= HELD_LIMIT // 4:
            self._link.send(frames.window_update(0, self._credit))
            self._credit = 0

    def _fail(self, status: int, why: str) -> None:
        self._link.send(frames.goaway(self._last, status))
        self._link.close()
        self.ended(why)
