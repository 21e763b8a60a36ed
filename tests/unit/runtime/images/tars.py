"""Tar archives byte by byte, so that tests can also write what no tool would."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BLOCK = 512
END = bytes(2 * BLOCK)


def octal(value: int, width: int) -> bytes:
    return b"%0*o\0" % (width - 1, value)


def header(
    name: bytes,
    *,
    kind: bytes = b"0",
    size: int | bytes = 0,
    mode: int | bytes = 0o644,
    uid: int | bytes = 0,
    gid: int | bytes = 0,
    mtime: int | bytes = 1_600_000_000,
    link: bytes = b"",
    device: tuple[int, int] = (0, 0),
    prefix: bytes = b"",
    magic: bytes = b"ustar\x0000",
) -> bytes:
    """One header with a right checksum. A number given as bytes is written as it is."""

    def field(value: int | bytes, width: int) -> bytes:
        return value.ljust(width, b"\0") if isinstance(value, bytes) else octal(value, width)

    block = b"".join(
        [
            name[:100].ljust(100, b"\0"),
            field(mode, 8),
            field(uid, 8),
            field(gid, 8),
            field(size, 12),
            field(mtime, 12),
            b" " * 8,
            kind,
            link[:100].ljust(100, b"\0"),
            magic,
            b"".ljust(64, b"\0"),
            octal(device[0], 8),
            octal(device[1], 8),
            prefix.ljust(155, b"\0"),
            bytes(12),
        ]
    )
    return block[:148] + b"%06o\0 " % sum(block) + block[156:]


def padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % BLOCK)


def entry(name: bytes, data: bytes = b"", **fields: Any) -> bytes:
    """A header and its data."""
    fields.setdefault("size", len(data))
    return header(name, **fields) + padded(data)


def directory(name: bytes, mode: int = 0o755, **fields: Any) -> bytes:
    return entry(name, kind=b"5", mode=mode, **fields)


def symlink(name: bytes, target: bytes, **fields: Any) -> bytes:
    return entry(name, kind=b"2", link=target, mode=0o777, **fields)


def hardlink(name: bytes, target: bytes, **fields: Any) -> bytes:
    return entry(name, kind=b"1", link=target, **fields)


def records(values: Mapping[bytes, bytes]) -> bytes:
    """Pax records with their lengths."""
    result = b""
    for key, value in values.items():
        body = b" " + key + b"=" + value + b"\n"
        length = len(body)
        while length != len(body) + len(str(length)):
            length = len(body) + len(str(length))
        result += str(length).encode() + body
    return result


def pax(values: Mapping[bytes, bytes], kind: bytes = b"x") -> bytes:
    return entry(b"pax", records(values), kind=kind)


def long_name(name: bytes, kind: bytes = b"L") -> bytes:
    return entry(b"././@LongLink", name + b"\0", kind=kind)


def archive(*parts: bytes) -> bytes:
    return b"".join(parts) + END
