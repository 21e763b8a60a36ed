"""Filling the holes ends, and what is allocated afterwards lies together."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator

import pytest

from runtime import heap


@pytest.fixture(autouse=True)
def only_for_the_test() -> Iterator[None]:
    yield
    heap._filler.clear()


FRESH = """
import sys

heap = {}
exec(open(sys.argv[1]).read(), heap)
scattered = [bytes(47) for _ in range(9_000)]
del scattered[::3]  # a hole in every page
if sys.argv[2] == "filled":
    heap["fill_holes"]()
print(len({id(item) // 4096 for item in [bytes(47) for _ in range(100)]}))
"""


def pages_in_a_new_process(holes: str) -> int:
    """A zygote's: in this one, earlier tests have left more holes than are worth filling."""
    command = [sys.executable, "-I", "-S", "-B", "-c", FRESH, heap.__file__, holes]
    return int(subprocess.run(command, capture_output=True, check=True).stdout)


def test_objects_made_afterwards_lie_together() -> None:
    assert pages_in_a_new_process("filled") <= 3 < pages_in_a_new_process("left")


def test_it_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heap, "_MOST", 10)
    heap.fill_holes()
    assert len(heap._filler) <= 10 * (512 // 16 + len(heap._LARGE))
