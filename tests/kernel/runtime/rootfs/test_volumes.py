from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.errors import StartRefused
from runtime.rootfs import volumes
from tests.descriptors import open_descriptors

CAPABILITY = bytes.fromhex("0100000200040000000000000000000000000000")  # cap_net_bind_service=ep


class Place:
    def __init__(self, path: Path) -> None:
        self.image, self.volume, self.outside = path / "image", path / "volume", path / "outside"
        for directory in (self.image / "data", self.volume, self.outside):
            directory.mkdir(parents=True)
        self.root = os.open(self.image, os.O_PATH | os.O_DIRECTORY)

    def fill(self, destination: str = "/data", budget: volumes.Budget | None = None) -> None:
        volumes.fill_volume(self.root, destination, str(self.volume), budget or volumes.Budget())


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    umask = os.umask(0)
    yield made
    os.umask(umask)
    os.close(made.root)
    assert list(made.outside.iterdir()) == []


def test_content_modes_owners_and_times_are_copied(place: Place) -> None:
    data = place.image / "data"
    (data / "sub").mkdir(mode=0o2751)
    os.chmod(data / "sub", 0o2751)
    (data / "sub/file").write_bytes(b"x" * 100_000)
    os.chown(data / "sub/file", 1000, 1001)
    os.chmod(data / "sub/file", 0o4755)
    os.utime(data / "sub/file", ns=(10**18, 10**18 + 1))
    os.chown(data, 7, 8)
    os.chmod(data, 0o1777)
    place.fill()
    copied = (place.volume / "sub/file").stat()
    assert (copied.st_uid, copied.st_gid, stat.S_IMODE(copied.st_mode)) == (1000, 1001, 0o4755)
    assert copied.st_mtime_ns == 10**18 + 1
    assert (place.volume / "sub/file").read_bytes() == b"x" * 100_000
    assert stat.S_IMODE((place.volume / "sub").stat().st_mode) == 0o2751
    top = place.volume.stat()
    assert (top.st_uid, top.st_gid, stat.S_IMODE(top.st_mode)) == (7, 8, 0o1777)


def test_extended_attributes_are_copied_after_the_owner(place: Place) -> None:
    program = place.image / "data/program"
    program.write_text("x")
    os.chown(program, 1000, 1000)
    os.setxattr(program, "user.note", b"kept")
    os.setxattr(program, "security.capability", CAPABILITY)
    place.fill()
    copy = place.volume / "program"
    assert os.getxattr(copy, "user.note") == b"kept"
    assert os.getxattr(copy, "security.capability") == CAPABILITY


def test_symlinks_are_copied_and_never_followed(place: Place) -> None:
    (place.image / "data/abs").symlink_to(place.outside)
    (place.image / "data/rel").symlink_to("../../outside/x")
    place.fill()
    assert os.readlink(place.volume / "abs") == str(place.outside)
    assert os.readlink(place.volume / "rel") == "../../outside/x"


def test_pipes_devices_and_sockets_are_copied(place: Place) -> None:
    os.mkfifo(place.image / "data/pipe", 0o640)
    os.mknod(place.image / "data/null", stat.S_IFCHR | 0o606, os.makedev(1, 3))
    os.mknod(place.image / "data/sock", stat.S_IFSOCK | 0o700)
    os.chown(place.image / "data/null", 3, 4)
    place.fill()
    assert stat.S_ISFIFO((place.volume / "pipe").stat().st_mode)
    assert stat.S_ISSOCK((place.volume / "sock").stat().st_mode)
    node = (place.volume / "null").stat()
    assert (node.st_rdev, stat.S_IMODE(node.st_mode), node.st_uid) == (os.makedev(1, 3), 0o606, 3)


def test_a_path_that_leads_out_of_the_image_stays_inside(place: Place) -> None:
    """CVE-2022-23648: a VOLUME whose path escapes by dots or by a symlink."""
    (place.image / "etc").mkdir()
    (place.image / "etc/inner").write_text("image")
    (place.image / "link").symlink_to("/../../etc")
    place.fill("/../../../../etc")
    assert sorted(os.listdir(place.volume)) == ["inner"]
    (place.volume / "inner").unlink()
    place.fill("/link")
    assert sorted(os.listdir(place.volume)) == ["inner"]


def test_by_joined_strings_the_host_s_directory_would_be_copied(place: Place) -> None:
    """The weak variant of the test above."""
    assert "passwd" in os.listdir(f"{place.image}/../../../../../../../../etc")


def test_an_image_without_the_directory_leaves_the_volume_alone(place: Place) -> None:
    os.chmod(place.volume, 0o750)
    place.fill("/absent")
    assert (os.listdir(place.volume), stat.S_IMODE(place.volume.stat().st_mode)) == ([], 0o750)


@pytest.mark.parametrize("destination", ["/file", "/loop"])
def test_what_is_no_directory_is_refused(place: Place, destination: str) -> None:
    (place.image / "file").touch()
    (place.image / "loop").symlink_to("loop")
    with pytest.raises(StartRefused, match="not a directory") as refused:
        place.fill(destination)
    assert refused.value.object == destination


def test_a_copy_that_was_cut_off_is_made_good(place: Place) -> None:
    data = place.image / "data"
    (data / "dir").mkdir()
    (data / "dir/file").write_text("whole")
    (data / "link").symlink_to("dir")
    (place.volume / "dir").mkdir()
    (place.volume / "dir/file").write_text("wh")
    (place.volume / "link").symlink_to(place.outside)
    place.fill()
    assert (place.volume / "dir/file").read_text() == "whole"
    assert os.readlink(place.volume / "link") == "dir"


def test_a_symlink_where_a_directory_goes_is_replaced(place: Place) -> None:
    (place.image / "data/dir").mkdir()
    (place.image / "data/dir/file").touch()
    (place.volume / "dir").symlink_to(place.outside)
    place.fill()
    assert not (place.volume / "dir").is_symlink()


def test_entries_bytes_and_depth_are_bounded(place: Place) -> None:
    data = place.image / "data"
    for n in range(5):
        (data / f"f{n}").write_bytes(b"x" * 100)
    with pytest.raises(StartRefused, match="too many files"):
        place.fill(budget=volumes.Budget(entries=4))
    with pytest.raises(StartRefused, match="too many bytes"):
        place.fill(budget=volumes.Budget(size=499))
    deep = data
    for _ in range(volumes.MAX_DEPTH + 1):
        deep = deep / "d"
    os.makedirs(deep)
    with pytest.raises(StartRefused, match="too deep"):
        place.fill()


def test_a_sparse_file_counts_with_its_size(place: Place) -> None:
    with open(place.image / "data/sparse", "wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(StartRefused, match="too many bytes"):
        place.fill()


def test_no_descriptor_is_left_open(place: Place) -> None:
    (place.image / "data/dir").mkdir()
    (place.image / "data/dir/file").touch()
    before = open_descriptors()
    place.fill()
    with pytest.raises(StartRefused):
        place.fill(budget=volumes.Budget(entries=1))
    assert open_descriptors() == before
