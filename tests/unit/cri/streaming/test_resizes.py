"""Sizes of a terminal: the newest one counts."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.streaming.resizes import DOCUMENT_LIMIT, Resizes, parse_size
from cri.streaming.session import Size


async def test_only_the_newest_size_is_kept() -> None:
    sizes = Resizes()
    sizes.feed(b'{"Width":80,"Height":24}\n{"Width":100,')
    sizes.feed(b'"Height":30}\n')
    assert await sizes.next_size() == Size(100, 30)
    sizes.end()
    assert await sizes.next_size() is None


async def test_whoever_waits_gets_the_next() -> None:
    sizes = Resizes()
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(sizes.next_size())
        await asyncio.sleep(0)
        sizes.feed(b'{"width":1,"height":2}')
    assert waiting.result() == Size(1, 2)


@pytest.mark.parametrize(
    "garbage", [b"[}", b'{"Width":-1}', b'{"Width":1.5}', b'{"Width":70000}', b"x" * (DOCUMENT_LIMIT + 1)]
)
async def test_what_is_no_size_ends_the_sizes(garbage: bytes) -> None:
    sizes = Resizes()
    sizes.feed(b'{"Width":1,"Height":1}')
    sizes.feed(garbage)
    sizes.feed(b'{"Width":2,"Height":2}')
    assert await sizes.next_size() == Size(1, 1)
    assert await sizes.next_size() is None


def test_a_size_is_an_object() -> None:
    with pytest.raises(ValueError, match="object"):
        parse_size([80, 24])


@given(st.lists(st.binary(max_size=50), max_size=10))
async def test_no_bytes_do_harm(chunks: list[bytes]) -> None:
    sizes = Resizes()
    for chunk in chunks:
        sizes.feed(chunk)
    sizes.end()
    while await sizes.next_size() is not None:
        pass
