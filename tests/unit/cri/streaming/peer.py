"""The client's end of the streaming protocols, as small as tests need it.

Shared by the test modules beside it: a link that only remembers, SPDY headers as clients
compress them, masked WebSocket frames, and a client over a real socket.
"""

from __future__ import annotations

import asyncio
import os
import struct
import zlib
from collections.abc import Awaitable, Callable
from typing import Any

from cri.streaming import spdy_frames as frames
from cri.streaming.session import StreamReset
from cri.streaming.spdy_headers import DICTIONARY, HeaderDecoder
from cri.streaming.websocket import BINARY, unmask


class FakeLink:
    """A ``Link`` that remembers what was sent and lets tests say how it fares."""

    def __init__(self) -> None:
        self.sent = bytearray()
        self.count = self.outstanding = 0
        self.gone = ""
        self.paused = False
        self.closed = False
        self.has_room = asyncio.Event()
        self.has_room.set()
        self._turn = asyncio.Lock()
        self._reader = frames.FrameReader()

    def send(self, *parts: bytes | memoryview) -> None:
        if not self.gone:
            self.sent += b"".join(parts)
            self.count += sum(map(len, parts))

    def turn(self) -> asyncio.Lock:
        return self._turn

    async def room(self) -> None:
        await self.has_room.wait()
        if self.gone:
            raise StreamReset(self.gone)

    def pause(self) -> None:
        self.paused = True

    def resume(self) -> None:
        self.paused = False

    def close(self) -> None:
        self.gone = self.gone or "the session has ended"
        self.closed = True

    def position(self) -> int:
        return self.count

    def taken(self) -> int:
        return self.count - self.outstanding

    async def wait_gone(self) -> None:
        while not self.gone:
            await asyncio.sleep(0.001)

    def frames(self) -> list[frames.Frame]:
        """What was sent since the last time."""
        taken, self.sent = bytes(self.sent), bytearray()
        return list(self._reader.feed(taken))


class ClientHeaders:
    """Header blocks as a client makes them: compressed, with the dictionary."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(zdict=DICTIONARY)
        self.decoder = HeaderDecoder()

    def pack(self, plain: bytes) -> bytes:
        return self._deflate.compress(plain) + self._deflate.flush(zlib.Z_SYNC_FLUSH)

    def encode(self, headers: dict[str, str]) -> bytes:
        return self.pack(plain_block(headers))


def plain_block(headers: dict[str, str]) -> bytes:
    texts = [text.encode() for pair in headers.items() for text in pair]
    return struct.pack(">I", len(headers)) + b"".join(struct.pack(">I", len(text)) + text for text in texts)


def data(stream: int, payload: bytes, *, fin: bool = False) -> bytes:
    return frames.data_header(stream, len(payload), fin=fin) + payload


def masked(payload: bytes, opcode: int = BINARY, *, fin: bool = True, mask: bytes = b"\x01\xf2\x30\x84") -> bytes:
    """A frame as a WebSocket client sends it."""
    size = len(payload)
    if size < 126:
        length = bytes((0x80 | size,))
    else:
        length = struct.pack(">BH", 0xFE, size) if size < 1 << 16 else struct.pack(">BQ", 0xFF, size)
    return bytes((opcode | (0x80 if fin else 0),)) + length + mask + unmask(payload, mask)


def pieces(payload: bytes, size: int) -> list[bytes]:
    return [payload[at : at + size] for at in range(0, len(payload), size)]


async def until(condition: Callable[[], Any]) -> None:
    """Wait for ``condition``."""
    async with asyncio.timeout(10):
        while not condition():
            await asyncio.sleep(0.001)


async def soon(waited: Awaitable[Any]) -> Any:
    async with asyncio.timeout(10):
        return await waited


class Client:
    """A connection to a server: the upgrade, then SPDY or WebSocket by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.headers = ClientHeaders()
        self._frames = frames.FrameReader()
        self._waiting: list[frames.Frame] = []

    @classmethod
    async def connect(cls, url: str, **options: Any) -> Client:
        host, _, port = url.split("/")[2].rpartition(":")
        return cls(*await asyncio.open_connection(host.strip("[]"), int(port), **options))

    def request(self, url: str, *headers: str, method: str = "POST") -> None:
        _, _, host, path = url.split("/", 3)
        lines = [f"{method} /{path} HTTP/1.1", f"Host: {host}", "Connection: Upgrade", *headers, "", ""]
        self.writer.write("\r\n".join(lines).encode())

    def request_spdy(self, url: str, *protocols: str) -> None:
        offers = [f"X-Stream-Protocol-Version: {name}" for name in protocols]
        self.request(url, "Upgrade: SPDY/3.1", "Content-Length: 0", *offers)

    def request_socket(self, url: str, *protocols: str, origin: str = "") -> None:
        lines = ["Upgrade: websocket", "Sec-WebSocket-Version: 13", "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ=="]
        lines += [f"Origin: {origin}"] if origin else []
        self.request(url, *lines, "Sec-WebSocket-Protocol: " + ", ".join(protocols), method="GET")

    async def answer(self) -> tuple[int, dict[str, str], str]:
        """Status, headers and body of the answer."""
        head = (await soon(self.reader.readuntil(b"\r\n\r\n"))).decode()
        first, *lines = head.strip().split("\r\n")
        headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(first.split()[1]), headers, body.decode()

    def open(self, stream: int, **headers: str) -> None:
        self.writer.write(frames.syn_stream(stream, self.headers.encode(headers)))

    async def frame(self) -> frames.Frame:
        """The next one, replies and settings and window updates left out."""
        dull = (frames.Settings, frames.WindowUpdate, frames.SynReply)
        while True:
            while not self._waiting:
                got = await soon(self.reader.read(1 << 16))
                if not got:
                    raise EOFError
                self._waiting += self._frames.feed(got)
            frame = self._waiting.pop(0)
            if not isinstance(frame, dull):
                return frame

    async def message(self) -> tuple[int, bytes]:
        """Opcode and payload of the next WebSocket frame, which has no mask."""
        one, two = await soon(self.reader.readexactly(2))
        size = two
        if two == 126:
            (size,) = struct.unpack(">H", await self.reader.readexactly(2))
        elif two == 127:
            (size,) = struct.unpack(">Q", await self.reader.readexactly(8))
        return one & 0x0F, await soon(self.reader.readexactly(size))

    async def close(self) -> None:
        self.writer.close()
        try:
            await self.writer.wait_closed()
        except OSError:
            return


def noise(size: int) -> bytes:
    return os.urandom(size)
