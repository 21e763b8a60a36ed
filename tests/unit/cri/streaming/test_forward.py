"""Forwarded connections: whole, independent of each other, ended by halves, refused with a reason."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Iterator

import pytest

from cri.streaming import forward as forwarding
from cri.streaming.forward import dial, forward
from cri.streaming.session import StreamReset
from runtime.errors import FailedPrecondition, Unavailable
from tests.unit.cri.streaming.streams import Forwards


async def open_socket(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)


class Session:
    """A session that is served; ``ended`` ends its pod."""

    def __init__(self) -> None:
        self.client = Forwards()
        self.ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.task = asyncio.gather(forward(self.client, open_socket, self.ended))

    async def close(self) -> None:
        self.client.leave()
        await asyncio.wait_for(self.task, 10)


@pytest.fixture
async def session() -> AsyncIterator[Session]:
    made = Session()
    yield made
    await made.close()


@contextlib.asynccontextmanager
async def serving(answer: object, family: int = socket.AF_INET) -> AsyncIterator[int]:
    """A server whose connections are handled by ``answer``; its port."""
    host = "127.0.0.1" if family == socket.AF_INET else "::1"
    server = await asyncio.start_server(answer, host, 0, limit=1 << 22)  # type: ignore[arg-type]
    async with server:
        yield server.sockets[0].getsockname()[1]


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()


@contextlib.contextmanager
def silent_port() -> Iterator[int]:
    """A port on which nobody listens, and nobody else can begin to."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        yield held.getsockname()[1]


async def test_bytes_go_both_ways_and_each_half_ends_by_itself(session: Session) -> None:
    async with serving(echo) as port:
        data, error = session.client.open(port)
        sent = os.urandom(2_000_000)

        async def send() -> None:
            await data.write(sent)
            await data.finish()

        _, seen = await asyncio.gather(send(), data.read_all())
        assert seen == sent
        assert await error.read_all() == b""


async def test_what_a_server_says_after_the_clients_end_is_delivered(session: Session) -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = await reader.read()
        writer.write(b"you said " + seen)
        writer.close()

    async with serving(late) as port:
        data, _ = session.client.open(port)
        await data.write(b"hello")
        await data.finish()
        assert await data.read_all() == b"you said hello"


async def test_what_a_server_said_before_it_stopped_reading_is_delivered(session: Session) -> None:
    said = os.urandom(30_000)  # more than the window, and all of it is with us when the server closes

    async def short(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(10)
        writer.write(said)
        await writer.drain()
        writer.close()

    async with serving(short) as port:
        data, _ = session.client.open(port, window=1000)
        await data.write(b"0123456789")
        seen = bytearray()

        async def talk_on() -> None:
            for _ in range(100):
                await data.write(bytes(1000))
                await asyncio.sleep(0.001)
            await data.finish()

        async def listen() -> None:
            while chunk := await data.read():
                seen.extend(chunk)

        await asyncio.gather(talk_on(), listen(), return_exceptions=True)
        assert seen == said


async def test_a_hundred_connections_at_once_know_nothing_of_each_other(session: Session) -> None:
    async with serving(echo) as port:

        async def one(number: int) -> None:
            data, _ = session.client.open(port)
            sent = bytes([number]) * 50_000
            await data.write(sent)
            await data.finish()
            assert await data.read_all() == sent

        await asyncio.gather(*(one(number) for number in range(100)))


async def test_a_reset_of_one_ends_neither_the_session_nor_the_others(session: Session) -> None:
    async def reset(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(4)
        sock = writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()

    async with serving(reset) as bad, serving(echo) as good:
        lives, _ = session.client.open(good)
        await lives.write(b"before")
        assert await lives.read() == b"before"
        data, error = session.client.open(bad)
        await data.write(b"kick")
        with pytest.raises(StreamReset):
            await data.read()
        assert await error.read_all() == b""  # a word here would end kubectl's whole session
        await lives.write(b"after")
        assert await lives.read() == b"after"
        await lives.finish()


async def test_a_client_that_cuts_a_connection_off_resets_it_at_the_server(session: Session) -> None:
    seen: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
    arrived = asyncio.Event()

    async def watch(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(5)
        arrived.set()
        try:
            await reader.read()
            seen.set_result(None)
        except OSError as error:
            seen.set_result(error)
        writer.close()

    async with serving(watch) as port:
        data, _ = session.client.open(port)
        await data.write(b"hello")
        await arrived.wait()
        data.reset()
        assert isinstance(await seen, ConnectionResetError)


async def test_a_client_that_does_not_read_makes_the_server_wait(session: Session) -> None:
    written = 0

    async def pour(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal written
        with contextlib.suppress(OSError):
            while True:
                writer.write(bytes(100_000))
                await writer.drain()
                written += 100_000
        writer.close()

    async with serving(pour) as port:
        data, _ = session.client.open(port, window=1000)
        before = -1
        while before != written:
            before = written
            await asyncio.sleep(0.1)
        assert written < 50_000_000
        data.reset()


async def test_an_ipv6_server_is_found_when_nobody_listens_on_ipv4(session: Session) -> None:
    try:
        async with serving(echo, socket.AF_INET6) as port:
            data, _ = session.client.open(port)
            await data.write(b"six")
            await data.finish()
            assert await data.read_all() == b"six"
    except OSError:
        pytest.skip("needs IPv6 on the loopback interface")


async def test_nobody_listening_is_said_on_the_error_stream_alone(session: Session) -> None:
    with silent_port() as port:
        data, error = session.client.open(port)
        said = (await error.read_all()).decode()
    assert said.startswith(f"port-forward: nothing answers on port {port} in the pod: 127.0.0.1: connection refused")
    assert "::1: " in said
    assert await data.read_all() == b""
    async with serving(echo) as good:
        lives, _ = session.client.open(good)
        await lives.write(b"goes on")
        assert await lives.read() == b"goes on"
        await lives.finish()


async def test_a_server_that_never_answers_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forwarding, "CONNECT", 0.05)

    async def never(*_: object) -> None:
        await asyncio.sleep(100)

    monkeypatch.setattr(asyncio.get_running_loop(), "sock_connect", never)
    with pytest.raises(Unavailable, match=r"127.0.0.1: no answer in 0.05 s; ::1: no answer"):
        await dial(80, open_socket)


async def test_a_pod_without_its_network_says_so() -> None:
    async def gone(family: int) -> socket.socket:
        raise FailedPrecondition("its network namespace has gone")

    client = Forwards()
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    serving = asyncio.gather(forward(client, gone, ended))
    data, error = client.open(80)
    assert await error.read_all() == b"its network namespace has gone"
    assert await data.read_all() == b""
    client.leave()
    await serving


async def test_the_end_of_the_pod_or_of_the_client_cuts_all_connections_off() -> None:
    for leave in (True, False):
        async with serving(echo) as port:
            session = Session()
            data, _ = session.client.open(port)
            await data.write(b"x")
            assert await data.read() == b"x"
            if leave:
                session.client.leave()
            else:
                session.ended.set_result(None)
            await asyncio.wait_for(session.task, 10)
            with pytest.raises(StreamReset):
                await data.read()


async def test_a_connection_that_is_being_made_ends_with_the_session() -> None:
    began = asyncio.Event()

    async def hang(family: int) -> socket.socket:
        began.set()
        await asyncio.sleep(100)
        raise AssertionError

    client = Forwards()
    ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
    serving = asyncio.gather(forward(client, hang, ended))
    data, _ = client.open(80)
    await began.wait()
    client.leave()
    await asyncio.wait_for(serving, 10)
    with pytest.raises(StreamReset):
        await data.read()
