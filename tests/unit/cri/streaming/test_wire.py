"""One connection: bounded both ways, and its end loses nothing."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable

import pytest

from cri.streaming import wire as wires
from cri.streaming.session import StreamReset
from cri.streaming.wire import BUFFER_SIZE, HIGH_WATER, Wire
from tests.unit.cri.streaming.peer import soon, until


class Receiver:
    def __init__(self) -> None:
        self.got = bytearray()
        self.ends: list[str] = []
        self.knocked = 0
        self.on_knock: Callable[[], None] = lambda: None

    def receive(self, data: memoryview) -> None:
        self.got += data

    def ended(self, why: str) -> None:
        self.ends.append(why)

    def knock(self) -> None:
        self.knocked += 1
        self.on_knock()


@contextlib.asynccontextmanager
async def connected(idle: float = 60) -> AsyncIterator[tuple[Wire, Receiver, socket.socket]]:
    """A wire with its receiver, and the client's socket, which reads only when told."""
    loop = asyncio.get_running_loop()
    accepted: asyncio.Queue[Wire] = asyncio.Queue()
    buffer = memoryview(bytearray(BUFFER_SIZE))
    server = await loop.create_server(lambda: Wire(buffer, accepted.put_nowait, idle), "127.0.0.1", 0)
    client = socket.socket()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 128 * 1024)
    client.setblocking(False)
    await loop.sock_connect(client, server.sockets[0].getsockname())
    wire, receiver = await accepted.get(), Receiver()
    wire.hand_to(receiver)
    try:
        yield wire, receiver, client
    finally:
        client.close()
        wire.abort()
        await soon(wire.wait_closed())
        server.close()
        await server.wait_closed()


async def read(client: socket.socket, size: int = 1 << 20) -> bytes:
    got: bytes = await soon(asyncio.get_running_loop().sock_recv(client, size))
    return got


async def read_all(client: socket.socket) -> bytes:
    got = b""
    while piece := await read(client):
        got += piece
    return got


async def fill(wire: Wire) -> int:
    """Send until there is no room and the kernel takes no more; how much it was."""
    sent, taken = 0, -1
    while taken != wire.taken():
        taken = wire.taken()
        with contextlib.suppress(TimeoutError):
            while True:
                async with wire.turn():
                    await asyncio.wait_for(wire.room(), 0.05)
                    wire.send(b"", b"x" * 65536)
                    sent += 65536
    return sent


async def test_bytes_go_both_ways_and_early_ones_come_first() -> None:
    async with connected() as (wire, receiver, client):
        wire.hand_to(receiver, b"early ")
        client.send(b"late")
        await until(lambda: bytes(receiver.got) == b"early late")
        wire.send(b"an", memoryview(b"swer"))
        assert await read(client) == b"answer"
        await until(lambda: wire.taken() == 6)


async def test_no_more_than_the_high_water_waits_for_a_slow_client() -> None:
    async with connected() as (wire, _, client):
        sent = await fill(wire)
        assert wire._transport.get_write_buffer_size() <= HIGH_WATER + 65536
        assert 0 < wire.taken() < sent
        before = wire.taken()
        got = 0
        while got < sent:
            got += len(await read(client))
        await until(lambda: wire.taken() == sent > before)
        await soon(wire.room())


async def test_everything_that_was_sent_reaches_a_client_that_takes_its_time() -> None:
    async with connected() as (wire, receiver, client):
        sent = await fill(wire)
        wire.close()
        wire.close()
        assert receiver.ends == ["the session has ended"]
        wire.send(b"never")
        with pytest.raises(StreamReset):
            await wire.room()
        client.send(b"still talking")
        await asyncio.sleep(0.05)
        assert len(await read_all(client)) == sent
        client.close()
        await soon(wire.wait_closed())
        await soon(wire.wait_gone())


async def test_a_client_that_does_not_close_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "LINGER", 0.05)
    monkeypatch.setattr(wires, "TICK", 0.01)
    async with connected() as (wire, _, client):
        wire.send(b"bye")
        wire.close()
        await soon(wire.wait_closed())
        assert await read_all(client) == b"bye"


async def test_the_clients_end_is_told_once() -> None:
    async with connected() as (wire, receiver, client):
        client.close()
        await soon(wire.wait_closed())
        assert receiver.ends == ["the client has closed the connection"]
        wire.pause()
        wire.resume()
        wire.close()


async def test_a_lost_connection_is_told() -> None:
    async with connected() as (wire, receiver, client):
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
        await soon(wire.wait_closed())
        assert "lost" in receiver.ends[0] and wire.gone


async def test_who_makes_us_answer_and_reads_nothing_is_cut_off() -> None:
    async with connected() as (wire, receiver, _):
        while not wire.gone:
            wire.send(b"x" * 65536)
        assert receiver.ends == ["the client makes us answer and reads nothing"]
        await soon(wire.wait_closed())


async def test_while_nothing_is_read_the_client_gets_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "KNOCK", 0.01)
    async with connected() as (wire, receiver, client):
        wire.pause()
        client.send(b"waits")
        await until(lambda: receiver.knocked >= 2)
        assert not receiver.got
        wire.resume()
        await until(lambda: bytes(receiver.got) == b"waits")


async def test_the_death_of_a_client_shows_by_the_signs_of_life(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wires, "KNOCK", 0.01)
    async with connected() as (wire, receiver, client):
        receiver.on_knock = lambda: wire.send(b"!")
        wire.pause()
        client.close()
        await soon(wire.wait_closed())
        assert receiver.ends


async def test_a_connection_on_which_nothing_moves_is_cut_off() -> None:
    async with connected(idle=60) as (wire, receiver, client):
        for _ in range(3):
            wire._active -= 100
            receiver.got.clear()
            client.send(b".")
            await until(lambda: receiver.got)
            wire._check_idle()
            assert not receiver.ends
        wire._active -= 100
        wire._check_idle()
        await soon(wire.wait_closed())
        assert receiver.ends == ["nothing moved for 60 s"]


async def test_it_is_looked_at_as_often_as_it_may_idle() -> None:
    async with connected(idle=0.05) as (wire, receiver, _):
        await soon(wire.wait_closed())
        assert receiver.ends == ["nothing moved for 0.05 s"]


async def test_a_slow_client_that_takes_bytes_is_not_idle() -> None:
    async with connected(idle=60) as (wire, receiver, client):
        await fill(wire)
        for _ in range(5):
            wire._active -= 100  # the last bytes of ours are long ago
            before = wire.taken()
            while wire.taken() == before:
                assert await read(client, 100_000)
            wire._check_idle()
            assert not receiver.ends
        while not receiver.ends:  # what is on its way arrives first
            wire._active -= 100
            wire._check_idle()
            await asyncio.sleep(0.001)
        assert receiver.ends == ["nothing moved for 60 s"]


async def test_after_the_end_a_client_that_talks_and_takes_nothing_is_cut_off() -> None:
    async with connected(idle=0.3) as (wire, _, client):
        await fill(wire)
        wire.close()
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(10):
                while True:
                    client.send(b"?")
                    await asyncio.sleep(0.01)
        await soon(wire.wait_closed())


async def test_after_the_end_a_client_that_has_everything_may_finish_its_words() -> None:
    def pass_time() -> None:
        wire._active -= 2 * wires.LINGER
        wire._heard -= 2 * wires.LINGER

    async with connected() as (wire, _, client):
        wire.send(b"bye")
        wire.close()
        assert await read_all(client) == b"bye"
        for _ in range(3):
            pass_time()
            client.send(b"still talking")
            await until(lambda: wire._heard > asyncio.get_running_loop().time() - wires.LINGER)
            wire._linger()
            assert not wire._transport.is_closing()
        pass_time()
        wire._linger()
        await soon(wire.wait_closed())
