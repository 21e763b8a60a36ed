"""Clients of attach and exec that break off, over real connections, in a process of their own.

``python -m tests.cri.aborts SOCKET CONTAINER COUNT`` begins COUNT attaches and as many execs, over SPDY and
WebSocket in turns, ends each at another moment, most of them by a reset, and prints how many ended when. The
container is a ``cat`` with a stdin: it says what it is told.

Invariant: each kind of request meets each moment over each protocol.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import socket
import struct
import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import grpc
import grpc.aio

from cri.streaming.websocket import CONTINUATION
from proto import api_pb2 as api
from proto import api_pb2_grpc as rpc
from tests.unit.cri.streaming.peer import Client, data, masked

AT_ONCE = 16
LINES = (b"x" * 63 + b"\n") * 512
RESET = struct.pack("ii", 1, 0)
STREAMS = ("error", "stdin", "stdout", "stderr", "resize")
Asked = api.ExecRequest | api.AttachRequest


class Session:
    """What was asked for, and the connection to it."""

    def __init__(self, client: Client, url: str, asked: Asked, *, spdy: bool) -> None:
        self.client, self.url, self.asked, self.spdy = client, url, asked, spdy

    def request(self) -> None:
        ask = self.client.request_spdy if self.spdy else self.client.request_socket
        ask(self.url, "v4.channel.k8s.io")

    async def agree(self) -> None:
        self.request()
        assert (await self.client.answer())[0] == 101

    def begin(self) -> None:
        """SPDY: the streams that the session needs; without all of them no command begins."""
        wanted = {"error", "stdin", "stdout", "resize" if self.asked.tty else "stderr"}
        for number, kind in enumerate(STREAMS):
            if self.spdy and kind in wanted:
                self.client.open(2 * number + 1, streamtype=kind)

    def type(self, words: bytes) -> None:
        self.client.writer.write(data(3, words) if self.spdy else masked(b"\0" + words))

    async def hear(self, size: int) -> None:
        """Until so many bytes have come."""
        while size > 0:
            piece = await asyncio.wait_for(self.client.reader.read(size), 30)
            assert piece, "the server has ended it"
            size -= len(piece)


async def connected(_session: Session) -> None:
    """Nothing was said yet."""


async def within_the_head(session: Session) -> None:
    session.client.writer.write(b"POST /exec/")


async def requested(session: Session) -> None:
    session.request()


async def agreed(session: Session) -> None:
    await session.agree()


async def half_open(session: Session) -> None:
    """One stream of several, or half a message."""
    await session.agree()
    if session.spdy:
        session.client.open(1, streamtype="error")
    else:
        session.client.writer.write(masked(b"\0half", fin=False) + masked(b"more", CONTINUATION, fin=False))


async def begun(session: Session) -> None:
    await session.agree()
    session.begin()


async def in_the_middle(session: Session) -> None:
    """Of input and output: some of it has come, most waits here and there."""
    await session.agree()
    session.begin()
    session.type(LINES)
    await session.hear(len(LINES) // 4)


Moment = Callable[[Session], Awaitable[None]]
MOMENTS = (connected, within_the_head, requested, agreed, half_open, begun, in_the_middle, in_the_middle)


def plan_requests(container: str) -> Iterator[Asked]:
    """Attach and exec in turns; execs with and without an end of their own, and with a terminal."""
    attach = api.AttachRequest(container_id=container, stdin=True, stdout=True, stderr=True)
    execs = [
        api.ExecRequest(container_id=container, cmd=["cat"], stdin=True, stdout=True, stderr=True),
        api.ExecRequest(container_id=container, cmd=["yes"], stdin=True, stdout=True, stderr=True),
        api.ExecRequest(container_id=container, cmd=["cat"], stdin=True, stdout=True, tty=True),
    ]
    for command in itertools.cycle(execs):
        yield attach
        yield command


async def abort(runtime: Any, asked: Asked, moment: Moment, *, spdy: bool, reset: bool) -> None:
    """Ask, come to ``moment``, and break off."""
    ask = runtime.Exec if isinstance(asked, api.ExecRequest) else runtime.Attach
    url = (await ask(asked)).url
    client = await Client.connect(url)
    try:
        await moment(Session(client, url, asked, spdy=spdy))
        await client.writer.drain()
    finally:
        if reset:
            client.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        client.writer.transport.abort()


async def abort_all(runtime: Any, container: str, count: int) -> Counter[str]:
    """How many ended when."""
    ended: Counter[str] = Counter()
    plan = zip(range(2 * count), plan_requests(container), strict=False)

    async def work() -> None:
        for number, asked in plan:
            moment = MOMENTS[number // 4 % len(MOMENTS)]
            await abort(runtime, asked, moment, spdy=number // 2 % 2 == 0, reset=number % 5 != 0)
            ended[f"{type(asked).__name__} {moment.__name__}"] += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(AT_ONCE):
            group.create_task(work())
    return ended


async def main(target: str, container: str, count: int) -> None:
    async with grpc.aio.insecure_channel(target) as channel:
        print(json.dumps(await abort_all(rpc.RuntimeServiceStub(channel), container, count)))


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
