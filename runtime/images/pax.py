"""PAX extended header records: what they override in a tar entry.

Only ``tar`` uses it. Source: POSIX.1-2017, pax, "Extended Header"; the keys of
extended attributes (``SCHILY.xattr.``) come from star(5).

Invariant: a record is applied or ignored as a whole; one that is malformed, or
that asks for what is not supported, refuses the archive.
"""

from __future__ import annotations

import re

from runtime.errors import FailedPrecondition

XATTR_PREFIX = b"SCHILY.xattr."
_SPARSE_PREFIX = b"GNU.sparse."
_LENGTH_DIGITS = 8
_TIME = re.compile(rb"(-?)([0-9]{1,19})(?:\.([0-9]*))?")
_MAX_TIME = (1 << 63) - 1

Records = dict[bytes, bytes]


def parse_records(data: bytes) -> Records:
    """The records of one header, the last one of a key wins.

    Raises:
        FailedPrecondition: a length that does not fit, a key without name or value, sparse files.
    """
    records: Records = {}
    position = 0
    while position < len(data):
        space = data.find(b" ", position, position + _LENGTH_DIGITS)
        digits = data[position:space] if space > 0 else b""
        if not digits.isdigit():
            raise _refused("has no length")
        end = position + int(digits)
        if end > len(data) or end <= space + 1 or data[end - 1 : end] != b"\n":
            raise _refused("has a length that does not fit")
        key, equals, value = data[space + 1 : end - 1].partition(b"=")
        if not key or not equals or b"\0" in key:
            raise _refused("has no key")
        if key.startswith(_SPARSE_PREFIX):
            raise FailedPrecondition("sparse files are not supported", step="read tar")
        records[key] = value
        position = end
    return records


def get_name(records: Records, key: bytes, otherwise: bytes) -> bytes:
    """The path at ``key``, or ``otherwise`` when it is absent or empty."""
    value = records.get(key)
    if not value:
        return otherwise
    if b"\0" in value:
        raise _refused("has a path with NUL")
    return value


def get_number(records: Records, key: bytes, otherwise: int) -> int:
    """The non-negative decimal at ``key``, or ``otherwise`` when it is absent or empty."""
    value = records.get(key)
    if not value:
        return otherwise
    if not value.isdigit() or len(value) > 19:
        raise _refused(f"{key.decode(errors='replace')[:40]} is not a number")
    return int(value)


def get_time(records: Records, otherwise: int) -> int:
    """``mtime`` in ns since the epoch; 0 for what no kernel can store."""
    value = records.get(b"mtime")
    if not value:
        return otherwise
    match = _TIME.fullmatch(value)
    if match is None:
        raise _refused("mtime is not a time")
    fraction = (match[3] or b"")[:9].ljust(9, b"0")
    return bounded_time(-1 if match[1] else int(match[2]) * 1_000_000_000 + int(fraction))


def bounded_time(nanoseconds: int) -> int:
    """``nanoseconds`` if it is between 1970 and 2262, else 0, as Docker and containerd do."""
    return nanoseconds if 0 <= nanoseconds <= _MAX_TIME else 0


def get_xattrs(records: Records) -> dict[bytes, bytes] | None:
    """The extended attributes by full name, None when there are none."""
    found = {key[len(XATTR_PREFIX) :]: value for key, value in records.items() if key.startswith(XATTR_PREFIX)}
    if not all(0 < len(name) <= 255 for name in found) or any(len(value) > 65536 for value in found.values()):
        raise _refused("has an extended attribute that no file can have")
    return found or None


def _refused(reason: str) -> FailedPrecondition:
    return FailedPrecondition(f"pax record {reason}", step="read tar")
