"""The streaming server: who gets in, and whole sessions over real connections."""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from cri.streaming import server as servers
from cri.streaming import spdy_frames as frames
from cri.streaming import websocket
from cri.streaming.server import StreamingServer, refusal
from cri.streaming.session import (
    CommandStreams,
    CommandTicket,
    Forward,
    ForwardSession,
    ForwardTicket,
    Outcome,
    StreamReset,
    Wanted,
)
from cri.tasks import Tasks
from runtime.errors import FailedPrecondition, HostFault
from tests.unit.cri.streaming.peer import Client, data, masked, until

V4, V5 = "v4.channel.k8s.io", "v5.channel.k8s.io"


async def echo(streams: CommandStreams) -> Outcome:
    assert streams.stdin and streams.stdout
    while piece := await streams.stdin.read():
        await streams.stdout.write(piece)
    return Outcome(code=7)


async def echo_each(session: ForwardSession) -> None:
    async def one(forward: Forward) -> None:
        try:
            while piece := await forward.data.read():
                await forward.data.write(piece)
            await forward.data.finish()
            await forward.error.finish()
        except StreamReset:
            return

    async with asyncio.TaskGroup() as group:
        while forward := await session.accept():
            group.create_task(one(forward))


EXEC = CommandTicket("exec", Wanted(True, True, False, False), echo)
FORWARD = ForwardTicket(frozenset(), echo_each)


@pytest.fixture
async def tasks() -> AsyncIterator[Tasks]:
    tasks = Tasks()
    yield tasks
    await until(lambda: not tasks.names())


@pytest.fixture
async def server(tasks: Tasks) -> AsyncIterator[StreamingServer]:
    started = await StreamingServer.start("127.0.0.1:0", 60, tasks.spawn)
    yield started
    await started.close()
    assert len(started) == 0


async def test_exec_over_spdy_ends_with_its_status(server: StreamingServer) -> None:
    url = server.offer(EXEC)
    assert url.startswith("http://127.0.0.1:") and "/exec/" in url
    client = await Client.connect(url)
    client.request_spdy(url, V5, V4)
    status, headers, _ = await client.answer()
    assert (status, headers["upgrade"], headers["x-stream-protocol-version"]) == (101, "SPDY/3.1", V5)
    for stream, kind in ((1, "error"), (3, "stdin"), (5, "stdout")):
        client.open(stream, streamtype=kind)
    client.writer.write(data(3, b"hello", fin=True))
    assert await client.frame() == frames.Data(5, b"hello", False)
    rest = [await client.frame() for _ in range(5)]
    assert [type(frame) for frame in rest] == [frames.Data] * 4 + [frames.GoAway]
    said = next(frame.data for frame in rest if isinstance(frame, frames.Data) and frame.stream == 1)
    assert json.loads(said)["details"]["causes"][0]["message"] == "7"
    with pytest.raises(EOFError):
        await client.frame()
    await client.close()
    await until(lambda: len(server) == 0)


async def test_frames_that_come_together_with_the_request_are_not_lost(server: StreamingServer) -> None:
    url = server.offer(EXEC)
    client = await Client.connect(url)
    client.request_spdy(url, V4)
    for stream, kind in ((1, "error"), (3, "stdin"), (5, "stdout")):
        client.open(stream, streamtype=kind)
    client.writer.write(data(3, b"x" * 300_000, fin=True))
    assert (await client.answer())[0] == 101
    got = 0
    while got < 300_000:
        frame = await client.frame()
        got += len(frame.data) if isinstance(frame, frames.Data) and frame.stream == 5 else 0
        if isinstance(frame, frames.Ping):
            client.writer.write(frames.ping(frame.id))
    await client.close()


async def test_exec_over_a_websocket_ends_with_its_status(server: StreamingServer) -> None:
    url = server.offer(EXEC)
    client = await Client.connect(url)
    client.request_socket(url, V5)
    assert (await client.answer())[0] == 101
    client.writer.write(masked(b"\0hello") + masked(b"\xff\0"))
    said = [await client.message() for _ in range(4)]
    assert said[:2] == [(websocket.BINARY, b"\1"), (websocket.BINARY, b"\1hello")]
    assert json.loads(said[2][1][1:])["reason"] == "NonZeroExitCode"
    assert said[3] == (websocket.CLOSE, b"\x03\xe8")
    await client.close()


@pytest.mark.parametrize("tunnelled", [False, True])
async def test_a_reset_of_one_forwarded_connection_leaves_the_others(server: StreamingServer, tunnelled: bool) -> None:
    url = server.offer(FORWARD)
    client = await Client.connect(url)
    sent: list[bytes] = []
    if tunnelled:
        client.request_socket(url, "SPDY/3.1+portforward.k8s.io")
    else:
        client.request_spdy(url, "portforward.k8s.io")
    assert (await client.answer())[0] == 101
    for number in range(3):
        for stream, kind in ((4 * number + 1, "error"), (4 * number + 3, "data")):
            block = client.headers.encode({"streamtype": kind, "port": "80", "requestid": str(number)})
            sent.append(frames.syn_stream(stream, block))
    sent += [data(3, b"one"), frames.reset(3, frames.CANCEL), data(7, b"two"), data(11, b"three")]
    for wire in sent:
        client.writer.write(masked(wire) if tunnelled else wire)
    got = b""
    while b"two" not in got or b"three" not in got:
        got += (await client.message())[1] if tunnelled else await client.reader.read(1000)
    goaway = frames.goaway(0, frames.GOAWAY_OK)
    client.writer.write(masked(goaway) if tunnelled else goaway)
    for stream in (7, 11):
        wire = data(stream, b"", fin=True)
        client.writer.write(masked(wire) if tunnelled else wire)
    await client.close()
    await until(lambda: len(server) == 0)


async def test_a_url_is_good_once_and_for_its_own_kind(server: StreamingServer) -> None:
    url = server.offer(EXEC)
    wrong = url.replace("/exec/", "/attach/")
    for target, expected in ((wrong, 404), (url, 101), (url, 404), (url[:-1], 404), (url + "/x", 404)):
        client = await Client.connect(target)
        client.request_spdy(target, V4)
        status, _, text = await client.answer()
        assert status == expected, text
        await client.close()


async def test_a_refused_upgrade_does_not_use_the_url_up(server: StreamingServer) -> None:
    url = server.offer(EXEC)
    client = await Client.connect(url)
    client.request_spdy(url, "v9.channel.k8s.io")
    status, headers, text = await client.answer()
    assert (status, headers["connection"]) == (403, "close") and "v9.channel.k8s.io" in text
    assert await client.reader.read() == b""
    await client.close()
    again = await Client.connect(url)
    again.request_spdy(url, V4)
    assert (await again.answer())[0] == 101
    await again.close()


async def test_what_is_no_http_gets_an_answer_and_the_end(server: StreamingServer) -> None:
    client = await Client.connect(server.offer(EXEC))
    client.writer.write(b"\x16\x03\x01 hello\r\n\r\n")
    assert (await client.answer())[0] == 400
    await client.close()


async def test_a_head_that_does_not_come_is_not_waited_for(
    server: StreamingServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "HEAD_TIMEOUT", 0.02)
    client = await Client.connect(server.offer(EXEC))
    client.writer.write(b"GET /exec")
    assert await client.reader.read() == b""
    await client.close()


async def test_a_client_that_comes_and_goes_leaves_nothing(server: StreamingServer) -> None:
    client = await Client.connect(server.offer(EXEC))
    await client.close()
    await until(lambda: len(server) == 0)


async def test_connections_are_bounded(server: StreamingServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "CONNECTION_LIMIT", 1)
    url = server.offer(EXEC)
    first, second = await Client.connect(url), await Client.connect(url)
    await until(lambda: len(server) == 2)
    second.request_spdy(url, V4)
    assert (await second.answer())[0] == 503
    for client in (first, second):
        await client.close()


async def test_closing_ends_the_sessions_that_are_open(tasks: Tasks) -> None:
    server = await StreamingServer.start("127.0.0.1:0", 60, tasks.spawn)
    url = server.offer(FORWARD)
    client = await Client.connect(url)
    client.request_spdy(url, "portforward.k8s.io")
    await client.answer()
    await server.close()
    with pytest.raises((EOFError, ConnectionError)):
        await client.frame()
    await client.close()


async def test_a_certificate_makes_the_urls_https(tmp_path: Path, tasks: Tasks) -> None:
    if shutil.which("openssl") is None:
        pytest.skip("needs openssl, which makes certificates")
    cert, key = str(tmp_path / "c"), str(tmp_path / "k")
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    subprocess.run([*command, "-subj", "/CN=x", "-keyout", key, "-out", cert], check=True, capture_output=True)
    server = await StreamingServer.start("127.0.0.1:0", 60, tasks.spawn, cert, key)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    url = server.offer(EXEC)
    assert url.startswith("https://127.0.0.1:")
    client = await Client.connect(url, ssl=context)
    client.request_socket(url, V5)
    assert (await client.answer())[0] == 101
    client.writer.write(masked(b"\0" + b"y" * 50_000) + masked(b"\xff\0"))
    got = 0
    while (message := await client.message())[0] != websocket.CLOSE:
        got += len(message[1]) - 1 if message[1][0] == 1 else 0
    assert got == 50_000
    await client.close()
    await server.close()


async def test_an_address_that_is_taken_is_refused_in_clear_words(server: StreamingServer, tasks: Tasks) -> None:
    address = server.offer(EXEC).split("/")[2]
    with pytest.raises(FailedPrecondition, match=f"{address}: cannot be served: EADDRINUSE"):
        await StreamingServer.start(address, 60, tasks.spawn)
    assert isinstance(refusal("127.0.0.1:1", OSError(12, "Cannot allocate memory")), HostFault)


async def test_all_addresses_are_called_by_one_that_can_be_reached(tasks: Tasks) -> None:
    server = await StreamingServer.start("0.0.0.0:0", 60, tasks.spawn)
    assert server.offer(EXEC).startswith("http://127.0.0.1:")
    await server.close()
