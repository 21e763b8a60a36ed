"""A pod in a driven monitor, children without one, an image for containers, and the monitor's clock."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel.runtime.containers import Image
from tests.kernel.runtime.driven import Driven, driven
from tests.kernel.runtime.nursery import Nursery


@pytest.fixture
def image(tmp_path: Path) -> Image:
    (tmp_path / "image").mkdir()
    return Image(tmp_path / "image")


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Driven]:
    (tmp_path / "pod").mkdir()
    with driven(tmp_path / "pod") as made:
        yield made


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


class Clock:
    """Says what time it is; stands still but for ``advance``."""

    def __init__(self) -> None:
        self._now = time.monotonic()

    def __call__(self) -> float:
        return self._now

    def advance(self, seconds: float) -> None:
        self._now += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The time of a monitor in this process: a machine that stalls is never late for what it waits for."""
    made = Clock()
    monkeypatch.setattr(time, "monotonic", made)
    return made
