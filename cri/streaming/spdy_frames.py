"""The frames of SPDY/3.1 (draft-mbelshe-httpbis-spdy-00, 2.2 and 2.6): bytes in, structs out, and back.

``cri.streaming.spdy`` gives them their meaning; header blocks are opened by
``spdy_headers``. No I/O here and no state but what is left of an unfinished frame.

Invariant: whatever bytes come in, cut up in whatever way, either frames go out or
``FrameError`` is raised; a control frame is held up to ``CONTROL_LIMIT`` and data are
not held at all: the pieces of a long frame go out as they arrive.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

VERSION = 3
CONTROL_LIMIT = 32 * 1024
"""Bytes of payload in one control frame."""
SETTINGS_LIMIT = 64
"""Entries in one SETTINGS frame; the specification names eight."""
ID_MASK = 0x7FFF_FFFF
FIN, UNIDIRECTIONAL = 0x01, 0x02

SYN_STREAM, SYN_REPLY, RST_STREAM, SETTINGS, PING, GOAWAY, HEADERS, WINDOW_UPDATE = 1, 2, 3, 4, 6, 7, 8, 9

PROTOCOL_ERROR, INVALID_STREAM, REFUSED_STREAM, CANCEL = 1, 2, 3, 5
"""Why a stream is reset (2.6.3)."""
FLOW_CONTROL_ERROR, STREAM_ALREADY_CLOSED = 7, 9
GOAWAY_OK, GOAWAY_PROTOCOL_ERROR, GOAWAY_INTERNAL_ERROR = 0, 1, 2
MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE = 4, 7
"""What a setting is about (2.6.4)."""

_HEADER = struct.Struct(">II")
_U32 = struct.Struct(">I")
_SYN = struct.Struct(">IIBB")


class FrameError(ValueError):
    """The peer breaks the protocol; the session cannot go on."""


class Data(msgspec.Struct, frozen=True, gc=False):
    """A piece of a data frame; ``fin`` on the last piece of a stream."""

    stream: int
    data: bytes
    fin: bool


class SynStream(msgspec.Struct, frozen=True, gc=False):
    stream: int
    fin: bool
    unidirectional: bool
    block: bytes


class SynReply(msgspec.Struct, frozen=True, gc=False):
    stream: int
    fin: bool
    block: bytes


class Headers(msgspec.Struct, frozen=True, gc=False):
    stream: int
    fin: bool
    block: bytes


class Reset(msgspec.Struct, frozen=True, gc=False):
    stream: int
    status: int


class Settings(msgspec.Struct, frozen=True):
    values: dict[int, int]


class Ping(msgspec.Struct, frozen=True, gc=False):
    id: int


class GoAway(msgspec.Struct, frozen=True, gc=False):
    last: int
    status: int


class WindowUpdate(msgspec.Struct, frozen=True, gc=False):
    """``stream`` 0 is the session as a whole."""

    stream: int
    delta: int


Frame = Data | SynStream | SynReply | Headers | Reset | Settings | Ping | GoAway | WindowUpdate


class FrameReader:
    """Cuts what arrives into frames."""

    def __init__(self) -> None:
        self._rest = b""
        """The beginning of a frame that is needed as a whole."""
        self._stream = 0
        self._fin = False
        self._missing = 0
        """Bytes of the data frame of ``_stream`` that have not arrived yet."""
        self._skip = 0
        """Bytes of a control frame that nobody knows."""

    def feed(self, data: bytes | memoryview) -> Iterator[Frame]:
        """The frames, and pieces of data frames, that end in ``data``; nothing of it is kept by reference.

        Raises:
            FrameError: of no more use.
        """
        view = memoryview(self._rest + bytes(data) if self._rest else data)
        self._rest = b""
        at, end = 0, len(view)
        while at < end:
            if self._missing:
                size = min(self._missing, end - at)
                self._missing -= size
                yield Data(self._stream, bytes(view[at : at + size]), self._fin and not self._missing)
                at += size
                continue
            if self._skip:
                size = min(self._skip, end - at)
                self._skip -= size
                at += size
                continue
            if end - at < _HEADER.size:
                break
            first, second = _HEADER.unpack_from(view, at)
            length = second & 0xFFFFFF
            if first > ID_MASK:
                kind = self._control(first, length)
                if not kind:
                    at, self._skip = at + _HEADER.size, length
                    continue
                if end - at - _HEADER.size < length:
                    break
                at += _HEADER.size
                yield PARSERS[kind](view[at : at + length], second >> 24)
                at += length
                continue
            at += _HEADER.size
            self._stream, self._fin, self._missing = first, bool(second >> 24 & FIN), length
            if not first:
                raise FrameError("data for stream 0")
            if not length:
                yield Data(first, b"", self._fin)
        if at < end:
            self._rest = bytes(view[at:])

    def _control(self, first: int, length: int) -> int:
        """The kind of the control frame, 0 for one to be stepped over."""
        version, kind = first >> 16 & 0x7FFF, first & 0xFFFF
        if version != VERSION:
            raise FrameError(f"a frame of version {version}")
        if length > CONTROL_LIMIT:
            raise FrameError(f"a control frame of {length} bytes, more than {CONTROL_LIMIT}")
        return kind if kind in PARSERS else 0


def _number(payload: memoryview, at: int) -> int:
    (value,) = _U32.unpack_from(payload, at)
    return int(value)


def _exactly(payload: memoryview, size: int, name: str) -> None:
    if len(payload) != size:
        raise FrameError(f"{name} of {len(payload)} bytes, not {size}")


def _stream_of(payload: memoryview, name: str) -> int:
    if len(payload) < _U32.size:
        raise FrameError(f"{name} without a stream")
    stream = _number(payload, 0) & ID_MASK
    if not stream:
        raise FrameError(f"{name} for stream 0")
    return stream


def _parse_syn_stream(payload: memoryview, flags: int) -> Frame:
    stream = _stream_of(payload, "SYN_STREAM")
    if len(payload) < _SYN.size:
        raise FrameError(f"SYN_STREAM of {len(payload)} bytes")
    return SynStream(stream, bool(flags & FIN), bool(flags & UNIDIRECTIONAL), bytes(payload[_SYN.size :]))


def _parse_syn_reply(payload: memoryview, flags: int) -> Frame:
    return SynReply(_stream_of(payload, "SYN_REPLY"), bool(flags & FIN), bytes(payload[_U32.size :]))


def _parse_headers(payload: memoryview, flags: int) -> Frame:
    return Headers(_stream_of(payload, "HEADERS"), bool(flags & FIN), bytes(payload[_U32.size :]))


def _parse_reset(payload: memoryview, flags: int) -> Frame:
    del flags
    _exactly(payload, 8, "RST_STREAM")
    return Reset(_stream_of(payload, "RST_STREAM"), _number(payload, 4))


def _parse_settings(payload: memoryview, flags: int) -> Frame:
    del flags
    count = _number(payload, 0) if len(payload) >= _U32.size else -1
    if not 0 <= count <= SETTINGS_LIMIT:
        raise FrameError(f"SETTINGS with {count} entries")
    _exactly(payload, _U32.size + count * _HEADER.size, "SETTINGS")
    pairs = (_HEADER.unpack_from(payload, _U32.size + index * _HEADER.size) for index in range(count))
    return Settings({first & 0xFFFFFF: second for first, second in pairs})


def _parse_ping(payload: memoryview, flags: int) -> Frame:
    del flags
    _exactly(payload, 4, "PING")
    return Ping(_number(payload, 0))


def _parse_goaway(payload: memoryview, flags: int) -> Frame:
    del flags
    _exactly(payload, 8, "GOAWAY")
    return GoAway(_number(payload, 0) & ID_MASK, _number(payload, 4))


def _parse_window_update(payload: memoryview, flags: int) -> Frame:
    del flags
    _exactly(payload, 8, "WINDOW_UPDATE")
    return WindowUpdate(_number(payload, 0) & ID_MASK, _number(payload, 4) & ID_MASK)


PARSERS = {
    SYN_STREAM: _parse_syn_stream,
    SYN_REPLY: _parse_syn_reply,
    RST_STREAM: _parse_reset,
    SETTINGS: _parse_settings,
    PING: _parse_ping,
    GOAWAY: _parse_goaway,
    HEADERS: _parse_headers,
    WINDOW_UPDATE: _parse_window_update,
}


def data_header(stream: int, length: int, *, fin: bool = False) -> bytes:
    """What stands before ``length`` bytes of data."""
    return _HEADER.pack(stream, (FIN << 24 if fin else 0) | length)


def control(kind: int, payload: bytes, flags: int = 0) -> bytes:
    return _HEADER.pack(1 << 31 | VERSION << 16 | kind, flags << 24 | len(payload)) + payload


def syn_stream(stream: int, block: bytes, *, fin: bool = False) -> bytes:
    return control(SYN_STREAM, _SYN.pack(stream, 0, 0, 0) + block, FIN if fin else 0)


def syn_reply(stream: int, block: bytes) -> bytes:
    return control(SYN_REPLY, _U32.pack(stream) + block)


def reset(stream: int, status: int) -> bytes:
    return control(RST_STREAM, _HEADER.pack(stream, status))


def settings(values: dict[int, int]) -> bytes:
    entries = b"".join(_HEADER.pack(name, value) for name, value in values.items())
    return control(SETTINGS, _U32.pack(len(values)) + entries)


def ping(id: int) -> bytes:
    return control(PING, _U32.pack(id))


def goaway(last: int, status: int) -> bytes:
    return control(GOAWAY, _HEADER.pack(last, status))


def window_update(stream: int, delta: int) -> bytes:
    return control(WINDOW_UPDATE, _HEADER.pack(stream, delta))
