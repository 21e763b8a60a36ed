"""Inputs for ``tests.fuzz``: valid ones with something wrong, and now and then mere noise.

Invariant: an input depends on the seeds and the generator alone, and has at most ``LIMIT`` bytes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

LIMIT = 64 * 1024
NUMBERS = (0, 1, 2, 3, 0x7F, 0x80, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0xFF_FFFF, 0x7FFF_FFFF, 0x8000_0000, 0xFFFF_FFFF)


def mutate(seeds: Sequence[bytes], chance: random.Random) -> bytes:
    if chance.random() < 0.05:
        return chance.randbytes(chance.randrange(400))
    data = bytearray().join(chance.choice(seeds) for _ in range(chance.randint(1, 6)))
    for _ in range(chance.choice((0, 1, 1, 2, 3, 8))):
        chance.choice(CHANGES)(data, chance)
    return bytes(data[:LIMIT])


def place(data: bytearray, chance: random.Random) -> int:
    return chance.randrange(len(data) + 1)


def flip(data: bytearray, chance: random.Random) -> None:
    if data:
        data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)


def cut(data: bytearray, chance: random.Random) -> None:
    at = place(data, chance)
    del data[at : at + chance.randint(1, 20)]


def insert(data: bytearray, chance: random.Random) -> None:
    at = place(data, chance)
    data[at:at] = chance.randbytes(chance.randint(1, 20))


def repeat(data: bytearray, chance: random.Random) -> None:
    at = place(data, chance)
    part = bytes(data[at : at + chance.randint(1, 60)])
    data[at:at] = part * chance.choice((1, 2, 10, 100))


def put_number(data: bytearray, chance: random.Random) -> None:
    """Where lengths and counts may be, what they break at."""
    size, at = chance.choice((1, 2, 3, 4, 8)), place(data, chance)
    number = chance.choice(NUMBERS) & (1 << 8 * size) - 1
    data[at : at + size] = number.to_bytes(size, chance.choice(("big", "little")))


CHANGES: tuple[Callable[[bytearray, random.Random], None], ...] = (flip, cut, insert, repeat, put_number)
