"""WebSocket frames: masked, cut up anyhow, bounded."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.streaming import websocket
from cri.streaming.websocket import Control, FrameReader, Piece, SocketError
from tests.unit.cri.streaming.peer import masked, noise, pieces


def messages(chunks: list[bytes]) -> list[bytes | Control]:
    """With the pieces of messages put together."""
    reader, found, open_message = FrameReader(), list[bytes | Control](), b""
    for chunk in chunks:
        for frame in reader.feed(memoryview(chunk)):
            if isinstance(frame, Control):
                found.append(frame)
                continue
            open_message += frame.data
            if frame.last:
                found.append(open_message)
                open_message = b""
    return found


@pytest.mark.parametrize("size", [1, 3, 5, 64, 1 << 20])
def test_it_does_not_matter_how_the_bytes_are_cut(size: int) -> None:
    long, longer = noise(300), noise(70_000)
    wire = masked(b"short") + masked(b"", websocket.PING) + masked(long) + masked(longer) + masked(b"")
    wire += masked(b"be", fin=False) + masked(b"hi", websocket.PONG) + masked(b"gin", websocket.CONTINUATION)
    assert messages(pieces(wire, size)) == [
        *(b"short", Control(websocket.PING, b""), long, longer, b""),
        *(Control(websocket.PONG, b"hi"), b"begin"),
    ]


def test_a_long_message_is_handed_out_as_it_arrives() -> None:
    wire = masked(b"abcdefgh", mask=b"wxyz")
    reader = FrameReader()
    assert list(reader.feed(wire[:9])) == [Piece(b"abc", True, False)]
    assert list(reader.feed(wire[9:])) == [Piece(b"defgh", False, True)]


BAD = [
    (b"\x82\x01x", 1002, "without a mask"),
    (b"\xc2\x80", 1002, "reserved bit"),
    (b"\x83\x80", 1002, "opcode 3"),
    (masked(b"x" * 126, websocket.PING), 1002, "longer than 125"),
    (masked(b"", websocket.PING, fin=False), 1002, "cut up"),
    (masked(b"x", websocket.CONTINUATION), 1002, "never began"),
    (masked(b"x", fin=False) + masked(b"y"), 1002, "not finished"),
    (masked(b"text", websocket.TEXT), 1003, "binary"),
    (b"\x82\xff" + struct.pack(">Q", 1 << 62) + b"mask", 1009, "4611686018427387904 bytes"),
]


@pytest.mark.parametrize(("wire", "code", "words"), BAD)
def test_what_breaks_the_protocol_is_named_with_its_code(wire: bytes, code: int, words: str) -> None:
    with pytest.raises(SocketError, match=words) as caught:
        list(FrameReader().feed(wire))
    assert caught.value.code == code


@given(st.binary(max_size=300), st.binary(min_size=4, max_size=4))
def test_the_mask_is_the_one_of_the_specification(payload: bytes, mask: bytes) -> None:
    plain = bytes(byte ^ mask[index % 4] for index, byte in enumerate(payload))
    assert websocket.unmask(payload, mask) == plain


@given(st.lists(st.binary(max_size=100), max_size=20))
def test_any_bytes_give_messages_or_an_error(chunks: list[bytes]) -> None:
    reader = FrameReader()
    try:
        found = [frame for chunk in chunks for frame in reader.feed(chunk)]
    except SocketError:
        return
    assert sum(len(frame.data) for frame in found if isinstance(frame, Piece)) <= sum(map(len, chunks))


def test_heads_have_the_shortest_form() -> None:
    heads = [websocket.frame_head(size) for size in (0, 125, 126, 65535, 65536)]
    assert [len(head) for head in heads] == [2, 2, 4, 4, 10]
    assert heads[2] == b"\x82\x7e\x00\x7e" and heads[4] == b"\x82\x7f" + struct.pack(">Q", 65536)


def test_the_reason_of_a_close_is_bounded() -> None:
    frame = websocket.close_frame(1002, "ä" * 200)
    assert len(frame) <= 2 + 125
    assert websocket.close_code(frame[2:]) == 1002
    assert frame[4:].decode() == "ä" * 61
    assert websocket.close_code(b"") == 1005
