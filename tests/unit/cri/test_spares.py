"""Spare directories: taken whole, made again while it is quiet, none is no fault."""

from __future__ import annotations

import asyncio
import os
import stat
from pathlib import Path

import pytest

from cri import spares as module
from cri.spares import SIZE, Spares
from cri.tasks import Tasks


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "QUIET", 0.0)


async def filled(directory: Path, tasks: Tasks) -> Spares:
    spares = Spares(directory, tasks)
    spares.open()
    await full(spares)
    return spares


async def full(spares: Spares) -> None:
    async with asyncio.timeout(20):
        while len(spares) < SIZE:
            await asyncio.sleep(0.001)


async def test_one_that_is_taken_has_both_directories_and_is_made_again(tmp_path: Path) -> None:
    spares = await filled(tmp_path / "spares", Tasks())
    before = os.umask(0o077)
    try:
        for name in ("a", "b"):
            assert spares.take(str(tmp_path / name))
        await full(spares)
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    for path in (tmp_path / "b", *(tmp_path / "spares").iterdir()):
        assert {each.name: stat.S_IMODE(each.stat().st_mode) for each in path.iterdir()} == {
            "upper": 0o755,
            "work": 0o755,
        }
    assert len(os.listdir(tmp_path / "spares")) == SIZE


async def test_what_an_earlier_daemon_left_is_used_unless_it_is_unfinished(tmp_path: Path) -> None:
    first = await filled(tmp_path / "spares", Tasks())
    left = set(os.listdir(tmp_path / "spares"))
    (tmp_path / "spares" / "x.part" / "upper").mkdir(parents=True)
    second = Spares(tmp_path / "spares", Tasks())
    second.open()
    assert len(second) == len(first) == SIZE
    assert set(os.listdir(tmp_path / "spares")) == left


async def test_without_any_there_is_none_to_take(tmp_path: Path) -> None:
    spares = await filled(tmp_path / "spares", Tasks())
    for path in (tmp_path / "spares").iterdir():
        for folder in path.iterdir():
            folder.rmdir()
        path.rmdir()
    assert not spares.take(str(tmp_path / "a"))
    assert not (tmp_path / "a").exists()
    await full(spares)
    assert spares.take(str(tmp_path / "a"))


async def test_what_stands_in_the_place_is_not_replaced(tmp_path: Path) -> None:
    spares = await filled(tmp_path / "spares", Tasks())
    (tmp_path / "a" / "x").mkdir(parents=True)
    with pytest.raises(OSError, match="not empty"):
        spares.take(str(tmp_path / "a"))


async def test_a_disk_that_takes_none_is_asked_again_at_the_next_take(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: str) -> None:
        raise OSError(28, "No space left on device")

    tasks = Tasks()
    spares = Spares(tmp_path / "spares", tasks)
    with monkeypatch.context() as patch:
        patch.setattr(module, "make_directory", refuse)
        spares.open()
        while len(tasks):
            await asyncio.sleep(0.001)
    assert not spares.take(str(tmp_path / "a"))
    await full(spares)
    spares.open()
    assert not [name for name in os.listdir(tmp_path / "spares") if name.endswith(".part")]
