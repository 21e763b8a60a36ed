"""Answers of Stream RPCs: the elements of the list in portions, each a message of its own.

The elements are those of the List RPC (``cri.rpc.encoded``): in both answers they are field 1.

Invariant: every element is in exactly one message, none is empty, and only an element that is
larger by itself makes a message larger than ``BATCH_BYTES``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

BATCH_BYTES = 1024 * 1024
"""Below what any client takes (4 MiB where it sets nothing)."""


def batches(items: Sequence[bytes], limit: int = BATCH_BYTES) -> Iterator[bytes]:
    portion: list[bytes] = []
    size = 0
    for item in items:
        if portion and size + len(item) > limit:
            yield b"".join(portion)
            portion, size = [], 0
        portion.append(item)
        size += len(item)
    if portion:
        yield b"".join(portion)


async def write_batches(context: Any, items: Sequence[bytes]) -> None:
    """Each waits until the client takes it."""
    for portion in batches(items):
        await context.write(portion)
