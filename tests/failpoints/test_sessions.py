"""A daemon that is killed in the middle of a session ends that session, and nothing of the container."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import pytest

from cri.streaming import spdy_frames as frames
from proto import api_pb2 as api
from tests.failpoints.serving import Daemon, serving, wait_for
from tests.unit.cri.streaming.peer import Client, data

PROTOCOL = "v5.channel.k8s.io"
STDIN, STDOUT = b"\x00", b"\x01"
SECONDS = 10


@pytest.fixture
def daemon() -> Iterator[Daemon]:
    with serving(failpoints=None) as made:
        yield made


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with aiohttp.ClientSession() as http, http.ws_connect(url, protocols=[PROTOCOL]) as websocket:
        yield websocket


async def expect(websocket: aiohttp.ClientWebSocketResponse, wanted: bytes) -> None:
    """Read until ``wanted`` is in what stdout has given."""
    seen = b""
    while wanted not in seen:
        message = await websocket.receive(SECONDS)
        assert message.type is aiohttp.WSMsgType.BINARY, (message, seen)
        if message.data[:1] == STDOUT:
            seen += message.data[1:]


async def expect_end(websocket: aiohttp.ClientWebSocketResponse) -> None:
    """Read until the session has ended, which has to be soon."""
    async with asyncio.timeout(SECONDS):
        while (await websocket.receive()).type is aiohttp.WSMsgType.BINARY:
            continue


def executed(daemon: Daemon, container: str, *cmd: str) -> str:
    answer = daemon.runtime.ExecSync(api.ExecSyncRequest(container_id=container, cmd=cmd, timeout=SECONDS))
    assert answer.exit_code == 0, answer
    return str(answer.stdout.decode())


def test_an_exec_ends_with_the_daemon_that_carries_it(daemon: Daemon) -> None:
    pod = daemon.pod()
    sandbox = daemon.run_pod(pod)
    container = daemon.run(sandbox, pod)

    async def kill_in_the_middle() -> None:
        asked = api.ExecRequest(container_id=container, cmd=["sh", "-c", "while echo tick; do sleep 0.05; done"])
        asked.stdout = asked.stderr = True
        async with connected(daemon.runtime.Exec(asked).url) as websocket:
            await expect(websocket, b"tick\ntick\n")
            daemon.kill()
            await expect_end(websocket)

    asyncio.run(kill_in_the_middle())
    daemon.start()
    assert daemon.status(container).state == api.CONTAINER_RUNNING
    # What writes into a pipe that nobody reads any more is ended by that.
    wait_for(lambda: "echo tick" not in executed(daemon, container, "ps"), "the end of the command")
    wait_for(lambda: daemon.fsck() == [], "a clean host")


def test_an_attached_container_goes_on_and_can_be_attached_to_again(daemon: Daemon) -> None:
    pod = daemon.pod()
    sandbox = daemon.run_pod(pod)
    script = 'while read line; do echo "got $line"; done'
    container = daemon.run(sandbox, pod, "sh", "-c", script, stdin=True)

    def attach() -> str:
        asked = api.AttachRequest(container_id=container, stdin=True, stdout=True)
        return str(daemon.runtime.Attach(asked).url)

    async def type_and_kill() -> None:
        async with connected(attach()) as websocket:
            await websocket.send_bytes(STDIN + b"one\n")
            await expect(websocket, b"got one\n")
            daemon.kill()
            await expect_end(websocket)

    async def type_again() -> None:
        async with connected(attach()) as websocket:
            await websocket.send_bytes(STDIN + b"two\n")
            await expect(websocket, b"got two\n")

    asyncio.run(type_and_kill())
    daemon.start()
    assert daemon.status(container).state == api.CONTAINER_RUNNING
    asyncio.run(type_again())
    log = (daemon.folder / f"logs/{pod.config.metadata.name}/main.log").read_text()
    assert [line.split(" ", 3)[3] for line in log.splitlines()] == ["got one", "got two"]


def test_a_forwarded_connection_ends_with_the_daemon_and_the_next_one_reaches_the_container(daemon: Daemon) -> None:
    pod = daemon.pod()
    sandbox = daemon.run_pod(pod)
    container = daemon.run(sandbox, pod, "nc", "-ll", "-p", "8080", "-e", "cat")
    wait_for(lambda: ":1F90 " in executed(daemon, container, "cat", "/proc/net/tcp", "/proc/net/tcp6"), "a listener")

    async def forward(*, kill: bool) -> None:
        url = str(daemon.runtime.PortForward(api.PortForwardRequest(pod_sandbox_id=sandbox, port=[8080])).url)
        client = await Client.connect(url)
        client.request_spdy(url, "portforward.k8s.io")
        assert (await client.answer())[0] == 101
        for stream, kind in ((1, "error"), (3, "data")):
            client.open(stream, streamtype=kind, port="8080", requestid="0")
        for word in (b"one", b"two"):
            client.writer.write(data(3, word))
            assert await client.frame() == frames.Data(3, word, False)
        if kill:
            daemon.kill()
            with pytest.raises((EOFError, ConnectionError)):
                await client.frame()
        await client.close()

    asyncio.run(forward(kill=True))
    daemon.start()
    assert daemon.status(container).state == api.CONTAINER_RUNNING
    asyncio.run(forward(kill=False))
    wait_for(lambda: daemon.fsck() == [], "a clean host")
