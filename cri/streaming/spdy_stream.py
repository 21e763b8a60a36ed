"""One stream of a SPDY session.

``cri.streaming.spdy`` makes it and feeds it; everything else sees a ``session.Stream``.

Invariant: after ``cut`` or ``reset`` nothing is sent for it; a stream that both sides ended is
forgotten by its session, and what it holds can still be read.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from cri.streaming.inbound import Inbound
from cri.streaming.session import StreamReset
from cri.streaming.spdy_frames import CANCEL

if TYPE_CHECKING:
    from cri.streaming.spdy import SpdySession
    from cri.streaming.spdy_windows import Window


class SpdyStream:
    """A ``session.Stream`` with the headers that it was opened with."""

    def __init__(
        self, session: SpdySession, id: int, headers: dict[str, str], window: Window, *, one_way: bool
    ) -> None:
        self._session = session
        self.id = id
        self.headers = headers
        self.window = window
        self.inbound = Inbound(lambda size: session.taken(self, size))
        self.credit = 0
        """Bytes that were taken since the last WINDOW_UPDATE."""
        self.reach = 0
        """Where in the connection the last byte of data is that was sent."""
        self.ignored = False
        """What comes is thrown away."""
        self.why_cut = ""
        self._finished = one_way

    def header(self, name: str) -> str:
        """The first value of a header, "" without it."""
        return self.headers.get(name, "").partition("\0")[0]

    # ---- session.Stream

    async def read(self) -> bytes:
        return await self.inbound.read()

    async def write(self, data: bytes | memoryview, *, small: bool = False) -> None:
        """As ``Stream.write``; what is ``small`` does not wait behind a client that reads nothing."""
        if self._finished and not self.why_cut:
            raise StreamReset("the own half has ended")
        view = memoryview(data)
        if not view.readonly:
            view = memoryview(bytes(view))  # what waits to be sent must not change any more
        await self._session.send_data(self, view.cast("B"), small=small)

    async def finish(self) -> None:
        if self._finished or self.why_cut:
            return
        self._finished = True
        self._session.send_fin(self)
        self._forget_if_over()

    def reset(self) -> None:
        self.abandon(CANCEL)

    def delivered(self) -> int:
        return self._session.delivered(self)

    # ---- what the session calls

    def abandon(self, status: int) -> None:
        """Tell the client that the stream is over, and hold nothing of it any more."""
        over = self._finished and self.inbound.over
        if not self.why_cut:
            self.why_cut = "the stream was reset by the server"
            if not over:
                self._session.send_reset(self, status)
            self._session.forget(self)
        self.inbound.drop(self.why_cut)

    def remote_fin(self) -> None:
        """The client's half has ended."""
        self.inbound.end()
        self._forget_if_over()

    def cut(self, why: str) -> None:
        """The client or the connection has cut it off; what came before can still be read."""
        self.why_cut = self.why_cut or why
        self.inbound.fail(why)

    def ignore(self) -> None:
        """Throw away what comes."""
        self.ignored = True
        self.inbound.discard()

    def refuse(self) -> None:
        """It was never opened; ``admit`` may have kept it."""
        self.cut("the stream was refused")

    def _forget_if_over(self) -> None:
        if self._finished and self.inbound.over:
            self._session.forget(self)
