"""Portions of a list: everything once, in order, none empty, none too large."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from cri.rpc.batches import batches, write_batches


@given(st.lists(st.binary(max_size=20)), st.integers(1, 50))
def test_every_element_is_in_one_portion_and_only_a_large_one_exceeds_the_limit(items: list[bytes], limit: int) -> None:
    portions = list(batches(items, limit))
    assert b"".join(portions) == b"".join(items)
    assert all(len(portion) <= limit or portion in items for portion in portions)


def test_nothing_is_no_message() -> None:
    assert list(batches([])) == []


async def test_each_portion_waits_for_the_client() -> None:
    class Context:
        def __init__(self) -> None:
            self.written: list[bytes] = []

        async def write(self, portion: bytes) -> None:
            self.written.append(portion)

    context: Any = Context()
    large = b"x" * 700_000
    await write_batches(context, [large, large, b"y"])
    assert context.written == [large, large + b"y"]
