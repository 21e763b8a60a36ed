"""Streaming sessions without a wire: the tickets that the RPCs make, served to clients in memory."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from cri.streaming.session import CommandTicket, ForwardTicket, Outcome, Ticket
from proto import api_pb2 as api
from tests.cri.harness import Crisp
from tests.unit.cri.streaming.streams import Client, Forwards


class Tickets:
    """What the streaming server is to the RPCs; keeps what it is offered."""

    def __init__(self) -> None:
        self.offered: list[Ticket] = []

    def offer(self, ticket: Ticket) -> str:
        self.offered.append(ticket)
        return f"http://127.0.0.1:1/{len(self.offered)}"

    def take(self, url: str) -> Ticket:
        return self.offered[int(url.rpartition("/")[2]) - 1]


@dataclass
class Session:
    """A client and the task that serves it; ``outcome`` is what the error stream would tell."""

    client: Client
    serving: asyncio.Task[Outcome]
    typed: list[bytes] = field(default_factory=list)

    async def outcome(self, seconds: float = 30) -> Outcome:
        return await asyncio.wait_for(asyncio.shield(self.serving), seconds)

    async def type(self, data: bytes) -> None:
        await self.client.stdin.write(data)

    async def expect(self, wanted: bytes, seconds: float = 30) -> bytes:
        """What stdout gives until ``wanted`` is in it."""
        seen = b""
        async with asyncio.timeout(seconds):
            while wanted not in seen:
                got = await self.client.stdout.read()
                assert got, f"ended with {seen!r}"
                seen += got
        return seen


def tickets(crisp: Crisp) -> Tickets:
    if not isinstance(crisp.host.offers, Tickets):
        crisp.host.offers = Tickets()
    return crisp.host.offers


@contextlib.asynccontextmanager
async def exec_in(crisp: Crisp, id: str, *cmd: str, stdin: bool = False, tty: bool = False) -> AsyncIterator[Session]:
    offers = tickets(crisp)
    request = api.ExecRequest(container_id=id, cmd=cmd, stdin=stdin, stdout=True, stderr=not tty, tty=tty)
    async with serve(offers.take((await crisp.runtime.Exec(request)).url)) as session:
        yield session


@contextlib.asynccontextmanager
async def attach_to(
    crisp: Crisp, id: str, *, stdin: bool = False, stdout: bool = True, stderr: bool = False, tty: bool = False
) -> AsyncIterator[Session]:
    offers = tickets(crisp)
    request = api.AttachRequest(container_id=id, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty)
    async with serve(offers.take((await crisp.runtime.Attach(request)).url)) as session:
        pod = crisp.host.pods[crisp.host.store.containers.get(id).sandbox_id]
        await crisp.until(lambda: session.serving.done() or len(pod.attached) > 0)
        await pod.monitor.hello()  # what was asked before is done
        yield session


@contextlib.asynccontextmanager
async def serve(ticket: Ticket) -> AsyncIterator[Session]:
    """The client is gone afterwards, and so is the session."""
    assert isinstance(ticket, CommandTicket)
    wanted = ticket.wanted
    client = Client(stdin=wanted.stdin, stdout=wanted.stdout, stderr=wanted.stderr)
    serving = asyncio.get_running_loop().create_task(run(ticket, client))
    try:
        yield Session(client, serving)
    finally:
        client.leave()
        await asyncio.wait_for(serving, 30)


async def run(ticket: CommandTicket, client: Client) -> Outcome:
    """As the wire does: afterwards the streams are finished."""
    outcome = await ticket.serve(client.streams)
    for each in (client.streams.stdout, client.streams.stderr):
        if each is not None:
            await each.finish()
    return outcome


@contextlib.asynccontextmanager
async def forward_to(crisp: Crisp, sandbox: str, *ports: int) -> AsyncIterator[Forwards]:
    offers = tickets(crisp)
    request = api.PortForwardRequest(pod_sandbox_id=sandbox, port=ports)
    ticket = offers.take((await crisp.runtime.PortForward(request)).url)
    assert isinstance(ticket, ForwardTicket) and ticket.ports == frozenset(ports)
    session = Forwards()
    serving = asyncio.ensure_future(ticket.serve(session))
    try:
        yield session
    finally:
        session.leave()
        await asyncio.wait_for(serving, 30)
