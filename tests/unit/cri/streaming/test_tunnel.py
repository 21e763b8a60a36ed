"""SPDY in the messages of a WebSocket."""

from __future__ import annotations

from typing import Any, cast

from cri.streaming import websocket
from cri.streaming.tunnel import Tunnel
from cri.streaming.wire import Wire
from tests.unit.cri.streaming.peer import FakeLink, masked


class Inner:
    def __init__(self) -> None:
        self.got = b""
        self.ends: list[str] = []

    def receive(self, data: memoryview) -> None:
        self.got += data

    def ended(self, why: str) -> None:
        self.ends.append(why)

    def knock(self) -> None:
        raise AssertionError


def make() -> tuple[Tunnel, FakeLink, Inner]:
    link, inner = FakeLink(), Inner()
    tunnel = Tunnel(cast(Wire, cast(Any, link)))
    tunnel.hand_to(inner)
    return tunnel, link, inner


async def test_bytes_are_one_stream_wherever_messages_end() -> None:
    tunnel, link, inner = make()
    for piece in (masked(b"he"), masked(b"l", fin=False) + masked(b"lo", websocket.CONTINUATION)):
        tunnel.receive(memoryview(piece))
    assert inner.got == b"hello"
    tunnel.send(b"head", memoryview(b"body"))
    assert bytes(link.sent) == b"\x82\x08headbody"
    async with tunnel.turn():
        await tunnel.room()
    link.outstanding = 3
    assert (tunnel.position(), tunnel.taken()) == (10, 7)
    tunnel.pause()
    assert link.paused
    tunnel.resume()
    assert (link.paused, tunnel.gone) == (False, "")


async def test_pings_of_the_socket_are_answered_outside_of_spdy() -> None:
    tunnel, link, inner = make()
    tunnel.receive(memoryview(masked(b"are you there", websocket.PING) + masked(b"", websocket.PONG)))
    assert bytes(link.sent) == b"\x8a\x0dare you there" and inner.got == b""
    link.sent.clear()
    tunnel.knock()
    assert bytes(link.sent) == b"\x8a\x00"


async def test_the_clients_close_is_answered_and_ends_the_connection() -> None:
    tunnel, link, inner = make()
    tunnel.receive(memoryview(masked(b"\x03\xe8", websocket.CLOSE) + masked(b"late")))
    assert bytes(link.sent) == b"\x88\x02\x03\xe8" and link.closed and inner.got == b""
    tunnel.ended("closed")
    assert inner.ends == ["closed"]


async def test_what_is_no_websocket_ends_it_with_the_reason() -> None:
    tunnel, link, _ = make()
    tunnel.receive(memoryview(masked(b"text", websocket.TEXT)))
    assert link.closed and websocket.close_code(bytes(link.sent[2:])) == websocket.UNSUPPORTED


async def test_the_end_of_the_session_closes_the_socket() -> None:
    tunnel, link, _ = make()
    tunnel.close()
    assert link.closed and websocket.close_code(bytes(link.sent[2:])) == websocket.NORMAL
