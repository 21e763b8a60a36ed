from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import HostFault
from runtime.linux import mount
from runtime.linux.script import Script, Slot
from runtime.rootfs import masks
from tests.kernel.runtime.launched import carried_out
from tests.kernel.runtime.rootfs.held import left_open
from tests.kernel.runtime.rootfs.mountns import in_mount_namespace, tmpfs_root


def call(write: Callable[[Script, Slot, list[str]], None], root: int, paths: list[str]) -> None:
    carried_out(lambda script: write(script, script.given["root"], paths), {"root": root})


def mask(root: int, paths: list[str]) -> None:
    call(masks.mask_paths, root, paths)


def make_readonly(root: int, paths: list[str]) -> None:
    call(masks.make_readonly, root, paths)


def root_with_secrets(path: Path) -> int:
    root = tmpfs_root(path)
    (path / "file").write_text("secret")
    (path / "loud").write_text("secret")
    for name in ("one", "two"):
        (path / name).mkdir()
        (path / name / "secret").touch()
    (path / "rw").mkdir()
    (path / "link").symlink_to("/file")
    return root


def test_masked_files_are_empty_and_masked_directories_too(tmp_path: Path) -> None:
    def work() -> tuple[str, str, list[str], list[str]]:
        root = root_with_secrets(tmp_path)
        mask(root, ["/file", "/one", "/absent", "/file/absent", "/two"])
        return (
            (tmp_path / "file").read_text(),
            (tmp_path / "loud").read_text(),
            os.listdir(tmp_path / "one"),
            os.listdir(tmp_path / "two"),
        )

    assert in_mount_namespace(work) == ("", "secret", [], [])


def test_masked_directories_share_one_read_only_file_system(tmp_path: Path) -> None:
    def work() -> tuple[bool, int]:
        mask(root_with_secrets(tmp_path), ["/one", "/two"])
        with pytest.raises(OSError) as failed:
            (tmp_path / "one/new").touch()
        return (tmp_path / "one").stat().st_dev == (tmp_path / "two").stat().st_dev, failed.value.errno or 0

    assert in_mount_namespace(work) == (True, errno.EROFS)


def test_a_masked_file_stays_the_null_device_when_the_container_replaces_its_own(tmp_path: Path) -> None:
    """CVE-2025-31133: the mask comes from the verified device, not from a name in the image."""

    def work() -> int:
        root = root_with_secrets(tmp_path)
        (tmp_path / "dev").mkdir()
        (tmp_path / "dev/null").symlink_to("/loud")
        mask(root, ["/file"])
        return (tmp_path / "file").stat().st_rdev

    assert in_mount_namespace(work) == os.makedev(1, 3)


def test_a_mask_does_not_lead_to_the_hosts_null_device(tmp_path: Path) -> None:
    """It reads and takes as that does; its mode, owner and times are out of reach."""

    def work() -> list[int]:
        root = root_with_secrets(tmp_path)
        mask(root, ["/file"])
        masked, numbers = tmp_path / "file", []
        assert masked.read_text() == "" and masked.write_text("gone") == 4
        changes: list[Callable[[], object]] = [
            lambda: masked.chmod(0),
            lambda: os.chown(masked, 1, 1),
            lambda: os.utime(masked),
        ]
        for change in changes:
            with pytest.raises(OSError) as failed:
                change()
            numbers.append(failed.value.errno or 0)
        return numbers

    assert in_mount_namespace(work) == [errno.EROFS] * 3


@pytest.mark.parametrize("device", ["/dev/zero", "/dev/full"])
def test_another_device_than_the_null_device_is_not_used(tmp_path: Path, device: str) -> None:
    def work() -> None:
        mount.mount(device, "/dev/null", "", mount.MS_BIND)
        mask(root_with_secrets(tmp_path), ["/file"])

    with pytest.raises(HostFault, match="/dev/null: is not the null device"):
        in_mount_namespace(work)


def test_a_host_whose_null_device_is_something_else_is_not_used(tmp_path: Path) -> None:
    def work() -> None:
        root = root_with_secrets(tmp_path)
        mount.mount(str(tmp_path / "loud"), "/dev/null", "", mount.MS_BIND)
        mask(root, ["/file"])

    with pytest.raises(HostFault, match="null"):
        in_mount_namespace(work)


def test_a_link_is_followed_inside_the_root_and_its_target_masked(tmp_path: Path) -> None:
    def work() -> str:
        mask(root_with_secrets(tmp_path), ["/link"])
        return (tmp_path / "file").read_text()

    assert in_mount_namespace(work) == ""


def test_read_only_paths_cannot_be_written_with_what_is_mounted_below(tmp_path: Path) -> None:
    def work() -> list[int | None]:
        root = root_with_secrets(tmp_path)
        (tmp_path / "rw/below").mkdir()
        mount.mount("tmpfs", str(tmp_path / "rw/below"), "tmpfs", 0, "size=64k")
        make_readonly(root, ["/rw", "/absent", "/loud"])
        numbers = []
        for path in ("rw/x", "rw/below/x", "loud", "fine"):
            try:
                (tmp_path / path).write_text("x")
            except OSError as error:
                numbers.append(error.errno)
        return numbers

    assert in_mount_namespace(work) == [errno.EROFS] * 3


def test_no_masks_need_nothing(tmp_path: Path) -> None:
    script = Script()
    masks.mask_paths(script, Slot(0), [])
    masks.make_readonly(script, Slot(0), [])
    assert script.last == -1  # not even a call


def test_an_unexpected_error_is_raised(tmp_path: Path) -> None:
    root = os.open(tmp_path, os.O_PATH)
    try:
        for write in (masks.mask_paths, masks.make_readonly):
            with pytest.raises(HostFault, match=r"/x{300}: openat2: file name too long"):
                call(write, root, ["/" + "x" * 300])
    finally:
        os.close(root)


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    def write(script: Script) -> None:
        masks.mask_paths(script, script.given["root"], ["/file", "/one", "/two", "/absent"])
        masks.make_readonly(script, script.given["root"], ["/rw", "/absent", "/loud"])

    assert in_mount_namespace(lambda: left_open(write, {"root": root_with_secrets(tmp_path)})) == {}
