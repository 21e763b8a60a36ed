"""What a streaming session is made of, whatever protocol carries it.

The wire side (``cri.streaming.server`` with ``spdy`` and ``websocket``) turns a
connection into these; the serving side (``cri.streaming.command``, ``forward``) uses
them and knows nothing of frames. An RPC makes a ``Ticket`` of what is to be served
and gets a URL for it.

Invariant: bytes are never held beyond a stream's window; a peer that does not read
makes ``write`` wait, and a server that does not read makes the peer wait.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Protocol


class StreamReset(ConnectionError):
    """The peer, or the end of the connection, has cut a stream off."""


class Stream(Protocol):
    """One byte stream of a session, in both directions; each half ends by itself."""

    async def read(self) -> bytes:
        """The next bytes as they came, b"" for ever after the peer's half has ended.

        Raises:
            StreamReset: it was cut off.
        """
        ...

    async def write(self, data: bytes | memoryview) -> None:
        """Send all of ``data``; returns once it is within the peer's window.

        Raises:
            StreamReset: it was cut off, or the own half has been ended.
        """
        ...

    async def finish(self) -> None:
        """End the own half; idempotent, never raises."""
        ...

    def reset(self) -> None:
        """Cut both halves off; idempotent."""
        ...

    def delivered(self) -> int:
        """Grows while the peer takes what was written here, and by nothing else that it takes or says."""
        ...


@dataclass(frozen=True, slots=True)
class Size:
    """Of a terminal, in characters."""

    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which streams a command has. With ``tty`` there is no stderr."""

    stdin: bool
    stdout: bool
    stderr: bool
    tty: bool


@dataclass(frozen=True, slots=True)
class CommandStreams:
    """The streams of one exec or attach; those that were not wanted are None.

    ``next_size`` waits for the next resize of the terminal and is None at the end of them;
    only the newest one is kept. ``closed`` returns once the connection has ended.
    """

    stdin: Stream | None
    stdout: Stream | None
    stderr: Stream | None
    next_size: Callable[[], Awaitable[Size | None]]
    closed: Callable[[], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the error stream tells at the end: ``code`` of the command, or with ``error``
    (not empty) why the session failed for a reason of the runtime."""

    code: int = 0
    error: str = ""


@dataclass(frozen=True, slots=True)
class Forward:
    """One connection that a client of a port-forward session wants: bytes on ``data``, and
    why it failed, as text, on ``error``."""

    port: int
    data: Stream
    error: Stream


class ForwardSession(Protocol):
    async def accept(self) -> Forward | None:
        """The next connection, None once the session has ended."""
        ...


@dataclass(frozen=True, slots=True)
class CommandTicket:
    """An exec or an attach that was prepared. ``kind`` is ``exec`` or ``attach``; ``serve`` carries it
    out, and its streams are finished and the session is ended by the caller afterwards."""

    kind: str
    wanted: Wanted
    serve: Callable[[CommandStreams], Awaitable[Outcome]]


@dataclass(frozen=True, slots=True)
class ForwardTicket:
    """A port-forward that was prepared. ``ports``: those that were named, or all when empty."""

    ports: frozenset[int]
    serve: Callable[[ForwardSession], Awaitable[None]]


Ticket = CommandTicket | ForwardTicket


class Offers(Protocol):
    """What the RPCs see of the streaming server: a URL for a ticket."""

    def offer(self, ticket: Ticket) -> str:
        """An absolute URL that serves ``ticket`` once, within a minute.

        Raises:
            ResourceExhausted: too many are waiting.
        """
        ...
