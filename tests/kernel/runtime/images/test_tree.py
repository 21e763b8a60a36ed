"""Directories below a root: made, found, emptied; never outside."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.images import tree
from runtime.images.tree import MAX_OPEN, Tree, normalise
from tests.descriptors import open_descriptors


@pytest.fixture
def root(tmp_path: Path) -> Iterator[int]:
    (tmp_path / "root").mkdir()
    fd = os.open(tmp_path / "root", os.O_RDONLY)
    yield fd
    os.close(fd)


@pytest.fixture
def implied() -> list[bytes]:
    return []


@pytest.fixture
def below(root: int, implied: list[bytes]) -> Iterator[Tree]:
    opened = Tree(root, implied.append)
    yield opened
    opened.forget()


@pytest.mark.parametrize(
    ("name", "normal"),
    [
        (b"a/b", b"a/b"),
        (b"/a//b/", b"a/b"),
        (b"./a/./b/.", b"a/b"),
        (b"../../x", b"x"),
        (b"a/../../x", b"x"),
        (b"a/b/..", b"a"),
        (b"..", b""),
        (b"/", b""),
        (b"a..b/...", b"a..b/..."),
    ],
)
def test_a_name_is_normalised_below_the_root(name: bytes, normal: bytes) -> None:
    assert normalise(name) == normal


@given(st.text("ab./").map(str.encode))
def test_a_normal_name_never_leaves(name: bytes) -> None:
    parts = normalise(name).split(b"/")
    assert parts == [b""] or not {b"", b".", b".."} & set(parts)


def test_missing_parents_are_made_and_reported(below: Tree, implied: list[bytes], tmp_path: Path) -> None:
    os.mkdir(tmp_path / "root/a")
    below.directory(b"a/b/c")
    assert (tmp_path / "root/a/b/c").is_dir()
    assert implied == [b"a/b", b"a/b/c"]
    assert os.stat(tmp_path / "root/a/b").st_mode & 0o777 == 0o755 & ~_umask()


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_missing_directory_is_not_made_unless_asked(below: Tree) -> None:
    with pytest.raises(OSError) as raised:
        below.directory(b"a", make=False)
    assert raised.value.errno == errno.ENOENT


def test_links_are_followed_inside_only(below: Tree, tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    os.symlink(f"{outside}", tmp_path / "root/absolute")
    os.symlink("../../outside", tmp_path / "root/relative")
    os.mkdir(tmp_path / "root/dir")
    os.symlink("dir", tmp_path / "root/good")
    for name in (b"absolute", b"relative", b"absolute/deep", b"good"):
        os.mkdir(b"mark", dir_fd=below.directory(name))
    assert list(outside.iterdir()) == []
    assert (tmp_path / f"root/{outside}/mark").is_dir()
    assert (tmp_path / "root/dir/mark").is_dir()


def test_a_dangling_link_to_the_root_is_the_root(below: Tree, tmp_path: Path) -> None:
    os.symlink("gone/..", tmp_path / "root/up")
    os.mkdir(b"mark", dir_fd=below.directory(b"up/x"))
    assert (tmp_path / "root/x/mark").is_dir()


def test_a_circle_of_links_is_refused(below: Tree, tmp_path: Path) -> None:
    os.symlink("two", tmp_path / "root/one")
    os.symlink("one", tmp_path / "root/two")
    os.symlink("three/x", tmp_path / "root/three")
    for name in (b"one", b"three", b"one/x"):
        with pytest.raises(OSError) as raised:
            below.directory(name)
        assert raised.value.errno == errno.ELOOP


def test_a_file_is_no_directory(below: Tree, tmp_path: Path) -> None:
    (tmp_path / "root/file").write_text("x")
    for name in (b"file", b"file/x"):
        with pytest.raises(OSError) as raised:
            below.directory(name)
        assert raised.value.errno == errno.ENOTDIR


def test_the_descriptors_stay_bounded_and_good(below: Tree, root: int) -> None:
    before = len(open_descriptors())
    for number in range(3 * MAX_OPEN):
        fd = below.directory(b"d%d" % number)
        assert os.fstat(fd).st_ino == os.stat(b"d%d" % number, dir_fd=root).st_ino
        below.directory(b"d0")  # used all the time, so never closed
    assert len(open_descriptors()) - before <= MAX_OPEN
    assert os.fstat(below.directory(b"d0")).st_ino == os.stat(b"d0", dir_fd=root).st_ino
    below.forget()
    assert len(open_descriptors()) == before


def test_a_very_deep_path_needs_no_deep_stack(below: Tree, root: int) -> None:
    below.directory(b"/".join([b"d"] * (sys.getrecursionlimit() + 100)))
    tree.remove(root, b"d")


def test_everything_below_a_name_is_removed(root: int, tmp_path: Path) -> None:
    base = tmp_path / "root/x"
    for number in range(600):
        (base / f"d{number % 7}" / f"e{number % 5}").mkdir(parents=True, exist_ok=True)
        (base / f"d{number % 7}" / f"f{number}").write_text("x")
    os.mkfifo(base / "fifo")
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/file").write_text("x")
    os.symlink(tmp_path / "keep", base / "link")
    removed: list[int] = []
    tree.remove(root, b"x", removed.append)
    assert os.listdir(root) == []
    assert (tmp_path / "keep/file").read_text() == "x"
    assert sum(removed) >= 600


def test_files_links_and_nothing_are_removed(root: int, tmp_path: Path) -> None:
    os.symlink(tmp_path, tmp_path / "root/link")
    tree.remove(root, b"link")
    tree.remove(root, b"link")
    assert tmp_path.is_dir()


def test_a_deep_tree_is_removed_with_few_descriptors(root: int, tmp_path: Path) -> None:
    fd, name = os.dup(root), "d" * 100
    for _ in range(sys.getrecursionlimit() + 100):  # deeper than any stack, and than any path may be
        os.mkdir(name, dir_fd=fd)
        below = os.open(name, os.O_RDONLY, dir_fd=fd)
        os.close(fd)
        fd = below
    os.close(fd)
    tree.remove(root, name.encode())
    assert os.listdir(root) == []


def test_a_tree_that_still_grows_for_a_moment_is_removed(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "root/x/y").mkdir(parents=True)
    rmdir, late = os.rmdir, ["x/y/late", "x/late"]

    def grow(name: bytes, *, dir_fd: int) -> None:
        if late:
            (tmp_path / "root" / late.pop(0)).write_text("x")
        rmdir(name, dir_fd=dir_fd)

    monkeypatch.setattr(os, "rmdir", grow)
    tree.remove(root, b"x")
    assert os.listdir(root) == []


def test_another_file_system_is_not_entered(root: int, tmp_path: Path) -> None:
    mounted = tmp_path / "root/x/y/mounted"
    mounted.mkdir(parents=True)
    (tmp_path / "keep").mkdir()
    (tmp_path / "keep/file").write_text("x")
    subprocess.run(["mount", "--bind", tmp_path / "keep", mounted], check=True)  # the same device
    try:
        with pytest.raises(OSError) as raised:
            tree.remove(root, b"x")
        assert raised.value.errno in (errno.EXDEV, errno.EBUSY)
        assert (tmp_path / "keep/file").read_text() == "x"
    finally:
        [where] = [
            line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines() if str(tmp_path) in line
        ]
        subprocess.run(["umount", where], check=True)
