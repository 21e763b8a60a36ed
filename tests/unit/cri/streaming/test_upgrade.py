"""The HTTP request of a streaming session: bounded, without doubt, negotiated."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.streaming import upgrade
from cri.streaming.upgrade import (
    COMMAND_PROTOCOLS,
    HEAD_LIMIT,
    HeadReader,
    Refused,
    Request,
    encode_refusal,
    negotiate,
    parse_head,
    parse_target,
)


def head(*lines: str, first: str = "POST /exec/abc HTTP/1.1") -> bytes:
    return "\r\n".join([first, "Host: localhost:1", *lines]).encode("latin-1")


def spdy(*protocols: str) -> Request:
    offers = [f"X-Stream-Protocol-Version: {name}" for name in protocols]
    return parse_head(head("Connection: Upgrade", "Upgrade: SPDY/3.1", *offers))


def socket(*more: str, protocols: str = "v5.channel.k8s.io", method: str = "GET") -> Request:
    lines = ["Connection: keep-alive, Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 13"]
    lines += ["Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==", f"Sec-WebSocket-Protocol: {protocols}", *more]
    return parse_head(head(*lines, first=f"{method} /exec/abc HTTP/1.1"))


async def test_bytes_that_come_with_the_request_are_kept() -> None:
    paused: list[bool] = []
    reader = HeadReader(lambda: paused.append(True))
    for piece in (b"GET / HT", b"TP/1.1\r\nHost: x\r", b"\n\r", b"\nearly", b" birds"):
        reader.receive(memoryview(piece))
    assert await reader.head == b"GET / HTTP/1.1\r\nHost: x"
    assert bytes(reader.early) == b"early birds" and paused == [True]


async def test_a_head_is_bounded_and_its_loss_is_told() -> None:
    reader = HeadReader(lambda: None)
    reader.receive(memoryview(b"x" * HEAD_LIMIT))
    with pytest.raises(Refused, match="larger than"):
        await reader.head
    lost = HeadReader(lambda: None)
    lost.knock()
    lost.ended("gone")
    lost.ended("gone")
    with pytest.raises(ConnectionError, match="gone"):
        await asyncio.wait_for(lost.head, 5)


def test_a_request_is_read() -> None:
    request = parse_head(head("X-A: 1, 2", "x-a:3 ", "Content-Length: 0"))
    assert (request.method, request.target) == ("POST", "/exec/abc")
    assert request.tokens("x-a") == ["1", "2", "3"] and request.one("host") == "localhost:1"
    assert parse_target(request) == ("exec", "abc")


BAD_HEADS = [
    (b"", 400),
    (b"GET /exec/abc", 400),
    (b"GET  /exec/abc HTTP/1.1\r\nHost: x", 400),
    (b"GET /exec/abc HTTP/2.0\r\nHost: x", 400),
    (b"GET http://x/exec/abc HTTP/1.1\r\nHost: x", 400),
    (b"GET /exec/abc HTTP/1.1", 400),
    (head("no colon"), 400),
    (head(" folded: x"), 400),
    (head("name : x"), 400),
    (head("X: a\nb"), 400),
    (head("X: a\x00b"), 400),
    (head("Host: other"), 400),
    (head("Content-Length: 5"), 400),
    (head("Content-Length: 0", "Content-Length: 0"), 400),
    (head("Transfer-Encoding: chunked"), 400),
    (head(*["X: y"] * 100), 431),
]


@pytest.mark.parametrize(("wire", "status"), BAD_HEADS)
def test_a_request_that_leaves_doubt_is_refused(wire: bytes, status: int) -> None:
    with pytest.raises(Refused) as caught:
        parse_head(wire)
    assert caught.value.status == status


@pytest.mark.parametrize(
    ("first", "status"),
    [
        ("GET /", 404),
        ("GET /exec/", 404),
        ("GET /exec/a/b", 404),
        ("GET /exec/" + "a" * 65, 404),
        ("PUT /exec/abc", 405),
    ],
)
def test_other_pages_and_methods_are_not_there(first: str, status: int) -> None:
    with pytest.raises(Refused) as caught:
        parse_target(parse_head(head(first=f"{first} HTTP/1.1")))
    assert caught.value.status == status


def test_the_client_prefers_and_the_server_agrees() -> None:
    agreed = negotiate(spdy("v9.channel.k8s.io", "v4.channel.k8s.io, v5.channel.k8s.io"), "exec")
    assert (agreed.carrier, agreed.protocol) == (upgrade.SPDY, "v4.channel.k8s.io")
    assert agreed.answer.startswith(b"HTTP/1.1 101 Switching Protocols\r\n")
    assert b"\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n" in agreed.answer
    assert [negotiate(spdy(name), "attach").protocol for name in COMMAND_PROTOCOLS] == list(COMMAND_PROTOCOLS)
    assert negotiate(spdy("portforward.k8s.io"), "portforward").protocol == "portforward.k8s.io"


def test_nothing_in_common_is_told_with_what_would_be() -> None:
    with pytest.raises(Refused) as caught:
        negotiate(spdy("v9.channel.k8s.io"), "exec")
    answer = encode_refusal(caught.value)
    assert answer.startswith(b"HTTP/1.1 403 Forbidden\r\n")
    assert b"X-Accepted-Stream-Protocol-Versions: v5.channel.k8s.io\r\n" in answer
    assert answer.endswith(b"\r\n\r\n" + caught.value.text.encode() + b"\n")


def test_a_request_without_an_upgrade_is_refused() -> None:
    texts = []
    for request in (spdy(), parse_head(head()), parse_head(head("Connection: Upgrade", "Upgrade: h2c"))):
        with pytest.raises(Refused) as caught:
            negotiate(request, "exec")
        assert caught.value.status == 400
        texts.append(caught.value.text)
    assert len(texts) == 3 and not any(": " in text for text in texts)  # client-go would see a mapping


def test_a_websocket_is_accepted_as_the_specification_says() -> None:
    agreed = negotiate(socket(protocols="v4.channel.k8s.io, v5.channel.k8s.io"), "exec")
    assert (agreed.carrier, agreed.protocol) == (upgrade.SOCKET, "v4.channel.k8s.io")
    assert b"\r\nSec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" in agreed.answer  # RFC 6455, 1.3
    tunnel = negotiate(socket(protocols="SPDY/3.1+portforward.k8s.io"), "portforward")
    assert (tunnel.carrier, tunnel.protocol) == (upgrade.TUNNEL, "portforward.k8s.io")
    assert b"\r\nSec-WebSocket-Protocol: SPDY/3.1+portforward.k8s.io\r\n" in tunnel.answer


def test_other_websockets_are_refused() -> None:
    wrong_key = parse_head(
        head(
            "Connection: Upgrade",
            "Upgrade: websocket",
            "Sec-WebSocket-Version: 13",
            first="GET /exec/abc HTTP/1.1",
        )
    )
    old = parse_head(
        head("Connection: Upgrade", "Upgrade: websocket", "Sec-WebSocket-Version: 8", first="GET /exec/abc HTTP/1.1")
    )
    bad_key = Request("GET", "/exec/abc", {**socket().headers, "sec-websocket-key": ["c2hvcnQ="]})
    odd_key = Request("GET", "/exec/abc", {**socket().headers, "sec-websocket-key": ["ä" * 8]})
    expected = {405: [socket(method="POST")], 426: [old], 400: [wrong_key, bad_key, odd_key, socket(protocols="v1.x")]}
    for status, requests in expected.items():
        for request in requests:
            with pytest.raises(Refused) as caught:
                negotiate(request, "exec")
            assert caught.value.status == status
    with pytest.raises(Refused, match="spoken here"):
        negotiate(socket(), "portforward")


def test_pages_of_other_origins_are_refused() -> None:
    assert negotiate(socket("Origin: http://LOCALHOST:1"), "exec").answer
    for origin in ("http://evil.example", "null", "http://localhost:2", "http://[", ""):
        lines = [f"Origin: {origin}"] if origin else ["Origin: http://localhost:1", "Origin: http://localhost:1"]
        with pytest.raises(Refused) as caught:
            negotiate(socket(*lines), "exec")
        assert caught.value.status in (HTTPStatus.FORBIDDEN, HTTPStatus.BAD_REQUEST)


@given(st.binary(max_size=300), st.sampled_from([b"", head() + b"\r\n", head("Connection: Upgrade", "Upgrade: ")]))
def test_any_bytes_are_a_request_or_refused(garbage: bytes, before: bytes) -> None:
    try:
        request = parse_head(before + garbage)
        kind, _ = parse_target(request)
        negotiate(request, kind)
    except Refused as refused:
        assert encode_refusal(refused).startswith(b"HTTP/1.1 4")
