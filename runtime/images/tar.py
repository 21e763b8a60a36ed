"""A streaming tar reader: ustar, GNU long names, pax, as image layers use them.

``apply`` walks the entries; ``window`` is the stream below. Python's tarfile is not
used: it loses xattrs, has looped endlessly and costs four times as much.
Source: POSIX.1-2017 (ustar, pax), tar(5) of libarchive for the GNU forms.

Invariant: every header read moves the stream forward, and no header makes the
reader allocate more than ``MAX_EXTENSION`` bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from dataclasses import dataclass

from runtime.errors import FailedPrecondition, ResourceExhausted
from runtime.images import pax
from runtime.images.window import Window, truncated

BLOCK = 512
MAX_EXTENSION = 1 << 20
MAX_ID = (1 << 32) - 2
MAX_SIZE = (1 << 63) - 1

REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCKDEVICE, DIRECTORY, FIFO = b"0", b"1", b"2", b"3", b"4", b"5", b"6"
_KINDS = {kind: kind for kind in (REGULAR, HARDLINK, SYMLINK, CHARACTER, BLOCKDEVICE, DIRECTORY, FIFO)} | {
    b"\0": REGULAR,
    b"7": REGULAR,
}
_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK = b"x", b"g", b"L", b"K"
_EXTENSIONS = frozenset({_PAX, _PAX_GLOBAL, _LONG_NAME, _LONG_LINK})
_OVERRIDING = frozenset({b"path", b"linkpath", b"size"})

_HEADER = struct.Struct("100s8s8s8s12s12s8sc100s8s32s32s8s8s155s12x")
_ZEROS = bytes(BLOCK)
_BLANK_SUM = 8 * ord(" ")


@dataclass(slots=True)
class Entry:
    """One member. Names are bytes as the archive has them, not normalised; ``mtime`` in ns;
    ``size`` is that of the data that follows, 0 for all but regular files."""

    kind: bytes
    name: bytes
    link: bytes
    mode: int
    uid: int
    gid: int
    size: int
    mtime: int
    major: int
    minor: int
    xattrs: dict[bytes, bytes] | None = None


class TarReader:
    """Yields entries; the data of the current one is read with :meth:`read_data`.

    ``pull`` gives the next bytes of the tar, empty at the end. ``max_headers`` bounds the
    headers of all kinds.
    """

    def __init__(self, pull: Callable[[], bytes], max_headers: int) -> None:
        self._window = Window(pull)
        self._headers_left = max_headers
        self._data_left = 0
        self._padding = 0
        self._name = ""

    def next_entry(self) -> Entry | None:
        """The next entry, None at the end of the archive. What is left of the previous one's data is passed over.

        Raises:
            FailedPrecondition: malformed, truncated, or of a form that is not supported.
            ResourceExhausted: more headers than allowed.
        """
        if self._data_left or self._padding:
            self._window.skip(self._data_left + self._padding, self._name)
            self._data_left = self._padding = 0
        extensions: dict[bytes, bytes] = {}
        while (header := self._next_header()) is not None:
            kind = header[156:157]
            if kind not in _EXTENSIONS:
                return self._entry(header, extensions)
            if kind in extensions:
                raise refused("two extensions of one kind for one entry")
            data = self._extension(header)
            if kind == _PAX_GLOBAL:
                _check_global(data)
            else:
                extensions[kind] = data
        if extensions:
            raise truncated("an extended header")
        return None

    def read_data(self) -> memoryview:
        """Some of the current entry's data that was not read yet, empty when all was.

        The view is valid until the next call on this reader.
        """
        if not self._data_left:
            return memoryview(b"")
        chunk = self._window.some(self._data_left, self._name)
        self._data_left -= len(chunk)
        return chunk

    def drain(self) -> None:
        """Read what follows the archive's end: it belongs to the digest."""
        self._window.drain()

    def _next_header(self) -> bytes | None:
        block = self._window.take(BLOCK)
        if block == _ZEROS:
            block = self._window.take(BLOCK)
            if block not in (b"", _ZEROS):
                raise refused("data after half an end mark")
            return None
        if not block:
            return None
        if len(block) != BLOCK:
            raise truncated("a header")
        self._headers_left -= 1
        if self._headers_left < 0:
            raise ResourceExhausted("the archive has more entries than allowed", step="read tar")
        recorded = block[148:156].strip(b" \0")
        actual = sum(block) - sum(block[148:156]) + _BLANK_SUM
        if not recorded.isdigit() or recorded.lstrip(b"0") != b"%o" % actual:
            raise refused("a header's checksum is wrong: this is no tar, or it is damaged")
        return block

    def _extension(self, header: bytes) -> bytes:
        size = parse_number(header[124:136], "size")
        if not 0 <= size <= MAX_EXTENSION:
            raise refused(f"an extended header is larger than {MAX_EXTENSION} bytes")
        data = self._window.exactly(size, "an extended header")
        self._window.skip(-size % BLOCK, "an extended header")
        return data

    def _entry(self, header: bytes, extensions: dict[bytes, bytes]) -> Entry:
        entry = parse_header(header)
        if extensions:
            _extend(entry, extensions)
        if entry.kind == REGULAR and entry.name.endswith(b"/"):
            if entry.size:
                raise refused(f"a directory with data: {printable(entry.name)}")
            entry.kind = DIRECTORY  # how version 7 wrote them
        if entry.kind != REGULAR:
            entry.size = 0  # what the others carry as size is not followed by data
        if not 0 <= entry.size <= MAX_SIZE or not 0 <= entry.uid <= MAX_ID or not 0 <= entry.gid <= MAX_ID:
            raise refused(f"size, owner or group out of range: {printable(entry.name)}")
        self._data_left = entry.size
        self._padding = -entry.size % BLOCK
        self._name = printable(entry.name) if entry.size else ""
        return entry


def parse_header(header: bytes) -> Entry:
    """What the 512 bytes say by themselves; numbers are not range-checked yet.

    Raises:
        FailedPrecondition: a field that is not a number, a type that layers do not have.
    """
    name, mode, uid, gid, size, mtime, _, flag, link, magic, _, _, major, minor, prefix = _HEADER.unpack(header)
    kind = _KINDS.get(flag)
    name = name.partition(b"\0")[0]
    if magic == b"ustar\x0000" and prefix[0]:
        name = prefix.partition(b"\0")[0] + b"/" + name
    if kind is None:
        what = "sparse files are" if flag == b"S" else f"entry type {flag!r} is"
        raise refused(f"{what} not supported: {printable(name)}")
    is_device = kind in (CHARACTER, BLOCKDEVICE)
    return Entry(
        kind,
        name,
        link.partition(b"\0")[0],
        parse_number(mode, "mode") & 0o7777,
        parse_number(uid, "uid"),
        parse_number(gid, "gid"),
        parse_number(size, "size"),
        pax.bounded_time(parse_number(mtime, "mtime") * 1_000_000_000),
        parse_number(major, "major") if is_device else 0,
        parse_number(minor, "minor") if is_device else 0,
    )


def parse_number(field: bytes, what: str) -> int:
    """A numeric header field: octal digits, or base 256 (GNU), which may be negative.

    Raises:
        FailedPrecondition: anything else.
    """
    if field[0] & 0x80:
        bits = len(field) * 8 - 1
        value = int.from_bytes(field, "big") & ((1 << bits) - 1)
        return value - (1 << bits) if value >> (bits - 1) else value
    digits = field.strip(b" \0")
    if not digits:
        return 0
    try:
        if digits.isdigit():
            return int(digits, 8)
    except ValueError:
        pass
    raise refused(f"{what} is not an octal number")


def printable(name: bytes) -> str:
    """``name`` for a message: bounded, without control characters."""
    return ascii(name[:200].decode(errors="backslashreplace"))


def refused(reason: str) -> FailedPrecondition:
    """The fault for an archive that is not acceptable."""
    return FailedPrecondition(reason, step="read tar")


def _extend(entry: Entry, extensions: dict[bytes, bytes]) -> None:
    if (records := extensions.get(_PAX)) is not None:
        parsed = pax.parse_records(records)
        entry.name = pax.get_name(parsed, b"path", entry.name)
        entry.link = pax.get_name(parsed, b"linkpath", entry.link)
        entry.size = pax.get_number(parsed, b"size", entry.size)
        entry.uid = pax.get_number(parsed, b"uid", entry.uid)
        entry.gid = pax.get_number(parsed, b"gid", entry.gid)
        entry.mtime = pax.get_time(parsed, entry.mtime)
        entry.xattrs = pax.get_xattrs(parsed)
    if (name := extensions.get(_LONG_NAME)) is not None:
        entry.name = name.partition(b"\0")[0]
    if (link := extensions.get(_LONG_LINK)) is not None:
        entry.link = link.partition(b"\0")[0]


def _check_global(data: bytes) -> None:
    """Global records are ignored, as by the peers; one that would change what is read cannot be."""
    if not _OVERRIDING.isdisjoint(pax.parse_records(data)):
        raise refused("a global header overrides names or sizes")
