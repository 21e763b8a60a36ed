"""The step that labels volumes."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from cri.steps import relabel
from cri.steps.relabel import RelabelVolumes

HOST: Any = None


def test_each_volume_gets_the_label_and_one_that_is_missing_is_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[tuple[str, str]] = []
    monkeypatch.setattr(relabel, "relabel", lambda path, label: asked.append((path, label)))
    (tmp_path / "file").write_text("kept")
    (tmp_path / "dangling").symlink_to("none")
    paths = tuple(str(tmp_path / name) for name in ("file", "new/folder", "dangling"))
    step = RelabelVolumes("c1", paths, "a:b:c:s0")
    asyncio.run(step.apply(HOST))
    assert asked == [(path, "a:b:c:s0") for path in paths]
    assert (tmp_path / "new" / "folder").is_dir() and (tmp_path / "file").read_text() == "kept"
    assert "a:b:c:s0" in step.describe() and paths[0] in step.describe()


def test_its_undo_leaves_the_volumes_alone(tmp_path: Path) -> None:
    asyncio.run(RelabelVolumes("c1", (str(tmp_path / "none"),), "a:b:c:s0").undo(HOST))
    assert not (tmp_path / "none").exists()
