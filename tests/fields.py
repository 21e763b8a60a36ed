"""Requests in which one text has a NUL: all of them, whatever fields the API has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

Asked = TypeVar("Asked", bound=Message)
TEXTS = (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES)
STARTS = ("a", "/a", "localhost//a")
"""What the text before the NUL is: some fields are refused for other reasons if they do not begin so."""


def with_a_nul(valid: Asked, *stored: str) -> Iterator[tuple[str, Asked]]:
    """The name of each text field of ``valid``'s kind, and copies of ``valid`` with a NUL in it.

    Without those below a field that is called as one of ``stored``: nothing but the store gets these.
    """
    for path in texts(valid.DESCRIPTOR):
        if not {field.name for field in path}.isdisjoint(stored):
            continue
        for start in STARTS:
            request = type(valid)()
            request.CopyFrom(valid)
            put(request, path, f"{start}\0b")
            yield ".".join(field.name for field in path), request


def texts(message: Any, *above: FieldDescriptor) -> Iterator[tuple[FieldDescriptor, ...]]:
    """The way to each text field of what the descriptor ``message`` describes."""
    for field in message.fields:
        if field.message_type is not None:
            yield from texts(field.message_type, *above, field)
        elif field.type in TEXTS:
            yield (*above, field)


def put(message: Message, path: tuple[FieldDescriptor, ...], text: str) -> None:
    field, *below = path
    if below and field.message_type is not None and field.message_type.GetOptions().map_entry:
        key, value = (text, "x") if below[0].name == "key" else ("memory.high", text)
        getattr(message, field.name)[key] = value
    elif below:
        inner = getattr(message, field.name)
        put(inner.add() if field.is_repeated else inner, tuple(below), text)
    elif field.is_repeated:
        getattr(message, field.name).append(text)
    else:
        setattr(message, field.name, text if field.type == FieldDescriptor.TYPE_STRING else text.encode())
