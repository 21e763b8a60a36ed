"""Header blocks: compressed by clients, bounded whatever they expand to."""

from __future__ import annotations

import hashlib
import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.streaming.spdy_frames import FrameError
from cri.streaming.spdy_headers import (
    BLOCK_LIMIT,
    COUNT_LIMIT,
    DICTIONARY,
    HeaderDecoder,
    HeaderEncoder,
    HeadersRefused,
    parse_block,
)
from tests.unit.cri.streaming.peer import ClientHeaders, plain_block


def test_the_dictionary_is_the_one_of_the_specification() -> None:
    # zlib names a dictionary by its Adler-32; peers send this number in their first block.
    assert len(DICTIONARY) == 1423
    assert zlib.adler32(DICTIONARY) == 0xE3C6A7C2
    assert hashlib.sha256(DICTIONARY).hexdigest().startswith("51d27341373f923f3cd88e1eb7162aea")


def test_blocks_follow_each_other_in_one_stream() -> None:
    client, decoder = ClientHeaders(), HeaderDecoder()
    for number in range(5):
        headers = {"streamtype": "data", "port": "80", "requestid": str(number)}
        assert decoder.decode(client.encode(headers)) == headers


def test_what_the_server_says_is_read_by_any_inflater() -> None:
    encoder, inflate = HeaderEncoder(), zlib.decompressobj(zdict=DICTIONARY)
    for headers in ({}, {"a": "1"}, {}):
        assert inflate.decompress(encoder.encode(headers)) == plain_block(headers)
        assert not inflate.eof
    with pytest.raises(ValueError, match="header block of"):
        encoder.encode({"x": "y" * 70_000})


def test_a_bad_name_spoils_its_own_block_alone() -> None:
    client, decoder = ClientHeaders(), HeaderDecoder()
    for headers in ({"Port": "80"}, {"": "x"}):
        with pytest.raises(HeadersRefused):
            decoder.decode(client.encode(headers))
    with pytest.raises(HeadersRefused, match="twice"):
        decoder.decode(client.pack(struct.pack(">I", 2) + plain_block({"a": "b"})[4:] * 2))
    assert decoder.decode(client.encode({"a": "b"})) == {"a": "b"}


def test_a_bomb_is_refused_before_it_expands() -> None:
    """CVE-2026-35469: a count of headers that no memory holds."""
    with pytest.raises(FrameError, match=f"more than {BLOCK_LIMIT}"):
        HeaderDecoder().decode(ClientHeaders().encode({"a": "x" * 10_000_000}))
    with pytest.raises(FrameError, match=f"more than {COUNT_LIMIT}"):
        HeaderDecoder().decode(ClientHeaders().pack(b"\xff\xff\xff\xff"))


@pytest.mark.parametrize(
    "plain",
    [b"", b"\0\0", b"\0\0\0\1", b"\0\0\0\1\0\0\0\5abc", b"\0\0\0\1\xff\xff\xff\xff", plain_block({"a": "b"}) + b"x"],
)
def test_lengths_that_do_not_fit_are_refused(plain: bytes) -> None:
    with pytest.raises(FrameError, match="lengths say"):
        parse_block(plain)


def test_what_is_no_stream_of_zlib_is_refused() -> None:
    with pytest.raises(FrameError):
        HeaderDecoder().decode(b"not compressed")
    with pytest.raises(FrameError, match="ends the compressed stream"):
        HeaderDecoder().decode(zlib.compress(plain_block({})))


@given(st.lists(st.binary(max_size=100), max_size=5), st.booleans())
def test_any_bytes_give_headers_or_an_error(blocks: list[bytes], compressed: bool) -> None:
    decoder, client = HeaderDecoder(), ClientHeaders()
    try:
        for block in blocks:
            decoder.decode(client.pack(block) if compressed else block)
    except (FrameError, HeadersRefused):
        return


@given(st.dictionaries(st.text("abcdef-", min_size=1), st.text("xyz\0", max_size=20), max_size=10))
def test_headers_come_back_as_they_were(headers: dict[str, str]) -> None:
    assert HeaderDecoder().decode(ClientHeaders().encode(headers)) == headers
