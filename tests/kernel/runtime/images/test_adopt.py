"""Directories that a layer only implies look like those below."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from runtime.images.adopt import adopt_directories
from tests.descriptors import open_descriptors


@pytest.fixture
def trees(tmp_path: Path) -> tuple[Path, Path, Path]:
    paths = tmp_path / "new", tmp_path / "middle", tmp_path / "bottom"
    for path in paths:
        path.mkdir()
    return paths


def look(path: Path) -> tuple[int, int, int, int]:
    status = path.lstat()
    return stat.S_IMODE(status.st_mode), status.st_uid, status.st_gid, int(status.st_mtime)


def make(path: Path, mode: int, owner: int, mtime: int) -> None:
    path.mkdir(parents=True)
    os.chown(path, owner, owner)
    os.chmod(path, mode)
    os.utime(path, (mtime, mtime))


def test_the_topmost_directory_below_is_the_model(trees: tuple[Path, Path, Path]) -> None:
    new, middle, bottom = trees
    make(new / "tmp", 0o755, 0, 9)
    make(bottom / "tmp", 0o700, 1, 1)
    make(middle / "tmp", 0o1777, 7, 5)
    os.setxattr(middle / "tmp", "user.a", b"b")
    os.setxattr(middle / "tmp", "trusted.overlay.opaque", b"y")
    adopt_directories(str(new), [str(middle), str(bottom)], ["tmp"])
    assert look(new / "tmp") == (0o1777, 7, 7, 5)
    assert os.listxattr(new / "tmp") == ["user.a"]


def test_a_lower_layer_is_asked_when_the_upper_has_nothing(trees: tuple[Path, Path, Path]) -> None:
    new, middle, bottom = trees
    make(new / "a/b", 0o755, 0, 9)
    make(bottom / "a/b", 0o711, 3, 4)
    adopt_directories(str(new), [str(middle), str(bottom)], ["a", "a/b", "gone"])
    assert look(new / "a/b") == (0o711, 3, 3, 4)


def test_what_hides_the_directory_ends_the_search(trees: tuple[Path, Path, Path]) -> None:
    new, middle, bottom = trees
    make(new / "x", 0o755, 0, 9)
    make(bottom / "x", 0o711, 3, 4)
    os.mknod(middle / "x", stat.S_IFCHR, os.makedev(0, 0))
    adopt_directories(str(new), [str(middle), str(bottom)], ["x"])
    assert look(new / "x") == (0o755, 0, 0, 9)


def test_links_are_followed_nowhere(trees: tuple[Path, Path, Path], tmp_path: Path) -> None:
    new, middle, bottom = trees
    make(tmp_path / "outside", 0o700, 5, 5)
    make(new / "in", 0o755, 0, 9)
    os.symlink(tmp_path / "outside", new / "out")
    os.symlink(tmp_path / "outside", middle / "in")
    make(middle / "out", 0o777, 8, 8)
    adopt_directories(str(new), [str(middle), str(bottom)], ["in", "out"])
    with pytest.raises(OSError):
        adopt_directories(str(new), [str(middle)], ["in/../../outside"])
    assert look(new / "in") == (0o755, 0, 0, 9)
    assert look(tmp_path / "outside") == (0o700, 5, 5, 5)


def test_nothing_to_do_opens_nothing(trees: tuple[Path, Path, Path]) -> None:
    adopt_directories("/nonexistent", [], ["x"])
    adopt_directories("/nonexistent", ["/nonexistent"], [])
    before = open_descriptors()
    with pytest.raises(FileNotFoundError):
        adopt_directories(str(trees[0]), [str(trees[1]), "/nonexistent"], ["x"])
    assert open_descriptors() == before
