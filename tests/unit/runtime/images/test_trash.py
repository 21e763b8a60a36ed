"""What is thrown away is gone at once and deleted later."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from runtime.errors import HostFault
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
