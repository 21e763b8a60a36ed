"""Images as volumes, mounted by a script in a mount namespace of its own."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import HostFault, StartRefused
from runtime.linux.script import Script
from runtime.requests import ImageMount, Rootfs
from runtime.rootfs import image_volumes
from runtime.rootfs.options import parse_options
from tests.kernel.runtime.launched import carried_out
from tests.kernel.runtime.rootfs.held import left_open
from tests.kernel.runtime.rootfs.mountns import in_mount_namespace


@pytest.fixture
def image(tmp_path: Path) -> ImageMount:
    """Of two layers; the upper one hides a file of the lower one, and has links that lead away."""
    for name in ("top/data", "bottom/data", "staging"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "bottom/data/file").write_text("content")
    (tmp_path / "bottom/data/hidden").touch()
    os.mknod(tmp_path / "top/data/hidden", 0o020000, 0)
    (tmp_path / "top/out").symlink_to("../../../../etc")
    (tmp_path / "top/inside").symlink_to("/data/file")
    (tmp_path / "top/loop").symlink_to("loop")
    return {
        "destination": "/volume",
        "lowerdirs": [str(tmp_path / "top"), str(tmp_path / "bottom")],
        "sub_path": "",
    }


def rootfs_at(tmp_path: Path) -> Rootfs:
    """That of the container, of which nothing but the empty directory counts."""
    return {"lowerdirs": [], "upperdir": "", "workdir": "", "staging": str(tmp_path / "staging")}


def opened(image: ImageMount, tmp_path: Path, *options: str) -> Any:
    """Writes the opening of ``image`` into a script."""

    def write(script: Script) -> Any:
        parsed = parse_options(["ro", "rprivate", *options])
        return image_volumes.open_image(script, image, rootfs_at(tmp_path), parsed)

    return write


def looked_at(image: ImageMount, tmp_path: Path, look: Any, *options: str) -> Any:
    """What ``look`` says of the path of the opened tree."""

    def work() -> Any:
        (tree,) = carried_out(opened(image, tmp_path, *options))
        assert not os.path.ismount(tmp_path / "staging")
        return look(Path(f"/proc/self/fd/{tree}"))

    return in_mount_namespace(work)


def test_the_layers_are_stacked(image: ImageMount, tmp_path: Path) -> None:
    assert looked_at(image, tmp_path, lambda root: sorted(os.listdir(root))) == ["data", "inside", "loop", "out"]
    assert looked_at(image, tmp_path, lambda root: os.listdir(root / "data")) == ["file"]


def test_one_layer_is_shown_as_an_image_of_it_would_be(image: ImageMount, tmp_path: Path) -> None:
    image["lowerdirs"] = image["lowerdirs"][:1]
    assert not looked_at(image, tmp_path, lambda root: (root / "data/hidden").exists()), "the whiteout is no file"


def refused_to_write(path: Path) -> int:
    try:
        path.touch()
    except OSError as error:
        return error.errno or 0
    return 0


@pytest.mark.parametrize("sub_path", ["", "data"])
def test_it_is_read_only(image: ImageMount, tmp_path: Path, sub_path: str) -> None:
    image["sub_path"] = sub_path
    assert looked_at(image, tmp_path, lambda root: refused_to_write(root / "new")) == errno.EROFS


def test_options_of_the_mount_are_in_force(image: ImageMount, tmp_path: Path) -> None:
    def flags(root: Path) -> int:
        return os.statvfs(root).f_flag & (os.ST_NOEXEC | os.ST_NODEV | os.ST_NOSUID | os.ST_RDONLY)

    assert looked_at(image, tmp_path, flags) == os.ST_RDONLY
    options = ("noexec", "nodev", "nosuid")
    assert looked_at(image, tmp_path, flags, *options) == os.ST_NOEXEC | os.ST_NODEV | os.ST_NOSUID | os.ST_RDONLY


@pytest.mark.parametrize("sub_path", ["data/file", "inside"])
def test_a_file_of_it_is_a_mount_of_that_file(image: ImageMount, tmp_path: Path, sub_path: str) -> None:
    image["sub_path"] = sub_path
    assert looked_at(image, tmp_path, lambda file: file.read_text()) == "content"


def test_no_link_leads_out_of_it(image: ImageMount, tmp_path: Path) -> None:
    image["sub_path"] = "out"
    with pytest.raises(StartRefused, match="out: is not in the image"):
        looked_at(image, tmp_path, os.listdir)
    Path(image["lowerdirs"][1], "etc").mkdir()
    assert looked_at(image, tmp_path, os.listdir) == []


@pytest.mark.parametrize("sub_path", ["nothing", "data/file/below", "loop", "a" * 300])
def test_what_is_not_there_is_refused(image: ImageMount, tmp_path: Path, sub_path: str) -> None:
    image["sub_path"] = sub_path
    with pytest.raises(StartRefused, match="is not in the image"):
        looked_at(image, tmp_path, os.listdir)


def test_a_missing_layer_is_a_fault_of_the_host(image: ImageMount, tmp_path: Path) -> None:
    image["lowerdirs"].append("/nowhere")
    with pytest.raises(HostFault) as failed:
        looked_at(image, tmp_path, os.listdir)
    assert failed.value.object == "/nowhere"


@pytest.mark.parametrize("sub_path", ["", "data"])
def test_nothing_but_the_tree_is_left_open(image: ImageMount, tmp_path: Path, sub_path: str) -> None:
    image["sub_path"] = sub_path
    found = in_mount_namespace(lambda: left_open(lambda script: opened(image, tmp_path)(script) and None))
    assert len(found) == 1 and set(found.values()) == {True}


def test_several_go_over_the_same_directory(image: ImageMount, tmp_path: Path) -> None:
    def write(script: Script) -> Any:
        part = ImageMount(destination="/other", lowerdirs=image["lowerdirs"], sub_path="data")
        return [opened(each, tmp_path)(script) for each in (image, part, image)]

    def work() -> list[list[str]]:
        return [sorted(os.listdir(f"/proc/self/fd/{tree}")) for tree in carried_out(write)]

    whole = ["data", "inside", "loop", "out"]
    assert in_mount_namespace(work) == [whole, ["file"], whole]


def test_an_image_has_the_label_of_its_containers_root(image: ImageMount, tmp_path: Path) -> None:
    """As the root itself; only a kernel with SELinux takes it."""
    script = Script()
    labelled = Rootfs(**{**rootfs_at(tmp_path), "label": "u:object_r:t:s0:c1,c2"})
    image_volumes.open_image(script, image, labelled, parse_options(["ro"]))
    assert b',context="u:object_r:t:s0:c1,c2",index=off' in script.bytes()
