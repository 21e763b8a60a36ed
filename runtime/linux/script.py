"""The system calls of a process that is being born, written down before it is.

A script is data: a list of calls with their arguments, made by pure functions
(``runtime.init``, ``runtime.command``, ``runtime.pause``) and carried out by
``launch.c``, which knows nothing of containers. An argument is a number, a ``Slot``
(what an earlier call returned, or a descriptor that the monitor gives), or the
address of data of the script. Where a call may fail and the script goes on, the
call says so (``forgive``, ``otherwise``); any other failure ends the process and is
reported by the number of the call, for which ``fault`` has the words.

Invariant: what a script does depends on nothing but its bytes and what it is given.

The bytes, all little-endian as both machines are:

    head   magic, size, born, failed, offset of the calls, their count, offset of the slots, given
    data   strings and structures
    slots  one long each, the given ones first
    calls  number, kinds of the arguments (4 bits each), slot of the result, where to go on
           when a failure is forgiven (0: the next call), forgiven errnos (bits), six arguments
"""

from __future__ import annotations

import builtins
import os
import struct
from collections.abc import Iterable, Sequence
from types import TracebackType
from typing import ClassVar, NewType, Protocol

from runtime.errors import Fault, HostFault
from runtime.linux.libc import cstring
from runtime.linux.numbers import NUMBERS
from runtime.linux.spawn import MAGIC

_HEAD = struct.Struct("=IIiiIIII")
_CALL = struct.Struct("=4I7Q")
_NOWHERE = 0xFFFFFFFF
_WORD = (1 << 64) - 1
_LOW = 0xFFFFFFFF
_SLOT, _POINTER, _LOADED = 1 << 64, 2 << 64, 3 << 64

# launch.c, in this order.
_OURS = ("JUMP", "IF_SAME", "IF_DIFFERENT", "EXPECT", "SET", "STORE", "RELOCATE", "COMPOSE", "CLOSE", "LIMIT_BOUNDING")
_MAKING = ("FAIL", "MAKE_DIRECTORY", "MAKE_FILE", "MAKE_EXACT", "BEAR")
_CALLS = {**NUMBERS, **{name: 1000 + index for index, name in enumerate((*_OURS, *_MAKING))}}

LEADS_OUT, IS_DIRECTORY, NO_PLACE, UNEXPECTED = 5001, 5002, 5003, 5004
"""What the calls that make a path return instead of an errno: a ".." in what does not exist, a directory
where a file should be, and a path that is no place for a mount. The last is of a check that has failed."""

ANY = (-1,)
"""To forgive every errno that a call of the kernel's can have."""

_PACKED_LIMIT = 16384
_WORDS_LIMIT = 2048


class Refusals(Protocol):
    """By errno, what a failure is if it is no HostFault: a mapping, or anything that can be asked like one.

    An empty message is the errno's own.
    """

    def get(self, errno: int, default: tuple[type[Fault], str], /) -> tuple[type[Fault], str]: ...


_HOST: tuple[type[Fault], str] = (HostFault, "")

# Numbers with a mark above their 64 bits: hundreds are written for each container.
Slot = NewType("Slot", int)
"""Where a call's result is kept. A forgiven failure leaves the negative errno there."""

At = NewType("At", int)
"""The address of something in the script's data."""

Loaded = NewType("Loaded", int)
"""The eight bytes at an address, when the call is made."""

Argument = int | str | bytes | Slot | At | Loaded | None


def plus(at: At, distance: int) -> At:
    """The address ``distance`` bytes further on."""
    return At(at + distance)


def offset(at: At) -> int:
    """Where in the script ``at`` is: for a word that ``relocate`` makes an address of."""
    return at & _WORD


def number(slot: Slot) -> int:
    """Which slot it is: for COMPOSE."""
    return slot & _LOW


def load(at: At, distance: int = 0) -> Loaded:
    """What is at ``at``, or ``distance`` bytes further on."""
    return Loaded(at - _POINTER + _LOADED + distance)


class Label:
    """A place in the list of calls."""

    __slots__ = ("position",)

    def __init__(self) -> None:
        self.position = -1


class _Step:
    __slots__ = ("_before", "_now", "_script")

    def __init__(self, script: Script, now: tuple[str, str]) -> None:
        self._script, self._now, self._before = script, now, script.where

    def __enter__(self) -> None:
        self._script.where = self._now

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._script.where = self._before
        if isinstance(error, Fault):
            error.step = error.step or self._now[0]
            error.object = error.object or self._now[1]


_Call = tuple[
    str, tuple[Argument, ...], "Slot | None", Iterable[int], "Label | None", tuple[str, str], str, "Refusals | None"
]


class Script:
    """Write it call by call, then take its ``bytes``."""

    _packed: ClassVar[dict[tuple[int, ...], bytes]] = {}
    """Calls as they were packed before: most are the same in each script of a kind."""

    def __init__(self, given: Sequence[str] = ()) -> None:
        """``given`` names the descriptors that the monitor will give; "report", which ``launch`` uses, is the first."""
        names = ("report", *given)
        self.given = {name: Slot(_SLOT + number) for number, name in enumerate(names)}
        self.where = ("", "")
        """The step that is being written, and its object."""
        self._slots = len(names)
        self._data = bytearray(_HEAD.size)
        self._kept: dict[bytes | str, At] = {}
        self._calls: list[_Call] = []

    def step(self, name: str, object: str = "") -> _Step:
        """Names what the calls inside do, for their faults and for those that are raised while they are written."""
        return _Step(self, (name, object))

    def slot(self) -> Slot:
        """A new slot, 0 in it."""
        self._slots += 1
        return Slot(_SLOT + self._slots - 1)

    def data(self, content: bytes | str) -> At:
        """The address of ``content``, which ends with a NUL byte of its own; the same twice is kept once.

        Raises:
            ValueError: a string has a NUL byte.
        """
        found = self._kept.get(content)
        if found is None:
            kept = cstring(content) if isinstance(content, str) else content
            found = self._kept[content] = self.room(len(kept) + 1)
            self.fill(found, kept)
        return found

    def room(self, size: int) -> At:
        """The address of ``size`` bytes, zero at first and aligned to eight."""
        start = len(self._data)
        self._data += bytes(size + (-size & 7))
        return At(_POINTER + start)

    def fill(self, at: At, content: bytes) -> None:
        """Put ``content`` at ``at``, which is room of this script."""
        start = offset(at)
        self._data[start : start + len(content)] = content

    def vector(self, strings: Iterable[str]) -> At:
        """A NULL-terminated vector of strings.

        Raises:
            ValueError: a string has a NUL byte.
        """
        offsets = [offset(self.data(text)) for text in strings]
        at = self.room(8 * len(offsets) + 8)
        self.fill(at, struct.pack(f"={len(offsets)}Q", *offsets))
        self.relocate(at, len(offsets))
        return at

    def call(
        self,
        name: str,
        *args: Argument,
        to: Slot | None = None,
        forgive: Iterable[int] = (),
        otherwise: Label | None = None,
        object: str = "",
        refuse: Refusals | None = None,
    ) -> None:
        """Make the system call ``name``.

        ``forgive``: errnos below 64, or ANY, after which the script goes on, at ``otherwise`` if that is given.
        ``object`` and ``refuse`` are for the words of any other failure.
        """
        self._calls.append((name, args, to, forgive, otherwise, self.where, object, refuse))

    def opened(self, name: str, *args: Argument, object: str = "", refuse: Refusals | None = None) -> Slot:
        """As ``call``; the slot of the descriptor that it returns."""
        result = self.slot()
        self._calls.append((name, args, result, (), None, self.where, object, refuse))
        return result

    def close(self, *descriptors: Slot) -> None:
        """Close them, each of which is open."""
        for first in range(0, len(descriptors), 6):
            self.call("CLOSE", *descriptors[first : first + 6])

    def jump(self, label: Label) -> None:
        self.call("JUMP", otherwise=label)

    def jump_if(self, value: Argument, equals: int, label: Label, mask: int = _WORD) -> None:
        """Go on at ``label`` if ``value & mask`` is ``equals``."""
        self.call("IF_SAME", value, mask, equals & _WORD, otherwise=label)

    def jump_unless(self, value: Argument, equals: int, label: Label, mask: int = _WORD) -> None:
        self.call("IF_DIFFERENT", value, mask, equals & _WORD, otherwise=label)

    def expect(
        self, value: Argument, equals: int, kind: type[Fault], message: str, object: str = "", mask: int = _WORD
    ) -> None:
        """End with a fault of ``kind`` unless ``value & mask`` is ``equals``."""
        self.call("EXPECT", value, mask, equals & _WORD, object=object, refuse={UNEXPECTED: (kind, message)})

    def here(self, label: Label) -> None:
        """The next call is where ``label`` leads to."""
        label.position = len(self._calls)

    def set(self, slot: Slot, value: Argument) -> None:
        self.call("SET", value, to=slot)

    def store(self, at: At, value: Argument) -> None:
        """Write eight bytes."""
        self.call("STORE", at, value)

    def relocate(self, at: At, count: int) -> None:
        """The ``count`` words at ``at`` are offsets in the script; make addresses of them."""
        self.call("RELOCATE", at, count)

    @property
    def last(self) -> int:
        """The number of the call that was written last, for ``fail_as``."""
        return len(self._calls) - 1

    def fail(self, kind: type[Fault], message: str, object: str = "", errno: int = 0) -> None:
        """End, with a fault of ``kind``."""
        self.call("FAIL", errno, 0, object=object, refuse={errno: (kind, message)})

    def fail_as(self, errno: Argument, call: Argument) -> None:
        """End as if the call of number ``call``, which is not the first, had just failed with ``errno``;
        a slot may have it negative, as a forgiven failure leaves it."""
        self.call("FAIL", errno, call)

    def bytes(self) -> bytes:
        """The script as ``launch`` reads it.

        Raises:
            KeyError: a call does not exist on this machine.
            ValueError: a string has a NUL byte, a label leads nowhere, or an errno cannot be forgiven.
        """
        packed = [self._pack(call) for call in self._calls]
        slots = len(self._data)
        calls = slots + 8 * self._slots
        size = calls + _CALL.size * len(packed)
        head = _HEAD.pack(MAGIC, size, 0, 0, calls, len(packed), slots, len(self.given))
        return b"".join((head, self._data[_HEAD.size :], bytes(8 * self._slots), *packed))

    def _pack(self, call: _Call) -> builtins.bytes:
        name, args, to, forgive, otherwise, *_ = call
        bits = 0
        if forgive is ANY:
            bits = _WORD
        else:
            for number in forgive:
                bits |= 1 << number
            if bits > _WORD:
                raise ValueError(f"{name}: only errnos below 64 can be forgiven one by one")
        values = [
            arg if arg.__class__ is int else 0 if arg is None else self.data(arg)  # type: ignore[arg-type]
            for arg in args
        ]
        target = 0
        if otherwise is not None:
            target = otherwise.position
            if target <= 0:  # 0 is the next call
                raise ValueError(f"{name}: a label that is nowhere, or before the first call")
        key = (_CALLS[name], _NOWHERE if to is None else to & _LOW, target, bits, *values)
        found = self._packed.get(key)
        if found is None:
            if len(self._packed) >= _PACKED_LIMIT:
                self._packed.clear()
            found = self._packed[key] = _pack(*key)
        return found

    def fault(self, at: int, errno: int) -> Fault:
        """What the failure of call number ``at`` with ``errno`` means."""
        if at >= len(self._calls):
            return HostFault("the script cannot be carried out", step="start a process", call="launch", errno=errno)
        call, *_, (step, about), object, refuse = self._calls[at]
        object = (object or about)[:_WORDS_LIMIT]
        kind, message = refuse.get(errno, _HOST) if refuse else _HOST
        message = message[:_WORDS_LIMIT]
        if issubclass(kind, HostFault):
            if message:
                return kind(message, step=step, object=object)
            return kind(step=step, object=object, call=call.lower(), errno=errno)
        named = object and f'"{object}"' in message  # an object is said once
        return kind(message or os.strerror(errno).lower(), step=step, object="" if named else object)


def _pack(number: int, to: int, target: int, bits: int, *values: int) -> builtins.bytes:
    kinds = 0
    for index, value in enumerate(values):
        if value > _WORD:
            kinds |= (value >> 64) << 4 * index
    plain = [value & _WORD for value in values] + [0] * (6 - len(values))
    return _CALL.pack(number, kinds, to, target, bits, *plain)
