"""A layer of mountpoints that could hide or replace something of an image is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import HostFault
from runtime.rootfs import made
from runtime.rootfs.made import check_layer


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    (tmp_path / "etc/deep").mkdir(parents=True)
    (tmp_path / "etc/hosts").touch()
    os.setxattr(tmp_path / "etc", "trusted.overlay.origin", b"x")
    os.setxattr(tmp_path / "etc/deep", "trusted.overlay.opaque", b"y")
    return tmp_path


def test_directories_and_empty_files_pass(layer: Path) -> None:
    check_layer(str(layer))


ODD: dict[str, Callable[[Path], object]] = {
    "a whiteout": lambda path: os.mknod(path, 0o020000, 0),
    "a link": lambda path: path.symlink_to("/etc"),
    "a fifo": os.mkfifo,
    "a file with content": lambda path: path.write_text("x"),
    "a second name": lambda path: os.link(path.parent / "hosts", path),
}


@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_anything_else_is_refused(layer: Path, make: Callable[[Path], object]) -> None:
    make(layer / "etc/odd")
    with pytest.raises(HostFault, match="is no empty file"):
        check_layer(str(layer))


@pytest.mark.parametrize(("path", "name"), [("etc/deep", "redirect"), ("etc/hosts", "metacopy"), ("", "whiteout")])
def test_an_attribute_that_leads_elsewhere_is_refused(layer: Path, path: str, name: str) -> None:
    os.setxattr(layer / path, f"trusted.overlay.{name}", b"/etc")
    with pytest.raises(HostFault, match=f"trusted.overlay.{name}") as refused:
        check_layer(str(layer))
    assert refused.value.object == os.path.join(layer, path).rstrip("/")


def test_the_number_of_entries_is_bounded(layer: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(made, "MAX_ENTRIES", 2)
    with pytest.raises(HostFault, match="more than 2 entries"):
        check_layer(str(layer))
