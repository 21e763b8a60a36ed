"""What the steps do with files and mounts, and that nothing put in their way stops a removal."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.steps.files import MOUNTS_LIMIT, read_host_file, remove_tree, unmount_all, unmount_and_unlink, write_file
from runtime.errors import HostFault
from runtime.linux import mount


@pytest.fixture
def pin(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "pin"
    path.touch()
    yield path
    while is_mounted(path):
        mount.umount2(str(path), mount.MNT_DETACH)


def is_mounted(path: Path) -> bool:
    return f" {path} " in Path("/proc/self/mountinfo").read_text()


def pin_to(path: Path, times: int = 1) -> None:
    for _ in range(times):
        mount.mount("/proc/self/ns/uts", str(path), "", mount.MS_BIND)


def test_a_file_is_readable_by_all_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "hosts"
    before = os.umask(0o077)
    try:
        write_file(str(path), b"a longer text")
        write_file(str(path), b"short")
    finally:
        os.umask(before)
    assert path.read_bytes() == b"short" and path.stat().st_mode & 0o777 == 0o644


def test_a_file_is_the_pods_roots(tmp_path: Path) -> None:
    write_file(str(tmp_path / "hosts"), b"x", 70000)
    found = (tmp_path / "hosts").stat()
    assert (found.st_uid, found.st_gid, found.st_mode & 0o777) == (70000, 70000, 0o644)


def test_a_file_is_never_written_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "target")
    with pytest.raises(OSError):
        write_file(str(tmp_path / "link"), b"text")
    assert not (tmp_path / "target").exists()


def test_a_host_without_the_file_gives_an_empty_one(tmp_path: Path) -> None:
    assert read_host_file(str(tmp_path / "absent")) == b""
    assert read_host_file("/etc/passwd").startswith(b"root:")


def test_every_mount_on_a_pin_goes_and_then_the_pin(pin: Path) -> None:
    pin_to(pin, times=3)
    unmount_and_unlink(str(pin))
    assert not is_mounted(pin) and not pin.exists()
    unmount_and_unlink(str(pin))


def test_a_pin_that_was_replaced_goes_as_well(pin: Path) -> None:
    pin.unlink()
    pin.symlink_to("/proc")
    unmount_and_unlink(str(pin))
    assert not pin.is_symlink() and Path("/proc/self").exists()


def test_a_directory_in_the_place_of_a_pin_is_left_to_the_removal_of_the_whole(pin: Path) -> None:
    pin.unlink()
    (pin / "below").mkdir(parents=True)
    unmount_and_unlink(str(pin))
    assert pin.is_dir()
    remove_tree(str(pin.parent))
    assert not pin.parent.exists()


def test_a_file_in_the_place_of_the_folder_of_pins_is_no_error(pin: Path) -> None:
    unmount_and_unlink(f"{pin}/network")
    assert pin.exists()


def test_more_mounts_than_anybody_makes_by_mistake_are_told(pin: Path) -> None:
    pin_to(pin, times=MOUNTS_LIMIT + 1)
    with pytest.raises(HostFault, match="more than 16 mounts"):
        unmount_all(str(pin))


def test_what_the_kernel_refuses_is_told(monkeypatch: pytest.MonkeyPatch, pin: Path) -> None:
    def refuse(_path: str, _flags: int) -> None:
        raise PermissionError(1, "not permitted")

    monkeypatch.setattr(mount, "umount2", refuse)
    with pytest.raises(HostFault, match=r"unmount.*umount2.*EPERM"):
        unmount_all(str(pin))


def test_a_tree_that_is_gone_is_removed(tmp_path: Path) -> None:
    remove_tree(str(tmp_path / "absent"))
