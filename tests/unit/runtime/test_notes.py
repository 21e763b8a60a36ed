"""A monitor's notes are short, bounded and never in its way."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime import notes


@pytest.fixture
def directory(tmp_path: Path) -> Iterator[int]:
    opened = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    yield opened
    os.close(opened)


def test_a_note_is_a_line_with_its_time(directory: int, tmp_path: Path) -> None:
    notes.add_note(directory, "one")
    notes.add_note(directory, "two \udc80")
    lines = (tmp_path / notes.NOTES).read_text().splitlines()
    assert [line.split(" ", 1)[1] for line in lines] == ["one", "two \\udc80"]
    assert float(lines[0].split(" ")[0]) > 1_600_000_000


def test_the_notes_stop_at_their_limit(directory: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notes, "LIMIT", 100)
    for _ in range(50):
        notes.add_note(directory, "x" * 20)
    assert (tmp_path / notes.NOTES).stat().st_size < 150


def test_what_cannot_be_written_is_lost(directory: int, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("mine")
    (tmp_path / notes.NOTES).symlink_to("elsewhere")
    notes.add_note(directory, "one")
    assert (tmp_path / "elsewhere").read_text() == "mine"


def test_a_fault_is_described_with_its_place() -> None:
    def broken() -> None:
        raise ValueError("bad")

    try:
        broken()
    except ValueError as error:
        said = notes.describe_fault(error)
    assert said.startswith("ValueError: bad (at ")
    assert f"{Path(__file__).name}:" in said


def test_a_fault_that_was_never_raised_has_no_place() -> None:
    assert notes.describe_fault(ValueError("bad")) == "ValueError: bad (at unknown)"
