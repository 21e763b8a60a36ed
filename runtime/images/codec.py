"""Decompression of layer streams: gzip, zstd or none, told by the stream's own magic.

``worker`` loads the codecs before it enters its jail and decodes inside it. The
libraries live in the application's site-packages, which the worker's interpreter
does not have on its path.

Invariant: memory stays at one input and one output chunk, whatever the stream says.
"""

from __future__ import annotations

import importlib
import os
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from runtime.errors import FailedPrecondition, HostFault

INPUT_CHUNK = 1 << 18
OUTPUT_CHUNK = 1 << 20
MAX_WINDOW_LOG = 27  # 128 MiB, the most that zstd itself takes without being told to
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
_ZSTD_SKIPPABLE = b"\x2a\x4d\x18"  # after a first byte 0x50 to 0x5f


class Decompressor(Protocol):
    """One gzip member or zstd frame, as the libraries spell it."""

    needs_input: bool
    eof: bool
    unused_data: bytes

    def decompress(self, data: bytes, max_length: int) -> bytes: ...


@dataclass(frozen=True, slots=True)
class Codecs:
    """Makers of decompressors, and what these raise on bad input."""

    gzip: Callable[[], Decompressor]
    zstd: Callable[[], Decompressor]
    errors: tuple[type[Exception], ...]


def load_codecs(site_packages: str) -> Codecs:
    """Import isal and zstd, from ``site_packages`` too unless it is empty.

    The import path is as before when this returns.

    Raises:
        HostFault: a library is missing.
    """
    if site_packages:
        sys.path.append(site_packages)
    try:
        igzip: Any = importlib.import_module("isal.igzip_lib")
        zstd: Any = importlib.import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError as error:
        raise HostFault(f"{error}", step="load codecs", object=site_packages) from error
    finally:
        if site_packages:
            sys.path.remove(site_packages)
    options = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
    codecs = Codecs(
        gzip=lambda: igzip.IgzipDecompressor(flag=igzip.DECOMP_GZIP),
        zstd=lambda: zstd.ZstdDecompressor(options=options),
        errors=(igzip.error, zstd.ZstdError, zlib.error, ValueError, EOFError, MemoryError),
    )
    codecs.gzip(), codecs.zstd()  # what they import lazily, they import now
    return codecs


class Decoder:
    """Decodes what ``fd`` delivers; the descriptor stays the caller's."""

    def __init__(self, fd: int, codecs: Codecs) -> None:
        self._fd = fd
        self._codecs = codecs
        self._pending = b""
        self._make: Callable[[], Decompressor] | None = None
        self._current: Decompressor | None = None
        self._magic: tuple[bytes, ...] = ()
        self._begun = False

    def pull(self) -> bytes:
        """The next decoded bytes, at most ``OUTPUT_CHUNK``; empty at the end.

        Raises:
            FailedPrecondition: damaged, cut off, or followed by something else.
        """
        if not self._begun:
            self._begin()
        if self._make is None:
            data, self._pending = self._pending or self._read(), b""
            return data
        try:
            return self._decompress()
        except self._codecs.errors as error:
            raise _damaged(f"it is damaged: {error}") from error

    def _begin(self) -> None:
        self._begun = True
        while len(self._pending) < 4 and (data := self._read()):
            self._pending += data
        start = self._pending[:4]
        if start.startswith(GZIP_MAGIC):
            self._make = self._codecs.gzip
        elif start == ZSTD_MAGIC or _is_skippable(start):
            self._make = self._codecs.zstd

    def _decompress(self) -> bytes:
        while True:
            if self._current is None and not self._next_member():
                return b""
            current = self._current
            assert current is not None
            if current.needs_input and not self._pending:
                self._pending = self._read()
                if not self._pending:
                    raise _damaged("it ends too early")
            data, self._pending = self._pending, b""
            decoded = current.decompress(data, OUTPUT_CHUNK)
            if current.eof:
                self._pending = bytes(current.unused_data)
                self._current = None
            if decoded:
                return bytes(decoded)

    def _next_member(self) -> bool:
        """Begin the next member or frame, if there is one. Zeros may pad the end of a gzip file."""
        while len(self._pending) < 4 and (data := self._read()):
            self._pending += data
        while self._make is self._codecs.gzip and self._pending and not self._pending.strip(b"\0"):
            self._pending = self._read()
        if not self._pending:
            return False
        start = self._pending[:4]
        if self._make is self._codecs.gzip and not start.startswith(GZIP_MAGIC):
            raise _damaged("something follows its end")
        if self._make is self._codecs.zstd and start != ZSTD_MAGIC and not _is_skippable(start):
            raise _damaged("something follows its end")
        assert self._make is not None
        self._current = self._make()
        return True

    def _read(self) -> bytes:
        return os.read(self._fd, INPUT_CHUNK)


def _is_skippable(start: bytes) -> bool:
    return len(start) == 4 and 0x50 <= start[0] <= 0x5F and start[1:] == _ZSTD_SKIPPABLE


def _damaged(reason: str) -> FailedPrecondition:
    return FailedPrecondition(reason, step="decompress", object="layer stream")
