"""What the kernel's interpreter makes of a program: classic BPF on struct seccomp_data."""

from __future__ import annotations

import functools
import struct
import sys
from collections.abc import Sequence

_DATA = struct.Struct("=IIQ6Q")
_MAX_INSTRUCTIONS = 4096

Code = tuple[tuple[int, int, int, int], ...]


@functools.lru_cache(maxsize=32)
def checked(program: bytes) -> Code:
    """The instructions of ``program``, which the kernel would accept; AssertionError if it would not."""
    code = tuple(struct.iter_unpack("=HBBI", program))
    assert 0 < len(code) <= _MAX_INSTRUCTIONS
    assert code[-1][0] == 0x06
    for at, (opcode, if_true, if_false, value) in enumerate(code):
        assert opcode in (0x20, 0x54, 0x05, 0x06, 0x15, 0x25, 0x35, 0x45), f"unknown instruction {opcode:#x}"
        furthest = value if opcode == 0x05 else max(if_true, if_false)
        assert at + 1 + furthest < len(code) or opcode == 0x06
        assert opcode != 0x20 or (value % 4 == 0 and value < _DATA.size)
    return code


def evaluate(program: bytes, arch: int, number: int, arguments: Sequence[int] = ()) -> int:
    """The action for one call."""
    padded = [*arguments, 0, 0, 0, 0, 0, 0][:6]
    data = _DATA.pack(number & 0xFFFF_FFFF, arch, 0, *padded)
    code = checked(program)
    accumulator, at = 0, 0
    while True:
        opcode, if_true, if_false, value = code[at]
        at += 1
        if opcode == 0x20:
            accumulator = int.from_bytes(data[value : value + 4], sys.byteorder)
        elif opcode == 0x54:
            accumulator &= value
        elif opcode == 0x05:
            at += value
        elif opcode == 0x06:
            return value
        else:
            if opcode == 0x15:
                holds = accumulator == value
            elif opcode == 0x25:
                holds = accumulator > value
            elif opcode == 0x35:
                holds = accumulator >= value
            else:
                holds = bool(accumulator & value)
            at += if_true if holds else if_false
