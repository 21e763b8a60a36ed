"""Header blocks of SPDY/3.1: names and values, compressed in one zlib stream a direction.

``cri.streaming.spdy`` hands in the blocks that ``spdy_frames`` cut out of the frames.
The dictionary is the one of the specification (draft-mbelshe-httpbis-spdy-00, 2.6.10.1).

Invariant: what a block expands to is bounded before it is expanded, and a block that
only breaks a rule of HTTP leaves the compression state usable for the next one.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Mapping

from cri.streaming.spdy_frames import FrameError

BLOCK_LIMIT = 32 * 1024
"""Bytes that one block may expand to; those of port-forward have about a hundred."""
COUNT_LIMIT = 64
"""Headers in one block."""

_U32 = struct.Struct(">I")
_WORDS = (
    "options head post put delete trace accept accept-charset accept-encoding accept-language accept-ranges age"
    " allow authorization cache-control connection content-base content-encoding content-language content-length"
    " content-location content-md5 content-range content-type date etag expect expires from host if-match"
    " if-modified-since if-none-match if-range if-unmodified-since last-modified location max-forwards pragma"
    " proxy-authenticate proxy-authorization range referer retry-after server te trailer transfer-encoding upgrade"
    " user-agent vary via warning www-authenticate method get status 200_OK version HTTP/1.1 url public set-cookie"
    " keep-alive origin"
)
_TAIL = (
    "100101201202205206300302303304305306307402405406407408409410411412413414415416417502504505"
    "203 Non-Authoritative Information204 No Content301 Moved Permanently400 Bad Request401 Unauthorized"
    "403 Forbidden404 Not Found500 Internal Server Error501 Not Implemented503 Service Unavailable"
    "Jan Feb Mar Apr May Jun Jul Aug Sept Oct Nov Dec 00:00:00 Mon, Tue, Wed, Thu, Fri, Sat, Sun, GMT"
    "chunked,text/html,image/png,image/jpg,image/gif,application/xml,application/xhtml+xml,text/plain,"
    "text/javascript,publicprivatemax-age=gzip,deflate,sdchcharset=utf-8charset=iso-8859-1,utf-,*,enq=0."
)
DICTIONARY = (
    b"".join(_U32.pack(len(word)) + word.replace("_", " ").encode() for word in _WORDS.split()) + _TAIL.encode()
)
"""Words with their lengths before them, then text."""

_ZLIB_HEADER = b"\x78\x01"
_STORED = struct.Struct("<BHH")
_STORED_LIMIT = 0xFFFF
_FLUSH = b"\x00\x00\x00\xff\xff"
"""An empty block: readers hand out what came before when they see it (Z_SYNC_FLUSH)."""


class HeadersRefused(ValueError):
    """One block breaks a rule for names; only its stream suffers."""


class HeaderDecoder:
    """The receiving end of one direction; a block after the other."""

    def __init__(self) -> None:
        self._inflate = zlib.decompressobj(zdict=DICTIONARY)

    def decode(self, block: bytes) -> dict[str, str]:
        """The headers in ``block``; several values of one name are joined by NUL.

        Raises:
            FrameError: it is not such a block, or larger than allowed; the session is lost.
            HeadersRefused: a name is empty, not in lower case, or there twice.
        """
        try:
            plain = self._inflate.decompress(block, BLOCK_LIMIT + 1)
        except zlib.error as error:
            raise FrameError(f"header block: {error}") from None
        if len(plain) > BLOCK_LIMIT or self._inflate.unconsumed_tail:
            raise FrameError(f"header block: expands to more than {BLOCK_LIMIT} bytes")
        if self._inflate.eof:
            raise FrameError("header block: ends the compressed stream")
        return parse_block(plain)


def parse_block(plain: bytes) -> dict[str, str]:
    """Number of pairs, then name and value of each, all 32 bit lengths before them.

    Raises: as ``HeaderDecoder.decode``.
    """
    texts: list[str] = []
    try:
        (count,) = _U32.unpack_from(plain)
        if count > COUNT_LIMIT:
            raise FrameError(f"header block: {count} headers, more than {COUNT_LIMIT}")
        at = _U32.size
        for _ in range(2 * count):
            (length,) = _U32.unpack_from(plain, at)
            at += _U32.size + length
            if at > len(plain):
                raise FrameError("header block: shorter than its lengths say")
            texts.append(plain[at - length : at].decode("latin-1"))
    except struct.error:
        raise FrameError("header block: shorter than its lengths say") from None
    if at != len(plain):
        raise FrameError("header block: longer than its lengths say")
    names, values = texts[::2], texts[1::2]
    if any(not name or name != name.lower() for name in names):
        raise HeadersRefused("a name is empty or not in lower case")
    if len(set(names)) != len(names):
        raise HeadersRefused("a name is there twice")
    return dict(zip(names, values, strict=True))


class HeaderEncoder:
    """The sending end. It has next to nothing to say (replies are empty), so it stores and does
    not compress: that is a valid stream too (RFC 1951, 3.2.4) and keeps no window in memory."""

    def __init__(self) -> None:
        self._started = False

    def encode(self, headers: Mapping[str, str]) -> bytes:
        """A block with ``headers``, whose names are in lower case."""
        plain = _U32.pack(len(headers))
        for text in (text.encode("latin-1") for pair in headers.items() for text in pair):
            plain += _U32.pack(len(text)) + text
        if len(plain) > _STORED_LIMIT:
            raise ValueError(f"a header block of {len(plain)} bytes")
        start = b"" if self._started else _ZLIB_HEADER
        self._started = True
        return start + _STORED.pack(0, len(plain), len(plain) ^ _STORED_LIMIT) + plain + _FLUSH
