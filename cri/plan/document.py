"""Plans and OCI documents as JSON, and back.

An environment value may hold any bytes but NUL. Those that are not UTF-8 are kept
in text the way ``os.fsdecode`` does (lone surrogates), which msgspec refuses and the
standard library's JSON writes; everything that stores or sends a spec has to use
``dump_json`` or that. msgspec comes first, because it takes a tenth of the time.

Invariant: what was written is read back equal, byte for byte of the environment.
"""

from __future__ import annotations

import json
from typing import Any, TypeVar

import msgspec

PlanT = TypeVar("PlanT", bound=msgspec.Struct)


def encode(plan: msgspec.Struct) -> bytes:
    """The JSON form of a plan."""
    return dump_json(plan)


def decode(data: bytes, kind: type[PlanT]) -> PlanT:
    """The plan that ``encode`` wrote.

    Raises:
        msgspec.DecodeError: it is not a ``kind``.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        try:
            loaded = json.loads(data)
        except ValueError as error:
            raise msgspec.DecodeError(str(error)) from error
        return msgspec.convert(loaded, kind)


def dump_json(value: Any) -> bytes:
    """JSON of plain data or a plan; in ASCII, with surrogates escaped, where it holds lone ones."""
    try:
        return msgspec.json.encode(value)
    except UnicodeEncodeError:
        return json.dumps(msgspec.to_builtins(value), separators=(",", ":")).encode("ascii")
