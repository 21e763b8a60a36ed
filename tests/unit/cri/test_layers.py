"""How much a container has written: measured in the background, remembered for a while."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from cri import aged
from cri.layers import Layers, measure
from cri.tasks import Tasks


async def settle(tasks: Tasks) -> None:
    async with asyncio.timeout(10):
        while len(tasks):
            await asyncio.sleep(0.001)


@pytest.fixture
def upper(tmp_path: Path) -> Path:
    """A writable layer of five inodes, its own among them, one of them with content."""
    made = tmp_path / "c1" / "upper"
    (made / "a" / "b").mkdir(parents=True)
    (made / "a" / "file").write_bytes(b"x" * 100_000)
    (made / "out").symlink_to("/")
    return made


def test_blocks_and_inodes_are_counted_without_leaving_the_layer(upper: Path) -> None:
    found = measure(os.fspath(upper))
    blocks = sum(
        os.lstat(path).st_blocks for path in (upper, upper / "a", upper / "a/b", upper / "a/file", upper / "out")
    )
    assert (found.used_bytes, found.inodes) == (blocks * 512, 5)
    assert found.time > 0 and found.used_bytes >= 100_000


def test_a_layer_that_is_gone_takes_no_room(tmp_path: Path) -> None:
    assert measure(os.fspath(tmp_path / "gone")).inodes == 0


async def test_the_first_answer_is_zero_and_the_next_is_measured(upper: Path, tmp_path: Path) -> None:
    tasks = Tasks()
    kept = Layers(lambda id: tmp_path / id, tasks)
    assert kept.usage("c1").inodes == 0
    assert kept.usage("c1").inodes == 0 and len(tasks) == 1, "measured once, however often one asks"
    await settle(tasks)
    assert kept.usage("c1").inodes == 5
    (upper / "more").touch()
    assert kept.usage("c1").inodes == 5 and len(tasks) == 0, "not measured again so soon"


async def test_an_old_reading_is_shown_until_there_is_a_newer(
    upper: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aged, "MAX_AGE", 0.0)
    tasks = Tasks()
    kept = Layers(lambda id: tmp_path / id, tasks)
    kept.usage("c1")
    await settle(tasks)
    (upper / "more").touch()
    assert kept.usage("c1").inodes == 5
    await settle(tasks)
    assert kept.usage("c1").inodes == 6
    await settle(tasks)


async def test_a_removed_container_is_forgotten(upper: Path, tmp_path: Path) -> None:
    tasks = Tasks()
    kept = Layers(lambda id: tmp_path / id, tasks)
    kept.usage("c1")
    await settle(tasks)
    kept.forget("c1")
    kept.forget("c1")
    assert kept.usage("c1").inodes == 0
    await settle(tasks)
