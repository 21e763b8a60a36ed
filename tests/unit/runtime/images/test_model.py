"""The image record."""

from __future__ import annotations

import msgspec
import pytest

from runtime.images.model import Dropped, FilesystemUsage, Image


def test_an_image_survives_being_written_and_read() -> None:
    image = Image(id="sha256:" + "a" * 64, config=b"{}", layers=("b" * 64,), size=3, repo_tags=("r.example/x:1",))
    assert msgspec.json.decode(msgspec.json.encode(image), type=Image) == image


def test_a_record_is_never_changed_in_place() -> None:
    image = Image(id="x", config=b"", layers=(), size=0)
    with pytest.raises(AttributeError):
        image.size = 1  # type: ignore[misc]
    assert Dropped(image_id="x", reason="r") != Dropped(image_id="x", reason="s")
    assert FilesystemUsage(directory="/d", used_bytes=1, inodes_used=2).inodes_used == 2
