"""Clients of exec and attach over real connections, which take as much as a test lets them.

``tests.cri.sessions`` has clients without a wire. Both speak to the streams that a monitor gives.

Invariant: no client reads, or opens a window, but when it is told to.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import AsyncExitStack
from typing import Any

from cri.streaming import spdy_frames as frames
from cri.streaming import websocket
from cri.streaming.server import StreamingServer
from proto import api_pb2 as api
from tests.cri.harness import Crisp
from tests.unit.cri.streaming.peer import Client, data, masked

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"
ERROR, STDOUT, STDIN = 1, 3, 5
"""Streams of a SPDY client, by their numbers."""
CHANNEL_STDOUT, CHANNEL_ERROR = 1, 3


@contextlib.asynccontextmanager
async def listening(crisp: Crisp) -> AsyncIterator[StreamingServer]:
    """A streaming server for ``crisp``, in the place of whatever was there."""
    before = crisp.host.offers
    server = await StreamingServer.start("127.0.0.1:0", 3600, crisp.host.tasks.spawn)
    crisp.host.offers = server
    try:
        yield server
    finally:
        crisp.host.offers = before
        await server.close()


@contextlib.asynccontextmanager
async def meanwhile(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """What goes on until the end, and must not fail before."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        yield
        for task in tasks:
            task.cancel()


class Wired:
    """``taken`` grows with what it has taken of stdout; ``undo`` closes it."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.taken = 0

    @classmethod
    async def connect(cls, crisp: Crisp, id: str, undo: AsyncExitStack, **asked: bool) -> tuple[str, Client]:
        url = str((await crisp.runtime.Attach(api.AttachRequest(container_id=id, stdout=True, **asked))).url)
        client = await Client.connect(url, limit=4096)
        undo.push_async_callback(client.close)
        return url, client

    async def take_all(self) -> None:
        """As fast as it comes, whatever it is."""
        while piece := await self.client.reader.read(1 << 20):
            self.taken += len(piece)


class Spdy(Wired):
    """Has windows, and can type."""

    @classmethod
    async def attach(cls, crisp: Crisp, id: str, undo: AsyncExitStack, window: int) -> Spdy:
        """One that lets ``window`` bytes of each stream come, and any number of the session."""
        url, client = await cls.connect(crisp, id, undo, stdin=True)
        client.request_spdy(url, V4)
        assert (await client.answer())[0] == 101
        client.writer.write(frames.settings({frames.INITIAL_WINDOW_SIZE: window}) + frames.window_update(0, 1 << 30))
        for stream, kind in ((ERROR, "error"), (STDOUT, "stdout"), (STDIN, "stdin")):
            client.open(stream, streamtype=kind)
        return cls(client)

    def type(self, line: bytes) -> None:
        self.client.writer.write(data(STDIN, line))

    async def ping(self) -> None:
        number = 1
        while True:
            self.client.writer.write(frames.ping(number))
            number += 2
            await asyncio.sleep(0.1)

    async def take_little(self) -> None:
        """A byte now and then: its window is opened for no more."""
        while True:
            self.client.writer.write(frames.window_update(STDOUT, 1))
            self.taken += 1
            await asyncio.sleep(0.5)

    async def last_words(self, let_go: Callable[[], Awaitable[None]]) -> bytes:
        """What the error stream says. All that comes is read meanwhile: the answers to pings, for example."""
        said = b""
        while True:
            frame = await self.client.frame()
            if isinstance(frame, frames.Data) and frame.stream == ERROR:
                said += frame.data
                if frame.fin:
                    await let_go()
                    return said


class Socket(Wired):
    """Over WebSocket, whose window is that of TCP."""

    @classmethod
    async def attach(cls, crisp: Crisp, id: str, undo: AsyncExitStack, window: int) -> Socket:
        """One that holds next to nothing which it was not told to read."""
        del window
        url, client = await cls.connect(crisp, id, undo)
        client.request_socket(url, V5)
        assert (await client.answer())[0] == 101
        assert await client.message() == (websocket.BINARY, bytes((CHANNEL_STDOUT,)))
        return cls(client)

    async def ping(self) -> None:
        while True:
            self.client.writer.write(masked(b"", websocket.PING))
            await asyncio.sleep(0.1)

    async def take_little(self) -> None:
        """What TCP calls little: the kernel asks for more once half of its buffer is empty."""
        while piece := await self.client.reader.read(32 * 1024):
            self.taken += len(piece)
            await asyncio.sleep(0.1)

    async def last_words(self, let_go: Callable[[], Awaitable[None]]) -> bytes:
        """What the error channel says; nothing is read before it has been ``let_go``."""
        await let_go()
        said = b""
        while True:
            opcode, payload = await self.client.message()
            if opcode == websocket.CLOSE:
                return said
            if payload[:1] == bytes((CHANNEL_ERROR,)):
                said += payload[1:]
