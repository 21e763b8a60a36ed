"""Labels on volumes: on everything below, on nothing beside, within bounds.

The attribute is stored where there is no SELinux, too.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from runtime.errors import FailedPrecondition, HostFault, ResourceExhausted
from runtime.linux import mount
from runtime.lsm import relabel as module
from runtime.lsm.relabel import ATTRIBUTE, relabel
from tests.kernel.runtime.forked import in_child

LABEL = "system_u:object_r:container_file_t:s0:c1,c2"


def label_of(path: Path) -> str:
    try:
        return os.getxattr(path, ATTRIBUTE, follow_symlinks=False).rstrip(b"\0").decode()
    except OSError as error:
        assert error.errno == errno.ENODATA
        return ""


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A tree of everything that a volume may have, and something outside that it leads to."""
    made = tmp_path / "volume"
    (made / "a" / "b").mkdir(parents=True)
    (made / "a" / "b" / "file").touch()
    (made / "no rights").touch(mode=0)
    os.mkfifo(made / "a" / "fifo")
    os.mknod(made / "device", 0o600 | 0o060000, os.makedev(7, 200))  # a block device that nobody opens
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret").touch()
    (made / "link").symlink_to(outside)
    (made / "a" / "dangling").symlink_to("/none")
    return made


def test_everything_in_a_volume_gets_the_label_and_nothing_that_it_leads_to(volume: Path) -> None:
    assert relabel(str(volume), LABEL) == 9
    inside = [volume, *volume.rglob("*")]
    assert len(inside) == 9 and {label_of(path) for path in inside} == {LABEL}
    outside = volume.parent / "outside"
    assert label_of(outside) == label_of(outside / "secret") == label_of(volume.parent) == ""


def test_a_volume_may_be_one_file_or_behind_a_link(volume: Path) -> None:
    assert relabel(str(volume / "no rights"), LABEL) == 1
    assert label_of(volume / "no rights") == LABEL and label_of(volume) == ""
    assert relabel(str(volume / "link"), LABEL) == 2  # as the mount follows it
    assert label_of(volume.parent / "outside" / "secret") == LABEL and label_of(volume / "link") == ""


@pytest.mark.parametrize("path", ["/", "/etc", "/usr/", "/usr/../var", "/proc"])
def test_a_folder_of_the_system_is_refused(path: str) -> None:
    with pytest.raises(FailedPrecondition, match="keeps its SELinux context"):
        relabel(path, LABEL)


def test_files_and_levels_are_bounded(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_DEPTH", 2)
    with pytest.raises(ResourceExhausted, match="more than 2 levels"):
        relabel(str(volume), LABEL)
    monkeypatch.setattr(module, "MAX_FILES", 3)
    with pytest.raises(ResourceExhausted, match="more than 3 files"):
        relabel(str(volume), LABEL)


def test_what_is_not_there_is_a_fault(volume: Path) -> None:
    with pytest.raises(HostFault) as raised:
        relabel(str(volume / "none"), LABEL)
    assert raised.value.errno == errno.ENOENT


def test_what_goes_meanwhile_is_passed_over(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    label = module._Walk.label

    def remove(self: module._Walk, fd: int) -> None:
        label(self, fd)
        (volume / "a" / "b" / "file").unlink(missing_ok=True)
        (volume / "no rights").unlink(missing_ok=True)

    monkeypatch.setattr(module._Walk, "label", remove)
    assert relabel(str(volume), LABEL) == 7


def test_a_read_only_volume_stays_as_it_is(volume: Path) -> None:
    def work() -> int:
        from runtime.linux import namespaces

        namespaces.unshare(namespaces.CLONE_NEWNS)
        mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)
        mount.mount(str(volume), str(volume), "", mount.MS_BIND)
        mount.mount("", str(volume), "", mount.MS_BIND | mount.MS_REMOUNT | mount.MS_RDONLY)
        return relabel(str(volume), LABEL)

    assert in_child(work) == 9
    assert label_of(volume) == ""
