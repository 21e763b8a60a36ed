"""The two streams of each forwarded connection find each other."""

from __future__ import annotations

import asyncio

import pytest

from cri.streaming import spdy_forward
from cri.streaming import spdy_frames as frames
from cri.streaming.session import Forward
from cri.streaming.spdy import SpdySession
from cri.streaming.spdy_forward import Pairs, guess_request, parse_port
from tests.unit.cri.streaming.peer import ClientHeaders, FakeLink, data, soon, until


class Peer:
    def __init__(self, *ports: int) -> None:
        self.link = FakeLink()
        self.headers = ClientHeaders()
        self.pairs = Pairs(frozenset(ports))
        self.session = SpdySession(self.link, self.pairs.admit, self.pairs.end)

    def open(self, stream: int, kind: str, port: str = "80", **more: str) -> bool:
        """Whether the stream was accepted."""
        block = self.headers.encode({"streamtype": kind, "port": port, **more})
        self.session.receive(memoryview(frames.syn_stream(stream, block)))
        return isinstance(self.link.frames()[-1], frames.SynReply)

    async def accept(self) -> Forward | None:
        found: Forward | None = await soon(self.pairs.accept())
        return found


async def test_streams_with_one_request_are_one_connection() -> None:
    peer = Peer()
    for stream, kind, request in ((1, "error", "a"), (3, "error", "b"), (5, "data", "b"), (7, "data", "a")):
        assert peer.open(stream, kind, requestid=request)
    peer.session.receive(memoryview(data(7, b"hello")))
    second, first = await peer.accept(), await peer.accept()
    assert first and second and first.port == 80
    assert await first.data.read() == b"hello"
    await second.error.write(b"nobody listens")
    assert peer.link.frames() == [frames.Data(3, b"nobody listens", False)]


async def test_clients_without_a_request_open_one_after_the_other() -> None:
    peer = Peer()
    assert peer.open(1, "error") and peer.open(3, "data")
    assert await peer.accept() is not None
    assert guess_request("data", 3) == guess_request("error", 1)


@pytest.mark.parametrize(
    ("kind", "port", "request_"),
    [
        ("stdin", "80", "1"),
        ("data", "0", "1"),
        ("data", "65536", "1"),
        ("data", "", "1"),
        ("data", "8o", "1"),
        ("data", "80", "x" * 65),
    ],
)
async def test_a_stream_that_says_nothing_of_use_is_refused(kind: str, port: str, request_: str) -> None:
    assert not Peer().open(1, kind, port, requestid=request_)


async def test_only_the_ports_that_were_named_are_forwarded() -> None:
    peer = Peer(80)
    assert peer.open(1, "error") and not peer.open(3, "error", "81")


async def test_two_halves_of_one_kind_or_of_two_ports_are_no_pair() -> None:
    peer = Peer()
    assert peer.open(1, "error", requestid="a")
    assert not peer.open(3, "error", requestid="a")
    assert not peer.open(5, "data", "81", requestid="a")
    assert peer.open(7, "data", requestid="a")


async def test_half_a_connection_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdy_forward, "PAIR_TIMEOUT", 0.01)
    peer = Peer()
    peer.open(1, "data", requestid="a")
    await until(lambda: peer.link.sent)
    assert peer.link.frames() == [frames.Reset(1, frames.CANCEL)]


async def test_halves_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdy_forward, "HALVES_LIMIT", 1)
    peer = Peer()
    assert peer.open(1, "data", requestid="a") and not peer.open(3, "data", requestid="b")
    peer.session.ended("over")


async def test_what_was_complete_before_the_end_is_still_given_out() -> None:
    peer = Peer()
    peer.open(1, "error")
    peer.open(3, "data")
    peer.open(5, "error")
    peer.session.ended("over")
    assert await peer.accept() is not None
    assert await peer.accept() is None and await peer.accept() is None


async def test_who_waits_is_told_of_the_end() -> None:
    peer = Peer()
    asyncio.get_running_loop().call_later(0.01, peer.session.ended, "over")
    assert await peer.accept() is None


def test_a_port_is_a_number_of_16_bits() -> None:
    assert [parse_port(text) for text in ("1", "65535", "+1", "²", "000080", "-1")] == [1, 65535, 0, 0, 0, 0]
