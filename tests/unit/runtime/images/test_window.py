"""The buffer below the tar reader."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import FailedPrecondition
from runtime.images.window import Window


def pulls(*chunks: bytes) -> Callable[[], bytes]:
    remaining = list(chunks)
    return lambda: remaining.pop(0) if remaining else b""


def test_reads_cross_chunks_and_stop_at_the_end() -> None:
    window = Window(pulls(b"abc", b"def", b"g"))
    assert window.take(2) == b"ab"
    assert window.take(3) == b"cde"
    assert window.take(9) == b"fg"
    assert window.take(1) == b""


def test_some_gives_what_is_at_hand() -> None:
    window = Window(pulls(b"abcdef", b"gh"))
    assert bytes(window.some(4, "x")) == b"abcd"
    assert bytes(window.some(4, "x")) == b"ef"
    assert bytes(window.some(4, "x")) == b"gh"
    with pytest.raises(FailedPrecondition, match="ends too early"):
        window.some(1, "x")


def test_an_end_inside_is_told() -> None:
    with pytest.raises(FailedPrecondition):
        Window(pulls(b"ab")).exactly(3, "x")
    with pytest.raises(FailedPrecondition):
        Window(pulls(b"ab", b"c")).skip(4, "x")
    window = Window(pulls(b"ab", b"c"))
    window.skip(3, "x")
    window.drain()
    assert window.take(1) == b""


@given(st.lists(st.binary(min_size=1, max_size=9), max_size=9), st.lists(st.integers(0, 12), max_size=20))
def test_nothing_is_lost_or_repeated(chunks: list[bytes], counts: list[int]) -> None:
    window = Window(pulls(*chunks))
    read = b"".join(window.take(count) for count in counts)
    assert read == b"".join(chunks)[: sum(counts)]
