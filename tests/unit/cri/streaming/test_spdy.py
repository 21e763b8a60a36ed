"""A session: streams, windows, pings, and every way in which it can end."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.streaming import spdy
from cri.streaming import spdy_frames as frames
from cri.streaming.session import StreamReset
from cri.streaming.spdy import HELD_LIMIT, STREAM_LIMIT, STREAM_WINDOW, SpdySession
from cri.streaming.spdy_stream import SpdyStream
from cri.streaming.spdy_windows import DEFAULT_WINDOW
from tests.unit.cri.streaming.peer import ClientHeaders, FakeLink, data, soon, until


class Peer:
    """A client with its session."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.link = FakeLink()
        self.streams: list[SpdyStream] = []
        self.headers = ClientHeaders()
        self.overs = 0
        self.wanted = wanted
        self.session = SpdySession(self.link, self.admit, self.over)

    def admit(self, stream: SpdyStream) -> bool:
        self.streams.append(stream)
        return self.wanted

    def over(self) -> None:
        self.overs += 1

    def say(self, *wire: bytes) -> list[frames.Frame]:
        self.session.receive(memoryview(b"".join(wire)))
        return self.link.frames()

    def open(self, stream: int, **headers: str) -> list[frames.Frame]:
        return self.say(frames.syn_stream(stream, self.headers.encode(headers)))


async def test_the_session_begins_with_what_it_allows() -> None:
    peer = Peer()
    peer.session.start()
    assert peer.link.frames() == [
        frames.Settings({frames.MAX_CONCURRENT_STREAMS: STREAM_LIMIT, frames.INITIAL_WINDOW_SIZE: STREAM_WINDOW}),
        frames.WindowUpdate(0, HELD_LIMIT - DEFAULT_WINDOW),
    ]


async def test_a_stream_is_answered_and_carries_bytes_both_ways() -> None:
    peer = Peer()
    (reply,) = peer.open(1, streamtype="stdin")
    assert isinstance(reply, frames.SynReply) and peer.headers.decoder.decode(reply.block) == spdy.REPLY
    assert peer.streams[0].header("streamtype") == "stdin"
    peer.say(data(1, b"in"))
    assert await peer.streams[0].read() == b"in"
    await peer.streams[0].write(b"x" * 50_000)
    assert peer.link.frames() == [frames.Data(1, b"x" * 50_000, False)]


async def test_a_stream_that_nobody_wants_is_refused() -> None:
    peer = Peer(wanted=False)
    assert peer.open(1) == [frames.Reset(1, frames.REFUSED_STREAM)]
    with pytest.raises(StreamReset, match="refused"):
        await peer.streams[0].read()


async def test_headers_that_are_none_cost_their_stream_alone() -> None:
    peer = Peer()
    assert peer.open(1, Port="80") == [frames.Reset(1, frames.PROTOCOL_ERROR)]
    assert len(peer.open(3)) == 1 and not peer.link.closed


async def test_no_more_streams_than_allowed_are_open_at_once() -> None:
    peer = Peer()
    for number in range(STREAM_LIMIT):
        peer.open(2 * number + 1)
    last = 2 * STREAM_LIMIT + 1
    assert peer.open(last) == [frames.Reset(last, frames.REFUSED_STREAM)]
    peer.say(frames.reset(1, frames.CANCEL))
    assert isinstance(peer.open(last + 2)[0], frames.SynReply)


async def test_a_window_is_opened_again_by_half() -> None:
    peer = Peer()
    peer.open(1)
    peer.say(data(1, b"x" * (STREAM_WINDOW // 2)))
    await peer.streams[0].read()
    assert peer.link.frames() == [frames.WindowUpdate(1, STREAM_WINDOW // 2)]
    total = STREAM_WINDOW // 2
    while total < HELD_LIMIT // 4:
        peer.say(data(1, b"x" * 100_000))
        total += len(await peer.streams[0].read())
    assert [frame for frame in peer.link.frames() if frame == frames.WindowUpdate(0, total)]


async def test_a_client_that_keeps_to_no_window_is_held_by_tcp() -> None:
    peer = Peer()
    peer.open(1)
    for _ in range(HELD_LIMIT // 65536):
        assert not peer.link.paused
        peer.say(data(1, b"x" * 65536))
    assert peer.link.paused
    while peer.streams[0].inbound.held > HELD_LIMIT // 2:
        assert peer.link.paused
        await peer.streams[0].read()
    assert not peer.link.paused


async def test_a_client_that_keeps_to_no_window_is_sent_everything() -> None:
    peer = Peer()
    peer.open(1)

    async def answer() -> None:
        await until(lambda: b"\x80\x03\x00\x06" in peer.link.sent)
        peer.session.receive(memoryview(frames.ping(2)))

    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        group.create_task(answer())
        await peer.streams[0].write(b"x" * 1_000_000)
    sent = [frame for frame in peer.link.frames() if isinstance(frame, frames.Data)]
    assert sum(len(frame.data) for frame in sent) == 1_000_000
    assert max(len(frame.data) for frame in sent) <= spdy.FRAME_SIZE


async def test_a_client_that_counts_gets_no_byte_too_many() -> None:
    peer = Peer()
    peer.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 1000}), frames.window_update(0, 1 << 20))
    peer.open(1)
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        writing = group.create_task(peer.streams[0].write(b"x" * 2500))
        for allowed in (1000, 500, 1000):
            await until(lambda: len(peer.link.sent) > 0)
            await asyncio.sleep(0.01)
            assert sum(len(frame.data) for frame in peer.link.frames() if isinstance(frame, frames.Data)) == allowed
            peer.say(frames.window_update(1, 500 if allowed == 1000 else 1000))
        await writing


async def test_settings_change_the_windows_of_open_streams() -> None:
    peer = Peer()
    peer.open(1)
    peer.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}))
    assert peer.streams[0].window.left == 10
    peer.say(frames.settings({frames.MAX_CONCURRENT_STREAMS: 1}))
    assert peer.streams[0].window.left == 10


async def test_a_full_connection_makes_writers_wait_in_order() -> None:
    peer = Peer()
    for number in (1, 3):
        peer.open(number)
    peer.link.has_room.clear()
    async with asyncio.timeout(10), asyncio.TaskGroup() as group:
        for stream in peer.streams:
            group.create_task(stream.write(b"x"))
        await asyncio.sleep(0.01)
        assert not peer.link.sent
        peer.link.has_room.set()
    assert peer.link.frames() == [frames.Data(1, b"x", False), frames.Data(3, b"x", False)]


async def test_a_writer_is_told_that_its_stream_was_reset_while_it_waited() -> None:
    peer = Peer()
    peer.say(frames.settings({frames.INITIAL_WINDOW_SIZE: 0}))
    peer.open(1)
    asyncio.get_running_loop().call_later(0.01, peer.say, frames.reset(1, frames.CANCEL))
    with pytest.raises(StreamReset, match="the client has reset"):
        await soon(peer.streams[0].write(b"x"))


async def test_pings_are_answered_and_own_ones_have_even_numbers() -> None:
    peer = Peer()
    assert peer.say(frames.ping(5)) == [frames.Ping(5)]
    assert peer.say(frames.ping(4)) == []
    peer.session.knock()
    assert peer.link.frames() == [frames.Ping(2)]


async def test_headers_in_the_middle_are_read_for_the_sake_of_the_next() -> None:
    peer = Peer()
    peer.open(1)
    for kind, flags in ((frames.HEADERS, 0), (frames.SYN_REPLY, 0), (frames.HEADERS, frames.FIN)):
        block = peer.headers.encode({"more": "x"})
        assert peer.say(frames.control(kind, b"\0\0\0\1" + block, flags)) == []
    assert await peer.streams[0].read() == b""
    assert peer.say(frames.control(frames.HEADERS, b"\0\0\0\1" + peer.headers.encode({"X": ""}))) == [
        frames.Reset(1, frames.PROTOCOL_ERROR)
    ]
    peer.say(frames.syn_stream(3, peer.headers.encode({"streamtype": "data"}), fin=True))
    assert peer.streams[1].header("streamtype") == "data" and await peer.streams[1].read() == b""


async def test_goaway_ends_the_coming_of_streams_and_leaves_those_that_are() -> None:
    peer = Peer()
    peer.open(1)
    peer.say(frames.goaway(0, frames.GOAWAY_OK), frames.goaway(0, frames.GOAWAY_OK))
    assert peer.overs == 1
    assert peer.open(3) == [frames.Reset(3, frames.REFUSED_STREAM)]
    await peer.streams[0].write(b"still here")
    assert peer.link.frames() == [frames.Data(1, b"still here", False)]


async def test_the_end_of_the_connection_cuts_all_streams_off_and_keeps_what_came() -> None:
    peer = Peer()
    peer.open(1)
    peer.say(data(1, b"last"))
    peer.session.ended("lost")
    assert await peer.streams[0].read() == b"last"
    for operation in (peer.streams[0].read(), peer.streams[0].write(b"x")):
        with pytest.raises(StreamReset, match="lost"):
            await operation
    assert peer.overs == 1


async def test_closing_says_goaway_once() -> None:
    peer = Peer()
    peer.open(1)
    peer.session.close()
    peer.session.close()
    assert peer.link.frames() == [frames.GoAway(1, frames.GOAWAY_OK)] and peer.link.closed


async def test_bytes_after_the_end_of_a_half_reset_the_stream() -> None:
    peer = Peer()
    peer.open(1)
    assert peer.say(data(1, b"", fin=True), data(1, b"more")) == [frames.Reset(1, frames.STREAM_ALREADY_CLOSED)]
    assert peer.say(data(1, b"and more")) == []
    peer.say(frames.window_update(1, 5), frames.reset(1, 1))


BAD = [
    frames.syn_stream(2, b""),
    frames.syn_stream(1, b"no block"),
    data(1, b"never opened"),
    data(2, b"ours"),
    frames.control(frames.PING, b""),
]


@pytest.mark.parametrize("wire", BAD)
async def test_what_breaks_the_protocol_ends_the_session(wire: bytes) -> None:
    peer = Peer()
    assert peer.say(wire)[-1] == frames.GoAway(peer.session._last, frames.GOAWAY_PROTOCOL_ERROR)
    assert peer.link.closed and peer.overs == 1


async def test_two_streams_may_come_in_the_wrong_order() -> None:
    peer = Peer()
    for number in (3, 1, 5, 1001, 999):
        assert isinstance(peer.open(number)[0], frames.SynReply)
    assert len(peer.session._left_out) == spdy.LEFT_OUT_LIMIT - 1


@pytest.mark.parametrize("again", [3, 5, 101])
async def test_a_stream_number_is_used_once_and_not_long_after_its_turn(again: int) -> None:
    peer = Peer()
    for number in (3, 101):
        peer.open(number)
    assert isinstance(peer.open(again)[0], frames.GoAway)


async def test_a_flood_of_resets_ends_the_session() -> None:
    """CVE-2023-44487, of HTTP/2, as SPDY has it."""
    peer = Peer()
    peer.open(1)
    assert isinstance(peer.say(frames.reset(1, frames.CANCEL) * 100_000)[-1], frames.GoAway)
    assert peer.link.closed


@given(st.lists(st.binary(max_size=60), max_size=10), st.booleans())
async def test_no_bytes_do_harm(chunks: list[bytes], opened: bool) -> None:
    peer = Peer()
    if opened:
        peer.open(1)
    for chunk in chunks:
        peer.say(frames.control(chunk[0] % 10, chunk[1:]) if chunk and opened else chunk)
        if peer.link.closed:
            return
    peer.session.ended("over")
