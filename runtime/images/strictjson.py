"""JSON from outside, taken strictly: one meaning or a refusal.

``manifest``, ``config``, ``archive`` and ``registry`` read what registries and
archives send through here. What Python's decoder lets pass (duplicate keys, NaN,
lone surrogates, any depth) is refused.

Invariant: a document that two parsers could read differently is never accepted.
"""

from __future__ import annotations

import json
import math
import re
from typing import Any

from runtime.errors import FailedPrecondition, ResourceExhausted

MAX_BYTES = 4 << 20
MAX_DEPTH = 64
MAX_DIGITS = 19  # what fits in 63 bits

_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|[\[{]|[\]}]', re.DOTALL)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")

Object = dict[str, Any]


def parse_object(data: bytes, what: str, limit: int = MAX_BYTES) -> Object:
    """The JSON object in ``data``; ``what`` names it in errors, ``limit`` is in bytes.

    Raises:
        ResourceExhausted: larger than ``limit``.
        FailedPrecondition: not one well-formed, unambiguous UTF-8 JSON object.
    """
    value = parse(data, what, limit)
    if not isinstance(value, dict):
        raise refused(what, "is not a JSON object")
    return value


def parse(data: bytes, what: str, limit: int = MAX_BYTES) -> Any:
    """Like :func:`parse_object` for any JSON value."""
    if len(data) > limit:
        raise ResourceExhausted(f"is larger than {limit} bytes", step="parse JSON", object=what)
    _check_depth(data, what)
    try:
        value = json.loads(
            data.decode("utf-8"),
            object_pairs_hook=_unique,
            parse_constant=_no_constant,
            parse_int=_bounded_int,
            parse_float=_finite_float,
        )
    except (ValueError, RecursionError) as error:
        raise refused(what, f"is not valid: {error}") from error
    if _SURROGATE.search(data):
        _check_text(value, what)
    return value


def refused(what: str, reason: str) -> FailedPrecondition:
    """The fault for content of ``what`` that is not acceptable."""
    return FailedPrecondition(reason, step="parse JSON", object=what)


def get_object(document: Object, key: str, what: str) -> Object:
    """The object at ``key``; absent and null are an empty one."""
    value = document.get(key)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise refused(what, f"{key} is not an object")
    return value


def get_list(document: Object, key: str, what: str) -> list[Any]:
    """The list at ``key``; absent and null are an empty one."""
    value = document.get(key)
    if value is None:
        return []
    if not isinstance(value, list):
        raise refused(what, f"{key} is not a list")
    return value


def get_text(document: Object, key: str, what: str) -> str:
    """The string at ``key``, free of NUL; absent and null are an empty one."""
    value = document.get(key)
    if value is None:
        return ""
    if not isinstance(value, str) or "\0" in value:
        raise refused(what, f"{key} is not a string without NUL")
    return value


def get_texts(document: Object, key: str, what: str) -> tuple[str, ...]:
    """The list of NUL-free strings at ``key``; absent and null are an empty one."""
    values = get_list(document, key, what)
    if not all(isinstance(value, str) and "\0" not in value for value in values):
        raise refused(what, f"{key} is not a list of strings without NUL")
    return tuple(values)


def get_text_map(document: Object, key: str, what: str) -> dict[str, str]:
    """The object of strings at ``key``; absent and null are an empty one."""
    values = get_object(document, key, what)
    if not all(isinstance(value, str) for value in values.values()):
        raise refused(what, f"{key} is not an object of strings")
    return values


def _check_depth(data: bytes, what: str) -> None:
    depth = 0
    for token in _TOKEN.finditer(data):
        first = token.group()[0]
        if first in b"[{":
            depth += 1
            if depth > MAX_DEPTH:
                raise refused(what, f"is nested deeper than {MAX_DEPTH} levels")
        elif first in b"]}":
            depth -= 1


def _unique(pairs: list[tuple[str, Any]]) -> Object:
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key occurs twice")
    return result


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _bounded_int(digits: str) -> int:
    if len(digits) > MAX_DIGITS + 1:
        raise ValueError("a number is too large")
    return int(digits)


def _finite_float(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError("a number is too large")
    return value


def _check_text(value: Any, what: str) -> None:
    """Refuse lone surrogates: they cannot be written as UTF-8 again."""
    pending = [value]
    while pending:
        item = pending.pop()
        if isinstance(item, dict):
            pending.extend(item)
            pending.extend(item.values())
        elif isinstance(item, list):
            pending.extend(item)
        elif isinstance(item, str):
            try:
                item.encode()
            except UnicodeEncodeError as error:
                raise refused(what, "holds a lone surrogate") from error
