"""Exec and attach over SPDY: the command's streams, its end, clients of every version."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest

from cri.streaming import spdy_command
from cri.streaming import spdy_frames as frames
from cri.streaming.session import CommandStreams, CommandTicket, Outcome, Size, Wanted
from cri.streaming.spdy import SpdySession
from cri.streaming.spdy_command import Collector, plan_streams, serve_command
from tests.unit.cri.streaming.peer import ClientHeaders, FakeLink, data, soon

V4 = "v4.channel.k8s.io"
ALL = Wanted(stdin=True, stdout=True, stderr=True, tty=False)
TERMINAL = Wanted(stdin=True, stdout=True, stderr=True, tty=True)


async def nothing(streams: CommandStreams) -> Outcome:
    return Outcome()


def ticket(wanted: Wanted, serve: Callable[[CommandStreams], Awaitable[Outcome]] = nothing) -> CommandTicket:
    return CommandTicket("exec", wanted, serve)


class Peer:
    def __init__(self, wanted: Wanted, protocol: str = V4) -> None:
        self.link = FakeLink()
        self.wanted, self.protocol = wanted, protocol
        self.headers = ClientHeaders()
        self.collector = Collector(plan_streams(ticket(wanted), protocol))
        self.session = SpdySession(self.link, self.collector.admit, self.collector.end)

    def say(self, wire: bytes) -> list[frames.Frame]:
        self.session.receive(memoryview(wire))
        return self.link.frames()

    def open(self, stream: int, kind: str) -> list[frames.Frame]:
        return self.say(frames.syn_stream(stream, self.headers.encode({"streamtype": kind})))

    async def serve(self, serve: Callable[[CommandStreams], Awaitable[Outcome]]) -> None:
        await soon(serve_command(self.link, ticket(self.wanted, serve), self.protocol, self.collector))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wanted", "protocol", "names"),
    [
        (ALL, V4, "error stderr stdin stdout"),
        (TERMINAL, V4, "error resize stdin stdout"),
        (TERMINAL, "v2.channel.k8s.io", "error stdin stdout"),
        (TERMINAL, "channel.k8s.io", "error stdin stdout"),
        (Wanted(False, True, False, False), "v5.channel.k8s.io", "error stdout"),
    ],
)
def test_which_streams_a_command_waits_for(wanted: Wanted, protocol: str, names: str) -> None:
    assert sorted(plan_streams(ticket(wanted), protocol)) == names.split()


async def test_a_command_has_its_streams_and_its_status_comes_last() -> None:
    peer = Peer(ALL)
    for number, kind in enumerate(("error", "stdin", "stdout", "stderr")):
        peer.open(2 * number + 1, kind)
    peer.say(data(3, b"input", fin=True))

    async def serve(streams: CommandStreams) -> Outcome:
        assert streams.stdin and streams.stdout and streams.stderr
        assert await streams.next_size() is None
        await streams.stdout.write(await streams.stdin.read())
        await streams.stderr.write(b"trouble")
        return Outcome(code=3)

    await peer.serve(serve)
    sent = peer.link.frames()
    assert sent[:2] == [frames.Data(5, b"input", False), frames.Data(7, b"trouble", False)]
    status, fins = sent[2], sent[3:]
    assert fins[0] == frames.Data(1, b"", True)
    assert isinstance(status, frames.Data) and json.loads(status.data)["reason"] == "NonZeroExitCode"
    assert {frame.stream for frame in fins if isinstance(frame, frames.Data) and frame.fin} == {1, 3, 5, 7}


async def test_sizes_come_on_their_own_stream() -> None:
    peer = Peer(TERMINAL)
    for number, kind in enumerate(("error", "stdin", "stdout", "resize")):
        peer.open(2 * number + 1, kind)
    peer.say(data(7, b'{"Width":80,"Height":24}'))
    seen: list[Size | None] = []

    async def serve(streams: CommandStreams) -> Outcome:
        assert streams.stderr is None
        seen.append(await streams.next_size())
        return Outcome()

    await peer.serve(serve)
    assert seen == [Size(80, 24)]


async def test_each_kind_of_stream_is_there_once() -> None:
    peer = Peer(ALL)
    peer.open(1, "stdout")
    assert peer.open(3, "stdout") == [frames.Reset(3, frames.REFUSED_STREAM)]
    assert peer.open(5, "sound") == [frames.Reset(5, frames.REFUSED_STREAM)]


async def test_what_the_command_has_no_use_for_is_accepted_and_not_read() -> None:
    peer = Peer(Wanted(False, True, False, False))
    for number, kind in enumerate(("error", "stdin", "stdout")):
        peer.open(2 * number + 1, kind)
    peer.say(data(3, b"x" * 100_000))

    async def serve(streams: CommandStreams) -> Outcome:
        assert streams.stdin is None
        return Outcome()

    await peer.serve(serve)
    assert peer.collector.streams["stdin"].inbound.held == 0


async def test_a_client_that_opens_too_few_streams_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdy_command, "OPEN_TIMEOUT", 0.01)
    peer = Peer(ALL)
    peer.open(1, "error")

    async def serve(streams: CommandStreams) -> Outcome:
        raise AssertionError

    await peer.serve(serve)
    assert peer.link.frames() == []


async def test_a_client_that_leaves_before_its_streams_are_there_is_not_waited_for() -> None:
    peer = Peer(ALL)
    asyncio.get_running_loop().call_later(0.01, peer.session.ended, "gone")
    await peer.serve(nothing)


async def test_a_failure_that_a_client_has_no_window_for_resets_its_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdy_command, "PATIENCE", 0.01)
    peer = Peer(Wanted(False, True, False, False))
    peer.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}) + frames.window_update(0, 1))
    peer.open(1, "error")
    peer.open(3, "stdout")

    async def serve(streams: CommandStreams) -> Outcome:
        return Outcome(error="took no stdout for 5 s")

    await peer.serve(serve)
    assert peer.link.frames() == [frames.Reset(1, frames.CANCEL), frames.Data(3, b"", True)]


async def test_how_a_command_ended_waits_for_the_window(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdy_command, "PATIENCE", 0.01)
    peer = Peer(Wanted(False, True, False, False))
    peer.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}) + frames.window_update(0, 1))
    peer.open(1, "error")
    peer.open(3, "stdout")

    async def serve(streams: CommandStreams) -> Outcome:
        asyncio.get_running_loop().call_later(0.1, peer.session.receive, memoryview(frames.window_update(1, 1000)))
        return Outcome(code=3)

    await peer.serve(serve)
    status, *ends = peer.link.frames()
    assert isinstance(status, frames.Data) and json.loads(status.data)["reason"] == "NonZeroExitCode"
    assert ends == [frames.Data(1, b"", True), frames.Data(3, b"", True)]


async def test_a_client_that_left_needs_no_status() -> None:
    peer = Peer(Wanted(False, True, False, False))
    peer.open(1, "error")
    peer.open(3, "stdout")

    async def serve(streams: CommandStreams) -> Outcome:
        peer.link.gone = "lost"
        peer.session.ended("lost")
        await streams.closed()
        return Outcome(code=1)

    await peer.serve(serve)


async def test_old_clients_get_no_status_for_success() -> None:
    peer = Peer(Wanted(False, True, False, False), "channel.k8s.io")
    peer.open(1, "error")
    peer.open(3, "stdout")
    await peer.serve(nothing)
    assert peer.link.frames() == [frames.Data(1, b"", True), frames.Data(3, b"", True)]
