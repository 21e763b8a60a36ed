"""The wire, in memory: streams with a window, a client's end of a command and of a port-forward."""

from __future__ import annotations

import asyncio

from cri.streaming.session import CommandStreams, Forward, Size, StreamReset

WINDOW = 64 * 1024


class Half:
    """One direction: bytes up to a window, then an end or a cut."""

    def __init__(self, window: int) -> None:
        self.window = window
        self.held = bytearray()
        self.passed = 0
        self.ended = self.cut = False
        self._changed = asyncio.Event()

    def change(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    async def put(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        while view:
            if self.cut or self.ended:
                raise StreamReset("cut off")
            room = max(0, self.window - len(self.held))
            self.held += view[:room]
            self.passed += len(view[:room])
            view = view[room:]
            self.change()
            if view:
                await self._changed.wait()

    async def get(self, limit: int = 1 << 30) -> bytes:
        while not self.cut and not self.held and not self.ended:
            await self._changed.wait()
        if self.cut:
            raise StreamReset("cut off")
        data = bytes(self.held[:limit])
        del self.held[:limit]
        self.change()
        return data


class Pipe:
    """One end of a stream; ``peer`` is the other."""

    peer: Pipe

    def __init__(self, incoming: Half, outgoing: Half) -> None:
        self.incoming, self.outgoing = incoming, outgoing

    async def read(self) -> bytes:
        return await self.incoming.get()

    async def write(self, data: bytes | memoryview) -> None:
        await self.outgoing.put(data)

    async def finish(self) -> None:
        self.outgoing.ended = True
        self.outgoing.change()

    def reset(self) -> None:
        for half in (self.incoming, self.outgoing):
            half.cut = True
            half.held.clear()
            half.change()

    def delivered(self) -> int:
        return self.outgoing.passed

    async def read_all(self) -> bytes:
        """To the end."""
        seen = bytearray()
        while data := await self.read():
            seen += data
        return bytes(seen)


def stream(window: int = WINDOW) -> Pipe:
    """The server's end; the client's is its ``peer``."""
    one, other = Half(window), Half(window)
    server, client = Pipe(one, other), Pipe(other, one)
    server.peer, client.peer = client, server
    return server


class Client:
    """What a client of an exec or attach has; ``streams`` is what the server gets."""

    def __init__(self, *, stdin: bool = False, stdout: bool = True, stderr: bool = False, window: int = WINDOW) -> None:
        made = [stream(window) if wanted else None for wanted in (stdin, stdout, stderr)]
        self.sizes: asyncio.Queue[Size | None] = asyncio.Queue()
        self.gone = asyncio.Event()
        self._ends = [each.peer if each else None for each in made]

        async def closed() -> None:
            await self.gone.wait()

        self.streams = CommandStreams(made[0], made[1], made[2], self.sizes.get, closed)

    @property
    def stdin(self) -> Pipe:
        return self._end(0)

    @property
    def stdout(self) -> Pipe:
        return self._end(1)

    @property
    def stderr(self) -> Pipe:
        return self._end(2)

    def leave(self) -> None:
        """The connection ends."""
        for end in self._ends:
            if end is not None:
                end.reset()
        self.gone.set()

    def _end(self, number: int) -> Pipe:
        found = self._ends[number]
        assert found is not None
        return found


class Forwards:
    """A client's port-forward session; the server accepts what ``open`` makes."""

    def __init__(self) -> None:
        self._wanted: asyncio.Queue[Forward | None] = asyncio.Queue()

    async def accept(self) -> Forward | None:
        return await self._wanted.get()

    def open(self, port: int, window: int = WINDOW) -> tuple[Pipe, Pipe]:
        """The client's ends of ``data`` and ``error``."""
        data, error = stream(window), stream(window)
        self._wanted.put_nowait(Forward(port, data, error))
        return data.peer, error.peer

    def leave(self) -> None:
        self._wanted.put_nowait(None)
