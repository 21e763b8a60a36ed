"""The parsers that ``tests.fuzz`` feeds, each with valid inputs and with what must hold.

Invariant: ``take`` returns if the input was taken, or refused by the fault that the parser
names; it raises for anything else.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

from cri.streaming import spdy_frames, upgrade, websocket
from cri.streaming.channels import ChannelSession
from cri.streaming.session import CommandStreams, CommandTicket, Outcome, Wanted
from cri.streaming.spdy import HELD_LIMIT, STREAM_LIMIT, SpdySession
from cri.streaming.spdy_forward import Pairs
from cri.streaming.spdy_headers import BLOCK_LIMIT, HeaderDecoder, HeadersRefused
from network.cni import conf, result, versions
from network.cni.chain import error_words
from network.cni.plugin import Ended
from runtime import channel, crilog
from runtime.errors import Fault
from tests.unit.cri.streaming.peer import ClientHeaders, FakeLink, data, masked, plain_block


class Parser:
    """``seeds`` are inputs that are as they should be."""

    seeds: tuple[bytes, ...] = ()
    needs_loop = False

    async def take(self, given: bytes, chance: random.Random) -> None:
        self.take_now(given, chance)

    def take_now(self, given: bytes, chance: random.Random) -> None:
        """One case."""
        del given, chance

    def close(self) -> None:
        """The last case is over."""


def cut_up(given: bytes, chance: random.Random) -> Iterator[bytes]:
    """``given`` in pieces, as a network may deliver it."""
    smallest = 1 + len(given) // 500
    largest = max(smallest, chance.choice((1, 7, 100, len(given))))
    at = 0
    while at < len(given):
        size = chance.randint(smallest, largest)
        yield given[at : at + size]
        at += size


class Spdy(Parser):
    """A whole session with port-forward on it; header blocks come compressed."""

    needs_loop = True
    seeds = (
        spdy_frames.settings({4: 100, 7: 1 << 20}),
        spdy_frames.window_update(0, 1000),
        spdy_frames.ping(1),
        spdy_frames.ping(2),
        spdy_frames.reset(1, spdy_frames.CANCEL),
        spdy_frames.goaway(0, 0),
        data(1, b"hello"),
        data(3, b"x" * 300, fin=True),
        spdy_frames.syn_stream(5, ClientHeaders().encode({"streamtype": "data", "port": "80"})),
    )

    async def take(self, given: bytes, chance: random.Random) -> None:
        link, headers, pairs = FakeLink(), ClientHeaders(), Pairs(frozenset())
        session = SpdySession(link, pairs.admit, pairs.end)
        session.start()
        for stream in range(1, 2 * chance.randrange(4), 2):
            block = headers.encode({"streamtype": chance.choice(("data", "error")), "port": "80", "requestid": "1"})
            session.receive(memoryview(spdy_frames.syn_stream(stream, block)))
        for piece in cut_up(given, chance):
            session.receive(memoryview(piece))
            assert len(session._streams) <= STREAM_LIMIT and session._held <= HELD_LIMIT + len(piece)
            assert len(link.sent) <= 1000 + 20 * len(given)
            if link.closed:
                return
        session.ended("the case is over")
        assert not session._streams and link.frames()


class Headers(Parser):
    seeds = tuple(plain_block({"streamtype": kind, "port": "80", "requestid": "7"}) for kind in ("data", "error"))

    def take_now(self, given: bytes, chance: random.Random) -> None:
        decoder, client = HeaderDecoder(), ClientHeaders()
        for piece in cut_up(given, chance) if chance.random() < 0.5 else (given,):
            with contextlib.suppress(HeadersRefused):
                try:
                    found = decoder.decode(client.pack(piece) if chance.random() < 0.9 else piece)
                except spdy_frames.FrameError:
                    return
                assert sum(len(name) + len(value) for name, value in found.items()) <= BLOCK_LIMIT


class WebSocket(Parser):
    seeds = (
        masked(b"\0hello"),
        masked(b"\xff\0"),
        masked(b"x" * 200),
        masked(b"be", fin=False) + masked(b"gin", websocket.CONTINUATION),
        masked(b"?", websocket.PING),
        masked(b"\x03\xe8", websocket.CLOSE),
    )

    def take_now(self, given: bytes, chance: random.Random) -> None:
        reader, total = websocket.FrameReader(), 0
        try:
            for piece in cut_up(given, chance):
                for frame in reader.feed(memoryview(piece)):
                    total += len(frame.data if isinstance(frame, websocket.Piece) else frame.payload)
                assert len(reader._rest) < websocket.CONTROL_LIMIT + 14
        except websocket.SocketError as error:
            assert websocket.close_frame(error.code, str(error))
        assert total <= len(given)


class Upgrade(Parser):
    """The request's head, up to the answer."""

    needs_loop = True
    seeds = (
        b"POST /exec/abc HTTP/1.1\r\nHost: localhost\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        b"X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n",
        b"GET /portforward/abc?x HTTP/1.1\r\nHost: localhost\r\nConnection: keep-alive, Upgrade\r\n"
        b"Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
        b"Origin: http://localhost\r\nSec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n\r\n",
        b"\r\n\r\n",
        b"Upgrade: websocket\r\n",
    )

    async def take(self, given: bytes, chance: random.Random) -> None:
        reader, seen = upgrade.HeadReader(lambda: None), 0
        for piece in cut_up(given, chance):
            reader.receive(memoryview(piece))
            seen += len(piece)
            if reader.head.done():
                break
        reader.ended("the case is over")
        try:
            head = await reader.head
            assert len(head) + 4 + len(reader.early) == seen and len(head) < upgrade.HEAD_LIMIT
            request = upgrade.parse_head(head)
            kind, _ = upgrade.parse_target(request)
            answer = upgrade.negotiate(request, kind).answer
            assert answer.startswith(b"HTTP/1.1 101 ")
        except upgrade.Refused as refused:
            answer = upgrade.encode_refusal(refused)
            assert answer.startswith(b"HTTP/1.1 4")
        except ConnectionError:
            return
        assert answer.partition(b"\r\n\r\n")[0].count(b"\r") == answer.partition(b"\r\n\r\n")[0].count(b"\n")


class Channels(Parser):
    """A session of exec over WebSocket."""

    needs_loop = True
    seeds = (*WebSocket.seeds, masked(b'\4{"Width":80,"Height":24}'))

    async def take(self, given: bytes, chance: random.Random) -> None:
        async def serve(streams: CommandStreams) -> Outcome:
            return Outcome()

        link = FakeLink()
        wanted = Wanted(stdin=True, stdout=True, stderr=False, tty=True)
        session = ChannelSession(cast(Any, link), CommandTicket("exec", wanted, serve), "v5.channel.k8s.io")
        for piece in cut_up(given, chance):
            session.receive(memoryview(piece))
            assert len(link.sent) <= 200 + 10 * len(given)
            if link.closed:
                break
        session.ended("the case is over")


class Monitor(Parser):
    """Packets between the daemon and a monitor (``runtime.channel``), with descriptors or without."""

    seeds = (
        b'{"v":1,"id":7,"op":"start","args":{"config":"/x","names":["a","b"]}}',
        b'{"id":7,"ok":{"pid":42}}',
        b'{"id":7,"error":{"kind":"HostFault","message":"","step":"mount","object":"/","call":"mount","errno":2}}',
        b'{"event":"exit","code":0}',
        b'{"memfd":true}',
    )

    def __init__(self) -> None:
        self._ends = channel.pair()
        self._null = os.open("/dev/null", os.O_RDONLY)

    def take_now(self, given: bytes, chance: random.Random) -> None:
        ours, theirs = self._ends
        ours.setblocking(False)
        count = chance.choice((0, 0, 0, 1, 3))
        attached = (
            [(socket.SOL_SOCKET, socket.SCM_RIGHTS, b"".join(self._packed() for _ in range(count)))] if count else []
        )
        theirs.sendmsg([given[: channel.INLINE_LIMIT] or b"{}"], attached)
        before = len(os.listdir("/proc/self/fd"))
        try:
            received = channel.receive(ours)
        except channel.MalformedMessage:
            received = None
        if received is not None:
            message, descriptors = received
            channel.close_all(descriptors)
            self._read(message)
        assert len(os.listdir("/proc/self/fd")) == before

    def _packed(self) -> bytes:
        return self._null.to_bytes(4, "little")

    def _read(self, message: channel.Message) -> None:
        with contextlib.suppress(channel.MalformedMessage):
            channel.read_request(message)
        try:
            channel.result_of(message)
        except Fault as fault:
            assert str(fault) is not None
        assert channel.decode(channel.encode(message)) == message

    def close(self) -> None:
        for end in self._ends:
            end.close()
        os.close(self._null)


class CriLog(Parser):
    """What a container writes becomes entries that can be read, and nothing is lost."""

    seeds = (
        b"a line\n",
        b"\n",
        b"no end",
        b"x" * 20_000,
        b"2026-01-02T03:04:05.000000000Z stdout F x\n",
        b"\r\n\0\xff\n",
    )

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="crisp-fuzz-")
        self._path = Path(self._folder.name) / "0.log"

    def take_now(self, given: bytes, chance: random.Random) -> None:
        self._path.unlink(missing_ok=True)
        log = crilog.LogFile(str(self._path))
        read, write = os.pipe()
        os.set_blocking(read, False)
        pump = crilog.LogPump(read, "stdout", log)
        for piece in cut_up(given, chance):
            for at in range(0, len(piece), crilog.CHUNK):
                os.write(write, piece[at : at + crilog.CHUNK])
                while pump.pump() > 0:
                    pass
        os.close(write)
        while pump.pump() >= 0:
            pass
        pump.close()
        log.close()
        assert b"".join(contents(self._path.read_bytes())) == given

    def close(self) -> None:
        self._folder.cleanup()


def contents(log: bytes) -> Iterator[bytes]:
    """What the entries of a log say, with the ends of whole lines."""
    assert not log or log.endswith(b"\n")
    for entry in log.split(b"\n")[:-1]:
        stamp, stream, tag, content = entry.split(b" ", 3)
        assert (len(stamp), stream) == (30, b"stdout") and tag in (b"F", b"P") and len(content) <= crilog.LINE_LIMIT
        yield content + (b"\n" if tag == b"F" else b"")


class CniConf(Parser):
    """A configuration of the CNI's; no plugin's name leads out of its folder."""

    seeds = (
        b'{"cniVersion":"1.1.0","name":"net","plugins":[{"type":"bridge","ipam":{"type":"host-local"}}]}',
        b'{"cniVersions":["0.4.0","1.0.0"],"name":"a","disableGC":"true","plugins":[{"type":"../../sh"}]}',
        b'{"cniVersion":"0.3.1","name":"b","type":"ptp","capabilities":{"portMappings":true}}',
    )

    def take_now(self, given: bytes, chance: random.Random) -> None:
        try:
            found = conf.parse_file(given, chance.choice(("a.conflist", "a.conf")))
        except conf.ConfError:
            return
        assert all("/" not in plugin.type and plugin.type not in (".", "..") for plugin in found.plugins)
        assert conf.parse_list(found.to_document()) == found


class CniResult(Parser):
    """What a plugin has printed: a result that is the same in each version, or an error's words."""

    seeds = (
        b'{"cniVersion":"1.1.0","interfaces":[{"name":"eth0","sandbox":"/n"}],"ips":[{"address":"10.0.0.2/8",'
        b'"interface":0,"gateway":"10.0.0.1"}],"routes":[{"dst":"0.0.0.0/0","mtu":1400}],"dns":{"search":["x"]}}',
        b'{"cniVersion":"0.3.1","ips":[{"version":"6","address":"fd00::2/64","interface":-1}]}',
        b'{"code":11,"msg":"later","details":"x"}',
    )

    def take_now(self, given: bytes, chance: random.Random) -> None:
        version = chance.choice(versions.SUPPORTED)
        words = error_words(Ended(chance.choice((1, -9)), given, ""))
        assert words and words.isprintable()
        try:
            found = result.parse(json.loads(given), version)
        except (ValueError, RecursionError):
            return
        written = result.parse(found.to_document(version), version)
        assert written.addresses("eth0") == found.addresses("eth0")


PARSERS: dict[str, type[Parser]] = {
    "spdy": Spdy,
    "headers": Headers,
    "websocket": WebSocket,
    "upgrade": Upgrade,
    "channels": Channels,
    "monitor": Monitor,
    "crilog": CriLog,
    "cni-conf": CniConf,
    "cni-result": CniResult,
}
