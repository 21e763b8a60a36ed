"""Which extended attributes an image may bring."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runtime.images import xattrs

CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")


@pytest.mark.parametrize(
    "name",
    [
        b"trusted.overlay.opaque",
        b"trusted.overlay.redirect",
        b"trusted.x",
        b"user.overlay.opaque",
        b"security.selinux",
        b"security.ima",
        b"system.other",
        b"",
        b"userx",
    ],
)
def test_what_the_host_reads_is_dropped(name: bytes) -> None:
    assert not xattrs.is_kept(name)


def test_capabilities_and_user_attributes_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    fd = os.open(path, os.O_RDONLY)
    wanted = {xattrs.CAPABILITY: CAPABILITY, b"user.a": b"\0\n=", b"trusted.overlay.opaque": b"y"}
    assert xattrs.set_on(fd, wanted) == 1
    os.close(fd)
    assert sorted(os.listxattr(path)) == ["security.capability", "user.a"]
    assert os.getxattr(path, "security.capability") == CAPABILITY
    assert os.getxattr(path, "user.a") == b"\0\n="


def test_a_link_is_not_followed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the call changes it
    (tmp_path / "file").write_text("x")
    os.symlink("file", tmp_path / "link")
    parent = os.open(tmp_path, os.O_RDONLY)
    assert xattrs.set_beside(parent, b"link", {b"user.a": b"b"}) == 1  # links have none
    assert xattrs.set_beside(parent, b"file", {b"user.a": b"b"}) == 0
    os.close(parent)
    assert os.getxattr(tmp_path / "file", "user.a") == b"b"


def test_a_value_that_is_no_capability_is_an_error(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(OSError):
        xattrs.set_on(fd, {xattrs.CAPABILITY: b"x"})
    os.close(fd)


def test_opaque_is_overlayfs_own(tmp_path: Path) -> None:
    fd = os.open(tmp_path, os.O_RDONLY)
    xattrs.set_opaque(fd)
    os.close(fd)
    assert os.getxattr(tmp_path, "trusted.overlay.opaque") == b"y"
