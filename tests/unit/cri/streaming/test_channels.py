"""Exec and attach in the channels of a WebSocket."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from typing import Any, cast

import pytest

from cri.streaming import websocket
from cri.streaming.channels import HELD_LIMIT, MESSAGE_SIZE, V5, ChannelSession
from cri.streaming.session import CommandStreams, CommandTicket, Outcome, Size, StreamReset, Wanted
from cri.streaming.wire import Wire
from tests.unit.cri.streaming.peer import FakeLink, masked, soon

PLAIN = Wanted(stdin=True, stdout=True, stderr=True, tty=False)
TERMINAL = Wanted(stdin=True, stdout=True, stderr=False, tty=True)
V4 = "v4.channel.k8s.io"
Serve = Callable[[CommandStreams], Awaitable[Outcome]]


async def nothing(streams: CommandStreams) -> Outcome:
    return Outcome()


class Peer:
    def __init__(self, wanted: Wanted = PLAIN, protocol: str = V5, serve: Serve = nothing) -> None:
        self.link = FakeLink()
        ticket = CommandTicket("exec", wanted, serve)
        self.session = ChannelSession(cast(Wire, cast(Any, self.link)), ticket, protocol)

    def say(self, *wire: bytes) -> None:
        self.session.receive(memoryview(b"".join(wire)))

    async def serve(self) -> list[bytes]:
        """The messages that the server sent, the last of them its close."""
        await soon(self.session.serve())
        found, sent = [], bytes(self.link.sent)
        while sent:
            size, at = sent[1], 2
            if size == 126:
                size, at = int.from_bytes(sent[2:4], "big"), 4
            found.append(sent[at : at + size] if sent[0] == 0x82 else sent[:1] + sent[at : at + size])
            sent = sent[at + size :]
        return found


async def test_a_command_has_its_channels_and_its_status_comes_last() -> None:
    async def serve(streams: CommandStreams) -> Outcome:
        assert streams.stdin and streams.stdout and streams.stderr
        assert await streams.next_size() is None
        got = b""
        while piece := await streams.stdin.read():
            got += piece
        await streams.stdout.write(got)
        await streams.stderr.write(memoryview(bytearray(b"trouble")))
        await streams.stdout.finish()
        with pytest.raises(StreamReset, match="own half"):
            await streams.stdout.write(b"more")
        assert await streams.stdout.read() == b""
        return Outcome(code=3)

    peer = Peer(serve=serve)
    peer.say(masked(b"\0in"), masked(b"\0", fin=False), masked(b"put", websocket.CONTINUATION), masked(b"\xff\0"))
    first, *said, status, closed = await peer.serve()
    assert first == b"\1" and said == [b"\1input", b"\2trouble"]
    assert status[:1] == b"\3" and json.loads(status[1:])["details"]["causes"][0]["message"] == "3"
    assert closed == b"\x88\x03\xe8" and peer.link.closed


@pytest.mark.parametrize(
    ("wanted", "first"),
    [(PLAIN, b"\1"), (Wanted(True, False, True, False), b"\2"), (Wanted(True, False, False, False), b"\3")],
)
async def test_an_empty_message_says_that_the_session_stands(wanted: Wanted, first: bytes) -> None:
    assert (await Peer(wanted).serve())[0] == first


async def test_a_terminal_has_sizes_and_no_stderr() -> None:
    async def serve(streams: CommandStreams) -> Outcome:
        assert streams.stderr is None
        assert await streams.next_size() == Size(80, 24)
        return Outcome()

    peer = Peer(TERMINAL, serve=serve)
    peer.say(masked(b'\4{"Width":80,"Height":24}'))
    assert json.loads((await peer.serve())[-2][1:])["status"] == "Success"


async def test_long_output_goes_in_messages_that_clients_can_hold() -> None:
    async def serve(streams: CommandStreams) -> Outcome:
        assert streams.stdout
        await streams.stdout.write(b"x" * 100_000)
        return Outcome()

    sent = await Peer(serve=serve).serve()
    assert [len(message) - 1 for message in sent[1:-2]] == [MESSAGE_SIZE] * 3 + [100_000 - 3 * MESSAGE_SIZE]


async def test_delivered_is_what_the_client_takes_of_this_channel_alone() -> None:
    async def serve(streams: CommandStreams) -> Outcome:
        assert streams.stdout and streams.stderr
        await streams.stdout.write(b"x" * 1000)
        peer.link.outstanding = peer.link.count
        assert streams.stdout.delivered() == 0
        peer.link.outstanding = 10
        assert 0 < streams.stdout.delivered() < peer.link.count
        peer.link.outstanding = 0
        before = streams.stdout.delivered()
        peer.say(masked(b"?", websocket.PING))
        await streams.stderr.write(b"more")
        assert streams.stdout.delivered() == before < streams.stderr.delivered() == peer.link.taken()
        return Outcome()

    peer = Peer(serve=serve)
    await peer.serve()


async def test_the_status_does_not_wait_for_a_client_that_reads_nothing() -> None:
    async def serve(streams: CommandStreams) -> Outcome:
        peer.link.has_room.clear()
        return Outcome(error="took no stdout for 5 s")

    peer = Peer(serve=serve)
    assert json.loads((await peer.serve())[-2][1:])["code"] == 500


async def test_only_v5_ends_stdin_by_a_message() -> None:
    for protocol, ended in ((V5, True), (V4, False)):
        peer = Peer(protocol=protocol)
        peer.say(masked(b"\xff\1"), masked(b""), masked(b"\7unknown"))
        assert not peer.session._stdin.over
        peer.say(masked(b"\xff\0"), masked(b"\0late"))
        assert peer.session._stdin.over == ended


async def test_a_client_that_sends_faster_than_we_read_is_held() -> None:
    peer = Peer()
    while not peer.link.paused:
        peer.say(masked(b"\0" + b"x" * 60_000))
    assert HELD_LIMIT <= peer.session._stdin.held < HELD_LIMIT + 60_000
    while peer.session._stdin.held:
        await peer.session._stdin.read()
    assert not peer.link.paused


async def test_a_close_in_good_order_is_the_end_of_stdin() -> None:
    peer = Peer(protocol=V4)
    peer.say(masked(b"\0last"), masked(b"\x03\xe8", websocket.CLOSE))
    assert [await peer.session._stdin.read() for _ in range(2)] == [b"last", b""]
    assert peer.link.closed


@pytest.mark.parametrize("wire", [masked(b"\x03\xe9", websocket.CLOSE), masked(b"text", websocket.TEXT)])
async def test_any_other_end_cuts_stdin_off(wire: bytes) -> None:
    peer = Peer()
    peer.say(wire)
    peer.session.ended("the connection has ended")
    assert peer.link.closed
    with pytest.raises(StreamReset):
        await peer.session._stdin.read()


async def test_a_reset_channel_takes_and_sends_nothing() -> None:
    async def serve(streams: CommandStreams) -> Outcome:
        assert streams.stdin
        streams.stdin.reset()
        for operation in (streams.stdin.read(), streams.stdin.write(b"x")):
            with pytest.raises(StreamReset):
                await operation
        return Outcome()

    peer = Peer(serve=serve)
    peer.say(masked(b"\0unread"))
    await peer.serve()


async def test_pings_are_answered_and_signs_of_life_given() -> None:
    peer = Peer()
    peer.say(masked(b"?", websocket.PING))
    peer.session.knock()
    assert bytes(peer.link.sent) == b"\x8a\x01?\x8a\x00"


async def test_a_client_that_left_needs_no_status() -> None:
    peer = Peer()
    peer.link.gone = "lost"
    await peer.serve()
