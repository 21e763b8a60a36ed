"""Code that is put together does what it did."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator

import pytest

from runtime import nearness


@pytest.fixture(autouse=True)
def nothing_is_frozen() -> Iterator[None]:
    """What ``tests.conftest`` hides from the collector is hidden from whoever looks for functions, too."""
    gc.unfreeze()
    yield
    gc.freeze()


def outer(number: int) -> int:
    """Says what it is told."""
    return inner(number) + 1


def inner(number: int, add: int = 10) -> int:
    return number + add


def never(number: int) -> int:
    return number


class Thing:
    def method(self) -> str:
        return self.__class__.__name__


def play() -> None:
    outer(1)
    Thing().method()


def test_each_function_that_is_called_gets_a_copy_of_its_code_and_no_other() -> None:
    before = [each.__code__ for each in (outer, inner, Thing.method, never)]
    functions = (outer, inner, Thing.method)
    count = nearness.gather_code(play)
    assert count >= len(functions)
    after = [each.__code__ for each in (outer, inner, Thing.method, never)]
    assert after == before, "equal"
    assert [new is old for new, old in zip(after, before, strict=True)] == [False, False, False, True]


def test_what_was_put_together_does_what_it_did() -> None:
    nearness.gather_code(play)
    assert outer(1) == 12 and inner(1, add=2) == 3 and Thing().method() == "Thing"
    assert outer.__doc__ == "Says what it is told." and outer.__name__ == "outer"


def test_a_play_that_fails_leaves_no_profiler_and_changes_nothing() -> None:
    def fail() -> None:
        outer(1)
        raise OSError("no")

    before = outer.__code__
    with pytest.raises(OSError, match="no"):
        nearness.gather_code(fail)
    assert sys.getprofile() is None and outer.__code__ is before
