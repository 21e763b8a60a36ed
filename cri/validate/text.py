"""The checks that every validator is made of: names, text, paths, numbers, maps.

Each takes the value and the name of its field and raises, or returns None.

Invariant: pure; a message never shows more than the beginning of a value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from runtime.errors import FailedPrecondition, InvalidArgument, NotFound

MAX_NAME = 253
"""Bytes of a pod's or container's name, namespace and uid; Kubernetes' own limit of an object's name."""
MAX_PATH = 4095
"""PATH_MAX without the NUL."""
MAX_COMPONENT = 255
"""NAME_MAX: bytes between two slashes."""
MAX_LABELS = 1 << 20
"""Bytes of all keys and values of one map; Kubernetes allows 256 KiB of annotations."""

CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")
"""C0, DEL, C1, and what some readers take for the end of a line."""

HANDLERS = ("", "crisp")
"""The runtime handlers that exist: the default one, by either name."""


def refuse(field: str, reason: str) -> InvalidArgument:
    """The fault of a request that can never be right."""
    return InvalidArgument(reason, object=field)


def not_yet(field: str, feature: str) -> FailedPrecondition:
    """The fault of a request for something that crisp does not have; ``feature`` is its name."""
    return FailedPrecondition(f"{feature}: not supported yet", object=field)


def show(value: str) -> str:
    """``value`` for a message: quoted, cut at 80 characters."""
    return repr(value if len(value) <= 80 else value[:80] + "…")


def check_name(value: str, field: str) -> None:
    """A part of an object's identity: not empty, one path component, no control characters."""
    if not value:
        raise refuse(field, "is empty")
    check_text(value, field)
    if len(value.encode()) > MAX_NAME:
        raise refuse(field, f"is longer than {MAX_NAME} bytes")
    if "/" in value or value in (".", ".."):
        raise refuse(field, f"must not have a slash or be a dot: {show(value)}")


def check_text(value: str, field: str) -> None:
    """One line without control characters; may be empty."""
    if CONTROL.search(value):
        raise refuse(field, f"has a control character: {show(value)}")


def check_word(value: str, field: str) -> None:
    """Text that is not empty and has no blanks."""
    check_text(value, field)
    if not value or any(char.isspace() for char in value):
        raise refuse(field, f"is empty or has a blank: {show(value)}")


def check_path(value: str, field: str) -> None:
    """An absolute path without ``..``."""
    if not value:
        raise refuse(field, "is empty")
    if not value.startswith("/"):
        raise refuse(field, f"must be an absolute path: {show(value)}")
    check_relative(value.lstrip("/"), field)


def check_relative(value: str, field: str) -> None:
    """A path without ``..`` and control characters; relative, may be empty."""
    check_text(value, field)
    if value.startswith("/"):
        raise refuse(field, f"must be a relative path: {show(value)}")
    if ".." in value.split("/"):
        raise refuse(field, f"must not have '..': {show(value)}")
    if len(value.encode()) > MAX_PATH:
        raise refuse(field, f"is longer than {MAX_PATH} bytes")
    if any(len(name.encode()) > MAX_COMPONENT for name in value.split("/")):
        raise refuse(field, f"has a name of more than {MAX_COMPONENT} bytes: {show(value)}")


def check_range(value: int, field: str, low: int, high: int) -> None:
    if not low <= value <= high:
        raise refuse(field, f"must be between {low} and {high}, not {value}")


def check_choice(value: int, field: str, choices: Mapping[int, str]) -> None:
    """``value`` is a number of an enumeration; one that is not in ``choices`` is refused."""
    if value not in choices:
        raise refuse(field, f"must be one of {', '.join(choices.values())}, not {value}")


def check_map(values: Mapping[str, str], field: str) -> None:
    """Labels or annotations: any text, bounded in all."""
    size = sum(len(key.encode()) + len(value.encode()) for key, value in values.items())
    if size > MAX_LABELS:
        raise refuse(field, f"has {size} bytes, more than {MAX_LABELS}")


def check_handler(handler: str, field: str) -> None:
    """
    Raises:
        NotFound: there is no such runtime handler.
    """
    if handler not in HANDLERS:
        raise NotFound(f"no such runtime handler: {show(handler)}", object=field)
