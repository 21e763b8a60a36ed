"""Decompression: every kind, all of it, and nothing after a damaged byte."""

from __future__ import annotations

import gzip
import os
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import isal
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import FailedPrecondition, Fault, HostFault
from runtime.images.codec import OUTPUT_CHUNK, Codecs, Decoder, load_codecs

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

SITE_PACKAGES = str(Path(isal.__file__).parents[1])
CODECS = load_codecs(SITE_PACKAGES)
DATA = bytes(range(256)) * 20_000  # several output chunks
SKIPPABLE = b"\x50\x2a\x4d\x18\x04\0\0\0abcd"


@contextmanager
def decoder(data: bytes, codecs: Codecs = CODECS) -> Iterator[Decoder]:
    fd = os.memfd_create("stream")
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        yield Decoder(fd, codecs)
    finally:
        os.close(fd)


def decode(data: bytes) -> bytes:
    with decoder(data) as decoding:
        parts = []
        while part := decoding.pull():
            assert len(part) <= OUTPUT_CHUNK
            parts.append(part)
        assert decoding.pull() == b""
        return b"".join(parts)


@pytest.mark.parametrize(
    "stream",
    [
        DATA,
        gzip.compress(DATA),
        gzip.compress(DATA[:1000]) + gzip.compress(b"") + gzip.compress(DATA[1000:]),
        gzip.compress(DATA) + bytes(1000),
        zstd.compress(DATA),
        zstd.compress(DATA[:7]) + SKIPPABLE + zstd.compress(DATA[7:]) + SKIPPABLE,
        SKIPPABLE + zstd.compress(DATA),
    ],
    ids=["plain", "gzip", "gzip-members", "gzip-padded", "zstd", "zstd-frames", "zstd-skippable-first"],
)
def test_every_kind_is_told_by_its_magic(stream: bytes) -> None:
    assert decode(stream) == DATA


def test_short_and_empty_streams_are_plain() -> None:
    for stream in (b"", b"x", b"\x1f", b"\x28\xb5"):
        assert decode(stream) == stream


def test_a_slow_writer_changes_nothing() -> None:
    reader, writer = os.pipe()
    stream = gzip.compress(b"hello")
    decoding = Decoder(reader, CODECS)
    os.write(writer, stream[:1])
    os.write(writer, stream[1:])
    os.close(writer)
    assert decoding.pull() == b"hello"
    assert decoding.pull() == b""
    os.close(reader)


@pytest.mark.parametrize("compressed", [gzip.compress(DATA), zstd.compress(DATA)], ids=["gzip", "zstd"])
def test_a_cut_stream_is_refused(compressed: bytes) -> None:
    for cut in (5, len(compressed) // 2, len(compressed) - 1):
        with pytest.raises(FailedPrecondition, match="too early"):
            decode(compressed[:cut])


@pytest.mark.parametrize("compressed", [gzip.compress(DATA), zstd.compress(DATA)], ids=["gzip", "zstd"])
def test_what_follows_the_end_is_refused(compressed: bytes) -> None:
    with pytest.raises(FailedPrecondition, match="follows its end"):
        decode(compressed + b"garbage")


def test_a_damaged_checksum_is_refused() -> None:
    compressed = bytearray(gzip.compress(DATA))
    compressed[-6] ^= 1
    with pytest.raises(FailedPrecondition, match="damaged"):
        decode(bytes(compressed))


def test_a_window_beyond_the_bound_is_refused() -> None:
    options = {int(zstd.CompressionParameter.window_log): 28}
    compressor = zstd.ZstdCompressor(options=options)
    stream = compressor.compress(DATA) + compressor.flush()
    with pytest.raises(FailedPrecondition, match="damaged"):
        decode(stream)


def test_a_bomb_is_delivered_in_pieces() -> None:
    bomb = gzip.compress(bytes(64 << 20), 9)
    with decoder(bomb) as decoding:
        assert len(decoding.pull()) <= OUTPUT_CHUNK


def test_the_import_path_stays_as_it_was(tmp_path: Path) -> None:
    before = list(sys.path)
    load_codecs(SITE_PACKAGES)
    load_codecs("")
    assert sys.path == before


def test_a_missing_library_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "isal.igzip_lib", None)
    with pytest.raises(HostFault, match="isal"):
        load_codecs("/nonexistent")
    assert "/nonexistent" not in sys.path


@given(st.binary(max_size=300), st.sampled_from([b"", b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd", SKIPPABLE]))
@settings(max_examples=200)
def test_any_bytes_end_in_data_or_a_fault(data: bytes, magic: bytes) -> None:
    try:
        decode(magic + data)
    except Fault:
        return


@given(st.binary(max_size=2000), st.integers(0, 60), st.integers(0, 255))
@settings(max_examples=100)
def test_a_flipped_byte_never_goes_unnoticed_with_a_checksum(data: bytes, at: int, value: int) -> None:
    compressed = bytearray(gzip.compress(data, mtime=0))
    at %= len(compressed)
    compressed[at] = value
    try:
        decoded = decode(bytes(compressed))
    except Fault:
        return
    if bytes(compressed[:2]) == b"\x1f\x8b":  # else it is no gzip any more
        assert zlib.crc32(decoded) == zlib.crc32(data)
