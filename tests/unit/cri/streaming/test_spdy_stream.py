"""One stream: its two halves, and who may end what."""

from __future__ import annotations

import asyncio

import pytest

from cri.streaming import spdy_frames as frames
from cri.streaming.session import StreamReset
from cri.streaming.spdy import SpdySession
from cri.streaming.spdy_stream import SpdyStream
from tests.unit.cri.streaming.peer import ClientHeaders, FakeLink, data


def opened(*, one_way: bool = False) -> tuple[SpdySession, FakeLink, SpdyStream]:
    link = FakeLink()
    streams: list[SpdyStream] = []

    def admit(stream: SpdyStream) -> bool:
        streams.append(stream)
        return True

    session = SpdySession(link, admit, lambda: None)
    block = ClientHeaders().encode({"streamtype": "data\0other"})
    syn = frames.syn_stream(1, block)
    if one_way:
        syn = syn[:4] + bytes((frames.UNIDIRECTIONAL,)) + syn[5:]
    session.receive(memoryview(syn))
    link.frames()
    return session, link, streams[0]


async def test_both_halves_end_by_themselves() -> None:
    session, link, stream = opened()
    session.receive(memoryview(data(1, b"in", fin=True)))
    assert await stream.read() == b"in" and await stream.read() == b""
    await stream.write(b"out")
    await stream.finish()
    await stream.finish()
    assert link.frames() == [frames.Data(1, b"out", False), frames.Data(1, b"", True)]
    with pytest.raises(StreamReset, match="own half"):
        await stream.write(b"more")
    stream.reset()
    assert link.frames() == []  # both were over: nothing to tell


async def test_a_reset_is_told_once_and_nothing_is_sent_after_it() -> None:
    session, link, stream = opened()
    session.receive(memoryview(data(1, b"unread")))
    stream.reset()
    stream.reset()
    await stream.finish()
    assert link.frames() == [frames.Reset(1, frames.CANCEL)]
    for operation in (stream.read(), stream.write(b"x")):
        with pytest.raises(StreamReset, match="by the server"):
            await operation
    session.receive(memoryview(data(1, b"late")))
    assert link.frames() == []


async def test_a_reset_by_the_client_leaves_what_came_before() -> None:
    session, _, stream = opened()
    session.receive(memoryview(data(1, b"before") + frames.reset(1, frames.CANCEL)))
    assert await stream.read() == b"before"
    for operation in (stream.read(), stream.write(b"x")):
        with pytest.raises(StreamReset, match="the client has reset"):
            await operation


async def test_what_is_written_does_not_change_with_the_buffer_it_came_from() -> None:
    _, link, stream = opened()
    parts: list[bytes | memoryview] = []
    link.send = lambda *more: parts.extend(more)  # type: ignore[method-assign]
    buffer = bytearray(b"first")
    await stream.write(memoryview(buffer))
    buffer[:] = b"later"
    assert bytes(parts[1]) == b"first"


async def test_a_stream_of_one_direction_cannot_be_written() -> None:
    _, _, stream = opened(one_way=True)
    with pytest.raises(StreamReset):
        await stream.write(b"x")


async def test_of_several_values_the_first_counts() -> None:
    _, _, stream = opened()
    assert stream.header("streamtype") == "data" and stream.header("port") == ""


async def test_what_is_ignored_is_not_held() -> None:
    session, link, stream = opened()
    session.receive(memoryview(data(1, b"before")))
    stream.ignore()
    session.receive(memoryview(data(1, b"x" * 200_000, fin=True)))
    assert stream.inbound.held == 0
    assert await stream.read() == b""
    assert frames.WindowUpdate(1, 200_006) in link.frames()


async def test_delivered_is_what_a_window_lets_go_and_the_client_takes_of_this_stream_alone() -> None:
    session, link, stream = opened()
    session.receive(memoryview(frames.settings({frames.INITIAL_WINDOW_SIZE: 10}) + frames.window_update(0, 1)))
    assert stream.delivered() == 0
    writing = asyncio.get_running_loop().create_task(stream.write(b"x" * 15))
    await asyncio.sleep(0)
    link.outstanding = link.count
    assert stream.delivered() == 0  # it is on its way
    link.outstanding = 3
    some = stream.delivered()
    link.outstanding = 0
    first = stream.delivered()
    assert 0 < some < first
    for id in (1, 3, 5):  # the window is shut: that the client takes other things moves nothing
        session.receive(memoryview(frames.ping(id)))
    assert link.taken() > first == stream.delivered()
    session.receive(memoryview(frames.window_update(1, 1)))
    await asyncio.sleep(0)
    assert stream.delivered() > first and not writing.done()
    session.receive(memoryview(frames.window_update(1, 4)))
    await writing


async def test_what_is_small_waits_for_a_window_and_not_for_a_client_that_reads_nothing() -> None:
    session, link, stream = opened()
    link.has_room.clear()
    waiting = asyncio.get_running_loop().create_task(stream.write(b"long"))
    await asyncio.sleep(0)
    await stream.write(b"short", small=True)
    assert link.frames() == [frames.Data(1, b"short", False)] and not waiting.done()
    session.receive(memoryview(frames.settings({frames.INITIAL_WINDOW_SIZE: 0})))
    small = asyncio.get_running_loop().create_task(stream.write(b"x", small=True))
    await asyncio.sleep(0)
    assert not small.done()
    stream.reset()
    for task in (small, waiting):
        link.has_room.set()
        with pytest.raises(StreamReset):
            await task
