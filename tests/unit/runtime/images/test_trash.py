"""What is thrown away is gone at once and deleted later."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path

import pytest

from runtime.errors import HostFault
from runtime.images import trash as trash_module
from runtime.images.trash import Trash
from tests.unit.runtime.images.fakes import Background, PlainRunner


async def test_thrown_trees_are_renamed_and_deleted(tmp_path: Path) -> None:
    runner, background = PlainRunner(), Background()
    trash = Trash(str(tmp_path / ".trash"), runner, background)
    await trash.open()
    (tmp_path / "layer/deep").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    await trash.throw(str(tmp_path / "layer"))
    trash.throw_now(str(tmp_path / "other"))
    assert os.listdir(tmp_path) == [".trash"]
    await background.settle()
    assert os.listdir(tmp_path / ".trash") == []
    assert runner.calls == ["delete_tree"] * 2
    assert runner.args[0]["duty"] < 1


async def test_what_is_absent_needs_no_throwing(tmp_path: Path) -> None:
    background = Background()
    trash = Trash(str(tmp_path / ".trash"), PlainRunner(), background)
    await trash.open()
    await trash.throw(str(tmp_path / "nothing"))
    await background.settle()
    assert os.listdir(tmp_path / ".trash") == []


async def test_what_an_earlier_process_left_is_deleted(tmp_path: Path) -> None:
    (tmp_path / ".trash/left/over").mkdir(parents=True)
    background = Background()
    await Trash(str(tmp_path / ".trash"), PlainRunner(), background).open()
    await background.settle()
    assert os.listdir(tmp_path / ".trash") == []


async def test_a_failed_deletion_is_logged_and_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / ".trash/left").mkdir(parents=True)
    runner, background = PlainRunner(), Background()
    runner.fault = HostFault("busy")
    trash = Trash(str(tmp_path / ".trash"), runner, background)
    with caplog.at_level(logging.WARNING):
        await trash.empty()
    assert "cannot delete" in caplog.text
    assert os.listdir(tmp_path / ".trash") == ["left"]
    runner.fault = None
    await trash.empty()
    assert os.listdir(tmp_path / ".trash") == []


async def test_what_cannot_be_deleted_is_tried_again_by_itself_and_more_and_more_rarely(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trash_module, "AGAIN_FIRST", 0.001)
    monkeypatch.setattr(trash_module, "AGAIN_AT_LEAST", 0.003)
    (tmp_path / ".trash/left").mkdir(parents=True)
    runner, pauses, sleep = PlainRunner(), list[float](), asyncio.sleep
    runner.fault = HostFault("busy")

    async def note(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 5:
            runner.fault = None
        await sleep(seconds)

    monkeypatch.setattr(asyncio, "sleep", note)
    background = Background()
    await Trash(str(tmp_path / ".trash"), runner, background).open()
    await background.settle()
    assert os.listdir(tmp_path / ".trash") == []
    assert pauses == [0.0, 0.001, 0.002, 0.003, 0.003]


async def test_a_rename_whose_caller_leaves_is_followed_by_the_deletion(tmp_path: Path) -> None:
    runner, background = PlainRunner(), Background()
    trash = Trash(str(tmp_path / ".trash"), runner, background)
    await trash.open()
    await background.settle()
    (tmp_path / "layer").mkdir()
    async with asyncio.TaskGroup() as group:
        throwing = group.create_task(trash.throw(str(tmp_path / "layer")))
        await asyncio.sleep(0)
        throwing.cancel()
    assert throwing.cancelled() and not (tmp_path / "layer").exists()
    await background.settle()
    assert os.listdir(tmp_path / ".trash") == []
