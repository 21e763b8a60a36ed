"""WebSocket frames (RFC 6455, section 5) as a server reads and writes them.

``cri.streaming.channels`` and ``tunnel`` give the messages their meaning. No I/O here.

Invariant: whatever bytes come in, cut up in whatever way, either pieces go out or
``SocketError`` is raised; a control frame is held up to 125 bytes, a message not at all:
its pieces go out as they arrive.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG = 0x0, 0x1, 0x2, 0x8, 0x9, 0xA
NORMAL, GOING_AWAY, PROTOCOL_ERROR, UNSUPPORTED, TOO_BIG, INTERNAL_ERROR = 1000, 1001, 1002, 1003, 1009, 1011
CONTROL_LIMIT = 125
FRAME_LIMIT = 1 << 32
"""Bytes of one data frame; nothing of it is kept."""
REASON_LIMIT = 123

_FIN, _MASKED = 0x80, 0x80
_LENGTH16, _LENGTH64 = 126, 127
_HEAD_MAX = 14
_U16, _U64 = struct.Struct(">H"), struct.Struct(">Q")


class SocketError(ValueError):
    """The peer breaks the protocol; ``code`` is what the close frame says."""

    def __init__(self, message: str, code: int = PROTOCOL_ERROR) -> None:
        super().__init__(message)
        self.code = code


class Piece(msgspec.Struct, frozen=True, gc=False):
    """Some bytes of a binary message: ``first`` begins one, ``last`` ends it."""

    data: bytes
    first: bool
    last: bool


class Control(msgspec.Struct, frozen=True, gc=False):
    """CLOSE, PING or PONG."""

    opcode: int
    payload: bytes


class FrameReader:
    """Cuts what arrives into pieces of messages and control frames."""

    def __init__(self) -> None:
        self._rest = b""
        """The beginning of a head or of a control frame."""
        self._mask = b""
        self._missing = 0
        """Bytes of a data frame that have not arrived yet."""
        self._final = False
        """The frame that is being read ends its message."""
        self._inside = False
        """A message has begun whose last frame has not."""
        self._first = False

    def feed(self, data: bytes | memoryview) -> Iterator[Piece | Control]:
        """What ends in ``data``; nothing of it is kept by reference.

        Raises:
            SocketError: of no more use.
        """
        view = memoryview(self._rest + bytes(data) if self._rest else data)
        self._rest = b""
        at, end = 0, len(view)
        while at < end:
            if self._missing:
                size = min(self._missing, end - at)
                plain = unmask(view[at : at + size], self._mask)
                self._missing -= size
                at += size
                turn = size % 4
                self._mask = self._mask[turn:] + self._mask[:turn]
                yield self._piece(plain)
                continue
            head = read_head(view[at : at + _HEAD_MAX])
            if head is None:
                break
            opcode, final, length, mask, size = head
            if opcode & 0x8:
                if end - at < size + length:
                    break
                yield Control(opcode, unmask(view[at + size : at + size + length], mask))
                at += size + length
                continue
            at += size
            self._begin(opcode, final)
            self._mask, self._missing = mask, length
            if not length:
                yield self._piece(b"")
        if at < end:
            self._rest = bytes(view[at:])

    def _begin(self, opcode: int, final: bool) -> None:
        if self._inside == (opcode != CONTINUATION):
            raise SocketError("a message that is not finished is followed by another, or one goes on that never began")
        if opcode == TEXT:
            raise SocketError("text where only binary messages have a meaning", UNSUPPORTED)
        self._first = self._first or opcode == BINARY
        self._inside, self._final = not final, final

    def _piece(self, plain: bytes) -> Piece:
        first, self._first = self._first, False
        return Piece(plain, first, self._final and not self._missing)


def read_head(view: memoryview) -> tuple[int, bool, int, bytes, int] | None:
    """Opcode, whether it is final, length, mask, and the size of the head itself; None: not all is there.

    Raises:
        SocketError: no client sends such a one.
    """
    if len(view) < 2:
        return None
    one, two = view[0], view[1]
    opcode, length, size = one & 0x0F, two & 0x7F, 2
    if one & 0x70:
        raise SocketError("a reserved bit is set")
    if opcode not in (CONTINUATION, TEXT, BINARY, CLOSE, PING, PONG):
        raise SocketError(f"opcode {opcode}")
    if not two & _MASKED:
        raise SocketError("a client's frame without a mask")
    if opcode & 0x8 and (length > CONTROL_LIMIT or not one & _FIN):
        raise SocketError("a control frame that is cut up or longer than 125 bytes")
    if length == _LENGTH16:
        if len(view) < 4:
            return None
        (length,) = _U16.unpack_from(view, 2)
        size = 4
    elif length == _LENGTH64:
        if len(view) < 10:
            return None
        (length,) = _U64.unpack_from(view, 2)
        size = 10
        if length > FRAME_LIMIT:
            raise SocketError(f"a frame of {length} bytes", TOO_BIG)
    if len(view) < size + 4:
        return None
    return opcode, bool(one & _FIN), length, bytes(view[size : size + 4]), size + 4


def unmask(data: memoryview | bytes, mask: bytes) -> bytes:
    """``data`` with ``mask`` over it (5.3): one long number each, and no loop over bytes."""
    size = len(data)
    pattern = (mask * (size // 4 + 1))[:size]
    return (int.from_bytes(data, "little") ^ int.from_bytes(pattern, "little")).to_bytes(size, "little")


def frame_head(length: int, opcode: int = BINARY) -> bytes:
    """What stands before ``length`` bytes of a whole message of ours."""
    if length < _LENGTH16:
        return bytes((_FIN | opcode, length))
    if length < 1 << 16:
        return bytes((_FIN | opcode, _LENGTH16)) + _U16.pack(length)
    return bytes((_FIN | opcode, _LENGTH64)) + _U64.pack(length)


def control_frame(opcode: int, payload: bytes = b"") -> bytes:
    return frame_head(len(payload), opcode) + payload


def close_frame(code: int, reason: str = "") -> bytes:
    """``reason`` is cut off where it gets too long."""
    words = reason.encode()[:REASON_LIMIT].decode(errors="ignore").encode()
    return control_frame(CLOSE, _U16.pack(code) + words)


def close_code(payload: bytes) -> int:
    """What a peer's close frame says; 1005 without a code (7.1.5)."""
    return int(_U16.unpack_from(payload)[0]) if len(payload) >= 2 else 1005
