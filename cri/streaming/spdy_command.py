"""Exec and attach over SPDY: which stream is which, the ticket's work, how it ended.

``cri.streaming.server`` runs it on a session that was agreed on. Each stream says by its header
``streamtype`` what it is; the client opens one for errors and one for each that it wants.

Invariant: the command starts once all its streams are there, within ``OPEN_TIMEOUT``; the status is
the last that is written, after everything that the command wrote.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from cri.streaming.resizes import Resizes
from cri.streaming.session import CommandStreams, CommandTicket, StreamReset
from cri.streaming.status import encode_outcome, outcome_of

if TYPE_CHECKING:
    from cri.streaming.spdy_stream import SpdyStream
    from cri.streaming.wire import Wire

OPEN_TIMEOUT = 30.0
"""Seconds for the client to open all streams, as with other runtimes."""
PATIENCE = 5.0
"""Seconds for the client to open its window to the reason why the session failed."""
KINDS = frozenset({"error", "stdin", "stdout", "stderr", "resize"})
WITHOUT_RESIZE = frozenset({"channel.k8s.io", "v2.channel.k8s.io"})


def plan_streams(ticket: CommandTicket, protocol: str) -> frozenset[str]:
    """The streams that have to be there before the command begins."""
    wanted = ticket.wanted
    names = {"error"}
    names |= {"stdin"} if wanted.stdin else set()
    names |= {"stdout"} if wanted.stdout else set()
    names |= {"stderr"} if wanted.stderr and not wanted.tty else set()
    names |= {"resize"} if wanted.tty and protocol not in WITHOUT_RESIZE else set()
    return frozenset(names)


class Collector:
    """Takes the streams that a client opens, until all of ``expected`` are there."""

    def __init__(self, expected: frozenset[str]) -> None:
        self._missing = set(expected)
        self.streams: dict[str, SpdyStream] = {}
        self._complete = asyncio.Event()
        self._decided = asyncio.Event()

    def admit(self, stream: SpdyStream) -> bool:
        """Each kind once; what the command has no use for may be there and is not read."""
        kind = stream.header("streamtype")
        if kind not in KINDS or kind in self.streams:
            return False
        self.streams[kind] = stream
        if kind not in self._missing:
            stream.ignore()
        self._missing.discard(kind)
        if not self._missing:
            self._complete.set()
            self._decided.set()
        return True

    def end(self) -> None:
        """No more streams come."""
        self._decided.set()

    async def wait_complete(self) -> bool:
        """Whether all are there, in time and before the client left."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(OPEN_TIMEOUT):
                await self._decided.wait()
        return self._complete.is_set()

    def get(self, kind: str) -> SpdyStream | None:
        found = self.streams.get(kind)
        return None if found is None or found.ignored else found


async def serve_command(wire: Wire, ticket: CommandTicket, protocol: str, streams: Collector) -> None:
    """Carry ``ticket`` out, once all its streams are there; tell the client how it ended."""
    if not await streams.wait_complete():
        return
    sizes = Resizes()
    async with asyncio.TaskGroup() as group:
        resize = streams.get("resize")
        following = group.create_task(follow(resize, sizes))
        given = CommandStreams(
            stdin=streams.get("stdin"),
            stdout=streams.get("stdout"),
            stderr=streams.get("stderr"),
            next_size=sizes.next_size,
            closed=wire.wait_gone,
        )
        outcome = await outcome_of(ticket, given)
        await finish(streams, encode_outcome(outcome, protocol), PATIENCE if outcome.error else None)
        following.cancel()


async def follow(stream: SpdyStream | None, sizes: Resizes) -> None:
    """What comes on the resize stream, if there is one, until its end."""
    with contextlib.suppress(StreamReset):
        while stream is not None and (data := await stream.read()):
            sizes.feed(data)
    sizes.end()


async def finish(streams: Collector, status: bytes, patience: float | None) -> None:
    """The status, and the end of all streams. That of errors ends first: clients of v1 take what
    they have when the output ends."""
    for kind, stream in sorted(streams.streams.items(), key=lambda item: item[0] != "error"):
        if kind == "error" and status:
            await tell(stream, status, patience)
        await stream.finish()


async def tell(stream: SpdyStream, status: bytes, patience: float | None) -> None:
    """A stream whose window stays shut for ``patience`` seconds is reset: ended without a word it would
    say that all went well."""
    try:
        async with asyncio.timeout(patience):
            await stream.write(status, small=True)
    except StreamReset:
        return
    except TimeoutError:
        stream.reset()
