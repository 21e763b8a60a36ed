"""SPDY frames: what the specification says, whatever the cuts, and nothing without bounds."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.streaming import spdy_frames as frames
from cri.streaming.spdy_frames import FrameError, FrameReader
from tests.unit.cri.streaming.peer import data, pieces

WHOLE: list[tuple[bytes, frames.Frame]] = [
    (frames.syn_stream(1, b"block"), frames.SynStream(1, False, False, b"block")),
    (frames.syn_stream(3, b"", fin=True), frames.SynStream(3, True, False, b"")),
    (frames.syn_reply(1, b"block"), frames.SynReply(1, False, b"block")),
    (frames.reset(5, frames.CANCEL), frames.Reset(5, 5)),
    (frames.settings({4: 100, 7: 65536}), frames.Settings({4: 100, 7: 65536})),
    (frames.ping(7), frames.Ping(7)),
    (frames.goaway(9, frames.GOAWAY_PROTOCOL_ERROR), frames.GoAway(9, 1)),
    (frames.window_update(1, 1000), frames.WindowUpdate(1, 1000)),
    (frames.control(frames.HEADERS, struct.pack(">I", 1) + b"xy", frames.FIN), frames.Headers(1, True, b"xy")),
    (data(1, b"hello"), frames.Data(1, b"hello", False)),
    (data(1, b"", fin=True), frames.Data(1, b"", True)),
]


@pytest.mark.parametrize(("wire", "frame"), WHOLE)
def test_a_frame_is_read_as_it_was_written(wire: bytes, frame: frames.Frame) -> None:
    assert list(FrameReader().feed(wire)) == [frame]


def join(found: list[frames.Frame]) -> list[frames.Frame]:
    """With the pieces of a data frame put together again."""
    joined: list[frames.Frame] = []
    for frame in found:
        last = joined[-1] if joined else None
        if isinstance(frame, frames.Data) and isinstance(last, frames.Data) and last.stream == frame.stream:
            joined[-1] = frames.Data(frame.stream, last.data + frame.data, frame.fin)
        else:
            joined.append(frame)
    return joined


@pytest.mark.parametrize("size", [1, 2, 3, 7, 8, 9, 100])
def test_it_does_not_matter_how_the_bytes_are_cut(size: int) -> None:
    reader = FrameReader()
    wire = b"".join(wire for wire, _ in WHOLE)
    found: list[frames.Frame] = []
    for piece in pieces(wire, size):
        found += reader.feed(memoryview(piece))
    assert join(found) == join([frame for _, frame in WHOLE])


def test_long_data_are_handed_out_before_the_frame_is_whole() -> None:
    reader = FrameReader()
    assert list(reader.feed(frames.data_header(1, 0xFFFFFF, fin=True) + b"ab")) == [frames.Data(1, b"ab", False)]
    assert list(reader.feed(b"c" * (0xFFFFFF - 2))) == [frames.Data(1, b"c" * (0xFFFFFF - 2), True)]


def test_what_nobody_knows_is_stepped_over() -> None:
    reader = FrameReader()
    unknown = frames.control(10, b"credential")
    assert list(reader.feed(unknown + frames.control(99, b""))) == []
    assert list(reader.feed(unknown[:12])) == []
    assert list(reader.feed(unknown[12:] + frames.ping(1))) == [frames.Ping(1)]


BAD = [
    (struct.pack(">II", 1 << 31 | 2 << 16 | 6, 4), "version 2"),
    (struct.pack(">II", 1 << 31 | 3 << 16 | 1, 0xFFFFFF), "more than 32768"),
    (frames.control(frames.PING, b"123"), "PING of 3 bytes"),
    (frames.control(frames.GOAWAY, b"1234"), "GOAWAY of 4 bytes"),
    (frames.control(frames.RST_STREAM, b"1234"), "RST_STREAM of 4 bytes"),
    (frames.control(frames.WINDOW_UPDATE, b""), "WINDOW_UPDATE of 0 bytes"),
    (frames.control(frames.SYN_STREAM, b"\0\0\0\1\0"), "SYN_STREAM of 5 bytes"),
    (frames.control(frames.SYN_STREAM, b"\0\0\0\0" * 3), "SYN_STREAM for stream 0"),
    (frames.control(frames.SYN_REPLY, b"\0"), "SYN_REPLY without a stream"),
    (frames.control(frames.HEADERS, b"\0\0\0\0"), "HEADERS for stream 0"),
    (frames.control(frames.SETTINGS, b"\xff\xff\xff\xff"), "SETTINGS with 4294967295 entries"),
    (frames.control(frames.SETTINGS, b"\0"), "SETTINGS with -1 entries"),
    (frames.control(frames.SETTINGS, b"\0\0\0\2" + b"x" * 8), "SETTINGS of 12 bytes, not 20"),
    (data(0, b"x"), "stream 0"),
]


@pytest.mark.parametrize(("wire", "words"), BAD)
def test_what_breaks_the_protocol_is_named(wire: bytes, words: str) -> None:
    with pytest.raises(FrameError, match=words):
        list(FrameReader().feed(wire))


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_any_bytes_give_frames_or_an_error(chunks: list[bytes]) -> None:
    reader = FrameReader()
    try:
        total = sum(len(frame.data) for chunk in chunks for frame in reader.feed(chunk) if type(frame) is frames.Data)
    except FrameError:
        return
    assert total <= sum(map(len, chunks))
