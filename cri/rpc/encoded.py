"""Answers of List and Status RPCs, joined from encodings that were made once an object.

A repeated message field is the concatenation of ``tag, length, message``
(protobuf wire format), so a list of 500 containers costs one join as long as
nothing changed. Used by the List and Status RPCs of ``cri.rpc``.

Invariant: an encoding is used only for the very record object it was made from;
records are frozen, so it cannot be stale.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Generic, Protocol, TypeVar

from google.protobuf.message import Message


class Identified(Protocol):
    @property
    def id(self) -> str: ...


class Labelled(Protocol):
    """A message of the API that describes an object."""

    @property
    def labels(self) -> Mapping[str, str]: ...

    def SerializeToString(self) -> bytes: ...


RecordT = TypeVar("RecordT", bound=Identified)


ONE_BYTE = tuple(bytes([number]) for number in range(0x80))


def varint(number: int) -> bytes:
    """Base-128 encoding of a non-negative integer."""
    if number < 0x80:
        return ONE_BYTE[number]
    if number < 0x4000:
        return bytes((number & 0x7F | 0x80, number >> 7))
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, message: Message | Labelled) -> bytes:
    """``message`` as one element of the repeated field ``number``."""
    return element(number, message.SerializeToString())


def element(number: int, body: bytes) -> bytes:
    """As ``field``, for a message that is encoded already."""
    return varint(number << 3 | 2) + varint(len(body)) + body


class EncodedList(Generic[RecordT]):
    """Encodings and labels by object id, made by ``build`` when the record is another than before."""

    def __init__(self, build: Callable[[RecordT], Labelled]) -> None:
        self._build = build
        self._made: dict[str, tuple[RecordT, bytes, dict[str, str]]] = {}

    def join(self, records: Iterable[RecordT]) -> bytes:
        """The response message whose field 1 repeats ``records``."""
        return b"".join(self.items(records))

    def items(self, records: Iterable[RecordT]) -> list[bytes]:
        """The elements of that field, which may be joined in any portions."""
        return [self._of(record)[1] for record in records]

    def elements(self, number: int, records: Iterable[RecordT]) -> bytes:
        """``records`` as a response message has them whose field ``number``, at most 15, repeats them."""
        tag = ONE_BYTE[number << 3 | 2]  # of one byte, as that of field 1
        return b"".join(tag + item[1:] for item in self.items(records))

    def labels(self, record: RecordT) -> Mapping[str, str]:
        return self._of(record)[2]

    def _of(self, record: RecordT) -> tuple[RecordT, bytes, dict[str, str]]:
        made = self._made.get(record.id)
        if made is None or made[0] is not record:
            message = self._build(record)
            made = self._made[record.id] = (record, field(1, message), dict(message.labels))
        return made

    def forget(self, id: str) -> None:
        self._made.pop(id, None)
