"""The streaming server: it listens, lets in who has a token, and puts the session together.

``cri.assembly`` starts it; the RPCs Exec, Attach and PortForward ``offer`` it their tickets.
``upgrade`` says what was agreed on, ``spdy_command``, ``spdy_forward`` and ``channels`` do it.

Invariant: without a token that is good nothing of the daemon is reached; connections, their
heads' size and time, and the time in which nothing moves are bounded; after ``close`` no connection
is open and no task of a session runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from cri.streaming.certificates import Certificates
from cri.streaming.channels import ChannelSession
from cri.streaming.session import CommandTicket, ForwardTicket, Ticket
from cri.streaming.spdy import SpdySession
from cri.streaming.spdy_command import Collector, plan_streams, serve_command
from cri.streaming.spdy_forward import Pairs
from cri.streaming.tokens import Tokens
from cri.streaming.tunnel import Tunnel
from cri.streaming.upgrade import (
    SOCKET,
    TUNNEL,
    Agreement,
    HeadReader,
    Refused,
    encode_refusal,
    negotiate,
    parse_head,
    parse_target,
)
from cri.streaming.wire import BUFFER_SIZE, Wire
from runtime.errors import FailedPrecondition, HostFault

if TYPE_CHECKING:
    import ssl

LOG = logging.getLogger("crisp.streaming")

HEAD_TIMEOUT = 10.0
"""Seconds from the connection to the end of the request's head; as many again for TLS."""
CONNECTION_LIMIT = 1024
TAKEN = frozenset({errno.EADDRINUSE, errno.EADDRNOTAVAIL, errno.EACCES})
UNSPECIFIED = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""What a client of this host calls an address that means all of them."""

Spawn = Callable[[str, Coroutine[Any, Any, None]], asyncio.Task[None]]


class StreamingServer:
    """Use ``await StreamingServer.start(...)``; end with ``await close()``. It is the ``Offers`` of the RPCs."""

    def __init__(self, spawn: Spawn, idle: float) -> None:
        self._spawn = spawn
        self._idle = idle
        self._tokens: Tokens[Ticket] = Tokens()
        self._buffer = memoryview(bytearray(BUFFER_SIZE))
        self._wires: dict[Wire, asyncio.Task[None]] = {}
        self._listener: asyncio.Server
        self._base = ""

    @classmethod
    async def start(cls, address: str, idle: float, spawn: Spawn, cert: str = "", key: str = "") -> StreamingServer:
        """Listen on ``address`` (``host:port``), with TLS where there is a certificate. ``spawn`` starts the task
        of a connection.

        Raises:
            FailedPrecondition: the address is taken or not one of this host; the certificate is unusable.
            HostFault: it cannot be served for another reason.
        """
        server = cls(spawn, idle)
        context = Certificates(cert, key).context if cert else None
        host, _, port = address.rpartition(":")
        try:
            await server._listen(host.strip("[]"), int(port), context)
        except OSError as error:
            raise refusal(address, error) from error
        return server

    async def _listen(self, host: str, port: int, context: ssl.SSLContext | None) -> None:
        loop = asyncio.get_running_loop()
        timeout = None if context is None else HEAD_TIMEOUT
        found = await loop.getaddrinfo(host, port)
        self._listener = await loop.create_server(
            lambda: Wire(self._buffer, self._accepted, self._idle),
            str(found[0][4][0]),  # one address alone: with port 0 each would get another port
            port,
            ssl=context,
            ssl_handshake_timeout=timeout,
            ssl_shutdown_timeout=timeout,
        )
        name, bound = self._listener.sockets[0].getsockname()[:2]
        name = UNSPECIFIED.get(name, name)
        self._base = f"{'https' if context else 'http'}://{f'[{name}]' if ':' in name else name}:{bound}"

    def offer(self, ticket: Ticket) -> str:
        """As ``session.Offers``."""
        kind = ticket.kind if isinstance(ticket, CommandTicket) else "portforward"
        return f"{self._base}/{kind}/{self._tokens.issue(ticket)}"

    def __len__(self) -> int:
        """Open connections."""
        return len(self._wires)

    async def close(self) -> None:
        """Cut everything off and wait for the sessions' ends."""
        self._listener.close()
        tasks = list(self._wires.values())
        for wire, task in list(self._wires.items()):
            wire.abort()
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)
        await self._listener.wait_closed()

    # ---- a connection

    def _accepted(self, wire: Wire) -> None:
        reader = HeadReader(wire.pause)
        wire.hand_to(reader)
        self._wires[wire] = self._spawn("streaming connection", self._serve(wire, reader))

    async def _serve(self, wire: Wire, reader: HeadReader) -> None:
        try:
            await self._answer(wire, reader)
            wire.close()
            await wire.wait_closed()
        except (ConnectionError, TimeoutError) as error:
            LOG.debug("a streaming connection came to nothing: %s", error)
        finally:
            wire.abort()
            del self._wires[wire]

    async def _answer(self, wire: Wire, reader: HeadReader) -> None:
        """The request, and what it asks for."""
        try:
            async with asyncio.timeout(HEAD_TIMEOUT):
                head = await reader.head
            if len(self._wires) > CONNECTION_LIMIT:
                raise Refused(HTTPStatus.SERVICE_UNAVAILABLE, "too many streaming connections")
            request = parse_head(head)
            kind, token = parse_target(request)
            if kind_of(self._tokens.peek(token)) != kind:
                raise Refused(HTTPStatus.NOT_FOUND, "no such session, as a URL is good once and for a minute")
            agreement = negotiate(request, kind)
            ticket = self._tokens.redeem(token)
        except Refused as refused:
            wire.send(encode_refusal(refused))
            return
        wire.send(agreement.answer)
        early = bytes(reader.early)
        if isinstance(ticket, ForwardTicket):
            await self._forward(wire, ticket, agreement, early)
        elif ticket is not None:
            await self._command(wire, ticket, agreement, early)

    async def _command(self, wire: Wire, ticket: CommandTicket, agreement: Agreement, early: bytes) -> None:
        if agreement.carrier == SOCKET:
            channels = ChannelSession(wire, ticket, agreement.protocol)
            begin(wire, channels, early)
            await channels.serve()
            return
        streams = Collector(plan_streams(ticket, agreement.protocol))
        session = SpdySession(wire, streams.admit, streams.end)
        session.start()
        begin(wire, session, early)
        await serve_command(wire, ticket, agreement.protocol, streams)
        session.close()

    async def _forward(self, wire: Wire, ticket: ForwardTicket, agreement: Agreement, early: bytes) -> None:
        pairs = Pairs(ticket.ports)
        tunnel = Tunnel(wire) if agreement.carrier == TUNNEL else None
        session = SpdySession(tunnel or wire, pairs.admit, pairs.end)
        if tunnel is not None:
            tunnel.hand_to(session)
        session.start()
        begin(wire, tunnel or session, early)
        with contextlib.closing(session):
            await ticket.serve(pairs)


def begin(wire: Wire, receiver: SpdySession | Tunnel | ChannelSession, early: bytes) -> None:
    """The session has the connection now, beginning with what came before the answer."""
    wire.resume()
    wire.hand_to(receiver, early)


def kind_of(ticket: Ticket | None) -> str:
    if ticket is None:
        return ""
    return ticket.kind if isinstance(ticket, CommandTicket) else "portforward"


def refusal(address: str, error: OSError) -> FailedPrecondition | HostFault:
    if error.errno in TAKEN:
        words = f"cannot be served: {errno.errorcode[error.errno]}; choose another [streaming] address"
        return FailedPrecondition(words, step="serve streams", object=address)
    return HostFault(step="serve streams", object=address, call="bind", errno=error.errno or errno.EINVAL)
