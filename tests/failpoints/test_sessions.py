"""A daemon that is killed in the middle of a session or a stream ends that, and nothing of the container."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import aiohttp
import grpc
import pytest

from cri.streaming import spdy_frames as frames
from proto import api_pb2 as api
from tests.failpoints.serving import PATIENCE, Daemon, send_signal, serving, wait_for
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


# ---------------------------------------------------------------------------- streams of the CRI itself


COUNTS = "n=0; while n=$((n+1)); do echo $n; sleep 0.02; done"


def count_in(daemon: Daemon, name: str) -> tuple[str, str]:
    """The ids of a pod and of a container in it that prints numbers."""
    pod = daemon.pod(name)
    sandbox = daemon.run_pod(pod)
    return sandbox, daemon.run(sandbox, pod, "sh", "-c", COUNTS)


def logged(daemon: Daemon, name: str) -> list[int]:
    whole, _, _ = (daemon.folder / f"logs/{name}/main.log").read_text().rpartition("\n")
    return [int(line.split(" ", 3)[3]) for line in whole.splitlines()]


def wait_logged(daemon: Daemon, name: str, count: int) -> None:
    wait_for(lambda: len(logged(daemon, name)) >= count, f"{count} lines of {name}")


def check_went_on(daemon: Daemon, ids: dict[str, str]) -> None:
    """The containers, by the names of their pods, have not noticed that the daemon was killed and is there again."""
    for name, container in ids.items():
        assert daemon.status(container).state == api.CONTAINER_RUNNING
        wait_logged(daemon, name, len(logged(daemon, name)) + 3)
        numbers = logged(daemon, name)
        assert numbers == list(range(1, len(numbers) + 1))
    assert daemon.fsck() == []


def kill_within(stream: Iterator[object], daemon: Daemon) -> None:
    """Whatever it has still, the stream ends as one whose server is gone: while our end of it is open."""
    assert daemon.process is not None
    daemon.process.kill()
    with pytest.raises(grpc.RpcError) as ended:
        for _ in stream:
            continue
    assert ended.value.code() is grpc.StatusCode.UNAVAILABLE
    daemon.reap()


def test_a_subscriber_of_events_sees_its_stream_end_and_misses_nothing_of_the_next_one(daemon: Daemon) -> None:
    stream = daemon.runtime.GetContainerEvents(api.GetEventsRequest(), timeout=PATIENCE)
    stream.initial_metadata()  # from here on it is subscribed
    _, one = count_in(daemon, "one")
    while (event := next(stream)).container_id != one or event.container_event_type != api.CONTAINER_STARTED_EVENT:
        continue
    _, two = count_in(daemon, "two")  # its events are under way
    kill_within(stream, daemon)
    daemon.start()
    check_went_on(daemon, {"one": one, "two": two})
    again = daemon.runtime.GetContainerEvents(api.GetEventsRequest(), timeout=PATIENCE)
    again.initial_metadata()
    daemon.runtime.StopContainer(api.StopContainerRequest(container_id=two))
    event = next(again)
    assert (event.container_id, event.container_event_type) == (two, api.CONTAINER_STOPPED_EVENT)
    again.cancel()


HALTS = """
import asyncio
import cri.rpc.batches as batches
async def write_one_and_halt(context, items, write=batches.write_batches):
    await write(context, items[:1])
    await asyncio.Event().wait()
batches.write_batches = write_one_and_halt
"""
"""The streams of a daemon that has come to its second message."""

STREAMS = {
    "StreamContainerStats": (api.StreamContainerStatsRequest(), "ListContainerStats", api.ListContainerStatsRequest()),
    "StreamPodSandboxMetrics": (
        api.StreamPodSandboxMetricsRequest(),
        "ListPodSandboxMetrics",
        api.ListPodSandboxMetricsRequest(),
    ),
}


@pytest.mark.parametrize("rpc", STREAMS)
def test_statistics_that_are_streamed_end_with_the_daemon_and_are_told_by_the_next(rpc: str) -> None:
    asked, listed, request = STREAMS[rpc]
    with serving(failpoints=None, plant=HALTS) as daemon:
        pods = {name: count_in(daemon, name) for name in ("one", "two")}
        stream = getattr(daemon.runtime, rpc)(asked, timeout=PATIENCE)
        next(stream)
        kill_within(stream, daemon)
        daemon.plant = ""
        daemon.start()
        check_went_on(daemon, {name: container for name, (_, container) in pods.items()})
        told = str(getattr(daemon.runtime, listed)(request))
        items = [str(message) for message in getattr(daemon.runtime, rpc)(asked)]
        for sandbox, container in pods.values():
            id = container if "Container" in rpc else sandbox
            assert id in told and id in "".join(items)


def test_statistics_that_were_asked_for_and_not_told_fail_and_are_told_by_the_next_daemon(daemon: Daemon) -> None:
    _, container = count_in(daemon, "one")
    assert daemon.process is not None
    send_signal(daemon.process.pid, signal.SIGSTOP)
    asked = [
        daemon.runtime.ListContainerStats.future(api.ListContainerStatsRequest(), timeout=PATIENCE),
        daemon.runtime.ListPodSandboxMetrics.future(api.ListPodSandboxMetricsRequest(), timeout=PATIENCE),
    ]
    daemon.process.kill()
    assert {call.code() for call in asked} == {grpc.StatusCode.UNAVAILABLE}
    daemon.reap()
    daemon.start()
    check_went_on(daemon, {"one": container})
    (stats,) = daemon.runtime.ListContainerStats(api.ListContainerStatsRequest()).stats
    assert stats.attributes.id == container and stats.cpu.usage_core_nano_seconds.value > 0
