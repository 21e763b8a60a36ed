"""The HTTP/1.1 request that every streaming session begins with, and the answer to it.

``cri.streaming.server`` collects the head with ``HeadReader``, has it parsed and
negotiated here, and hands the connection to what was agreed on. Pure but for the reader's
future.

Invariant: a head is bounded in bytes, headers and (by the server) time; bytes behind it are
kept; a request that could be understood in two ways is refused with a plain HTTP error.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

HEAD_LIMIT = 32 * 1024
HEADER_LIMIT = 100

COMMAND_PROTOCOLS = tuple(f"{version}channel.k8s.io" for version in ("v5.", "v4.", "v3.", "v2.", ""))
FORWARD_PROTOCOLS = ("portforward.k8s.io",)
SOCKET_COMMAND_PROTOCOLS = COMMAND_PROTOCOLS[:2]
TUNNEL_PREFIX = "SPDY/3.1+"
"""Before the name of a protocol: SPDY in the binary messages of a WebSocket."""
SPDY, SOCKET, TUNNEL = "spdy", "websocket", "tunnel"

_SOCKET_GUID = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11"
_REQUEST_LINE = re.compile(rb"(GET|POST|[!#$%&'*+.^_`|~0-9A-Za-z-]{1,20}) (/[!-~]*) HTTP/1\.([01])")
_HEADER = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):[ \t]*([^\x00-\x08\x0a-\x1f\x7f]*?)[ \t]*")
_PATH = re.compile(r"/(exec|attach|portforward)/([A-Za-z0-9_-]{1,64})(?:\?.*)?")


class Refused(Exception):
    """What is wrong with a request, as the HTTP answer says it.

    No text has a colon with a space after it: client-go would take it for a mapping in YAML, hence
    for a ``metav1.Status``, and show nothing."""

    def __init__(self, status: HTTPStatus, text: str, headers: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(text)
        self.status = status
        self.text = text
        self.headers = headers


@dataclass(frozen=True, slots=True)
class Request:
    """``headers``: by name in lower case, in the order in which they came."""

    method: str
    target: str
    headers: dict[str, list[str]] = field(default_factory=dict)

    def tokens(self, name: str) -> list[str]:
        """The comma separated values of all headers of that name."""
        values = (part.strip() for line in self.headers.get(name, ()) for part in line.split(","))
        return [value for value in values if value]

    def one(self, name: str) -> str:
        """The value of a header that may be there once, "" without it.

        Raises:
            Refused: it is there more than once.
        """
        values = self.headers.get(name, [])
        if len(values) > 1:
            raise Refused(HTTPStatus.BAD_REQUEST, f"more than one {name} header")
        return values[0] if values else ""


@dataclass(frozen=True, slots=True)
class Agreement:
    """``carrier`` is SPDY, SOCKET or TUNNEL; ``protocol`` what is spoken in it; ``answer`` the 101."""

    carrier: str
    protocol: str
    answer: bytes


class HeadReader:
    """The receiver of a new connection: ``head`` is what came up to the empty line, ``early`` the rest.

    ``pause`` is called with the head complete: what follows is for the session to read."""

    def __init__(self, pause: Callable[[], None]) -> None:
        self._pause = pause
        self.early = bytearray()
        self.head: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    def receive(self, data: memoryview) -> None:
        looked = max(0, len(self.early) - 3)
        self.early += data
        if self.head.done():
            return
        end = self.early.find(b"\r\n\r\n", looked, HEAD_LIMIT)
        if end >= 0:
            self.head.set_result(bytes(self.early[:end]))
            del self.early[: end + 4]
            self._pause()
        elif len(self.early) >= HEAD_LIMIT:
            text = f"the request's head is larger than {HEAD_LIMIT} bytes"
            self.head.set_exception(Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, text))
            self._pause()

    def ended(self, why: str) -> None:
        if not self.head.done():
            self.head.set_exception(ConnectionError(why))
            self.head.exception()  # whoever waited may have given up

    def knock(self) -> None:
        """Nothing can be said before the answer."""


def parse_head(head: bytes) -> Request:
    """The request in ``head``, which is all of it before the empty line.

    Raises:
        Refused: it is not HTTP/1.x, or not without doubt.
    """
    first, *lines = head.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        raise Refused(HTTPStatus.BAD_REQUEST, "not a request of HTTP/1.1")
    if len(lines) > HEADER_LIMIT:
        raise Refused(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"more than {HEADER_LIMIT} headers")
    headers: dict[str, list[str]] = {}
    for each in lines:
        header = _HEADER.fullmatch(each)
        if header is None:
            raise Refused(HTTPStatus.BAD_REQUEST, "a header that is none")
        headers.setdefault(header[1].decode().lower(), []).append(header[2].decode("latin-1"))
    request = Request(line[1].decode(), line[2].decode(), headers)
    if "transfer-encoding" in headers or request.one("content-length") not in ("", "0"):
        raise Refused(HTTPStatus.BAD_REQUEST, "a request for an upgrade has no body")
    if not request.one("host") and line[3] == b"1":
        raise Refused(HTTPStatus.BAD_REQUEST, "no Host header")
    return request


def parse_target(request: Request) -> tuple[str, str]:
    """What is to be served (``exec``, ``attach`` or ``portforward``), and the token.

    Raises:
        Refused: no such page.
    """
    path = _PATH.fullmatch(request.target)
    if path is None:
        raise Refused(HTTPStatus.NOT_FOUND, "no such page")
    if request.method not in ("GET", "POST"):
        raise Refused(
            HTTPStatus.METHOD_NOT_ALLOWED, f"{request.method} is neither GET nor POST", (("Allow", "GET, POST"),)
        )
    return path[1], path[2]


def negotiate(request: Request, kind: str) -> Agreement:
    """What this client and we both speak.

    Raises:
        Refused: nothing, or the client asks for no upgrade.
    """
    upgrades = [value.lower() for value in request.tokens("upgrade")]
    wanted = any(value.lower() == "upgrade" for value in request.tokens("connection"))
    if wanted and "websocket" in upgrades:
        return _negotiate_socket(request, kind)
    if not wanted or "spdy/3.1" not in upgrades:
        text = "unable to upgrade, as the headers Connection and Upgrade ask for neither SPDY/3.1 nor websocket"
        raise Refused(HTTPStatus.BAD_REQUEST, text, (("Upgrade", "SPDY/3.1, websocket"),))
    ours = FORWARD_PROTOCOLS if kind == "portforward" else COMMAND_PROTOCOLS
    offered = request.tokens("x-stream-protocol-version")
    if not offered:
        raise Refused(HTTPStatus.BAD_REQUEST, "unable to upgrade, no X-Stream-Protocol-Version header")
    chosen = choose(offered, ours)
    if not chosen:
        accepted = tuple(("X-Accepted-Stream-Protocol-Versions", name) for name in ours)
        raise Refused(
            HTTPStatus.FORBIDDEN, f"unable to upgrade, none of {', '.join(offered)[:500]} is spoken here", accepted
        )
    headers = (("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), ("X-Stream-Protocol-Version", chosen))
    return Agreement(SPDY, chosen, encode_head(HTTPStatus.SWITCHING_PROTOCOLS, headers))


def choose(offered: list[str], ours: tuple[str, ...]) -> str:
    """The first of the client's that is ours, as its order is its preference; "" for none."""
    return next((name for name in offered if name in ours), "")


def _negotiate_socket(request: Request, kind: str) -> Agreement:
    if request.method != "GET":
        raise Refused(HTTPStatus.METHOD_NOT_ALLOWED, "a WebSocket begins with GET", (("Allow", "GET"),))
    if request.one("sec-websocket-version") != "13":
        text = "unable to upgrade, only version 13 of WebSocket is spoken here"
        raise Refused(HTTPStatus.UPGRADE_REQUIRED, text, (("Sec-WebSocket-Version", "13"),))
    check_origin(request)
    key = request.one("sec-websocket-key")
    offered = request.tokens("sec-websocket-protocol")
    if kind == "portforward":
        carrier, ours = TUNNEL, tuple(TUNNEL_PREFIX + name for name in FORWARD_PROTOCOLS)
    else:
        carrier, ours = SOCKET, SOCKET_COMMAND_PROTOCOLS
    chosen = choose(offered, ours)
    if not chosen:
        said = ", ".join(offered)[:500] or "no Sec-WebSocket-Protocol"
        raise Refused(HTTPStatus.BAD_REQUEST, f"unable to upgrade, {said} offered, {', '.join(ours)} spoken here")
    headers = (
        ("Connection", "Upgrade"),
        ("Upgrade", "websocket"),
        ("Sec-WebSocket-Accept", accept_key(key)),
        ("Sec-WebSocket-Protocol", chosen),
    )
    answer = encode_head(HTTPStatus.SWITCHING_PROTOCOLS, headers)
    return Agreement(carrier, chosen.removeprefix(TUNNEL_PREFIX), answer)


def check_origin(request: Request) -> None:
    """A browser says where the page is from that opens a WebSocket; no other site's may.

    Raises:
        Refused: it is another host's.
    """
    origin = request.one("origin")
    if not origin:
        return
    try:
        host = urlsplit(origin).netloc.lower()
    except ValueError:
        host = ""
    if not host or host != request.one("host").lower():
        raise Refused(HTTPStatus.FORBIDDEN, "a page of another origin may not open this")


def accept_key(key: str) -> str:
    """RFC 6455, 4.2.2.

    Raises:
        Refused: the key is not 16 bytes in base64.
    """
    try:
        size = len(base64.b64decode(key.encode(), validate=True))
    except (binascii.Error, ValueError):
        size = -1
    if size != 16:
        raise Refused(HTTPStatus.BAD_REQUEST, "Sec-WebSocket-Key is not 16 bytes in base64")
    return base64.b64encode(hashlib.sha1(key.encode() + _SOCKET_GUID, usedforsecurity=False).digest()).decode()


def encode_head(status: HTTPStatus, headers: tuple[tuple[str, str], ...]) -> bytes:
    lines = [f"HTTP/1.1 {status.value} {status.phrase}", *(f"{name}: {value}" for name, value in headers)]
    return "\r\n".join([*lines, "", ""]).encode("latin-1", "replace")


def encode_refusal(refused: Refused) -> bytes:
    """The whole answer; the connection is closed after it."""
    body = f"{refused.text}\n".encode()
    headers = (
        *refused.headers,
        ("Content-Type", "text/plain; charset=utf-8"),
        ("Content-Length", str(len(body))),
        ("Connection", "close"),
    )
    return encode_head(refused.status, headers) + body
