"""A layer of mountpoints has what an init would have made, where it would have made it, and nothing else."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from runtime.errors import Fault, StartRefused
from runtime.mountpoints import plan_mountpoints
from runtime.requests import Mountpoint, Rootfs
from runtime.rootfs.made import check_layer
from tests.kernel.runtime.containers import Image, bind, needs_busybox, run
from tests.kernel.runtime.launched import launch, wait_report

pytestmark = needs_busybox

DEFAULTS = [("/proc", "exact"), ("/dev", "exact"), ("/sys", "exact")]


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return Image(tmp_path)


def make(image: Image, places: Sequence[tuple[str, str]]) -> Path:
    """The upper directory that the script leaves."""
    made = image.path / "made"
    for name in ("made", "made/upper", "made/work"):
        (image.path / name).mkdir()
    rootfs: Rootfs = {**image.request("true")["rootfs"], "upperdir": f"{made}/upper", "workdir": f"{made}/work"}
    script = plan_mountpoints(rootfs, [Mountpoint(path=path, kind=kind) for path, kind in places])
    pid, report = launch(script)
    handed, fault = wait_report(script, report)
    _, status = os.waitpid(pid, 0)
    if fault is not None:
        raise fault
    assert (handed, status) == ([], 0)
    check_layer(f"{made}/upper")
    return made / "upper"


def tree(root: Path) -> list[tuple[str, int, int, int]]:
    found = ((path, path.lstat()) for path in root.rglob("*"))
    return sorted((str(path.relative_to(root)), info.st_mode, info.st_uid, info.st_gid) for path, info in found)


def by_init(image: Image, places: Sequence[tuple[str, str]], cwd: str = "/") -> Path:
    """The upper directory of a container with mounts at ``places``."""
    (image.path / "source").mkdir()
    (image.path / "file").touch()
    sources = {"directory": image.path / "source", "file": image.path / "file"}
    run(image.request("true", mounts=[bind(sources[kind], path) for path, kind in places], cwd=cwd))
    return image.path / "upper"


PLACES = {
    "of kubelet": [("/etc/hosts", "file"), ("/var/run/secrets/kubernetes.io/serviceaccount", "directory")],
    "below a link": [("/link/a/b", "directory"), ("/link/file", "file")],
    "behind a link that dangles": [("/dangling/file", "file"), ("/dangling/deep/er", "directory")],
    "that are there": [("/etc/passwd", "file"), ("/tmp", "directory")],
    "inside another mount, by a link": [("/covered", "directory"), ("/over/there/x", "file")],
}


@pytest.mark.parametrize("places", PLACES.values(), ids=PLACES)
def test_it_is_as_an_init_leaves_it(image: Image, places: list[tuple[str, str]]) -> None:
    (image.layer / "etc").chmod(0o2711)
    os.chown(image.layer / "etc", 7, 8)
    (image.layer / "link").symlink_to("../../etc")
    (image.layer / "dangling").symlink_to("/absent/too")
    (image.layer / "covered").mkdir()
    (image.layer / "covered/there").symlink_to("/etc")
    (image.layer / "over").symlink_to("covered")
    assert tree(make(image, [*DEFAULTS, *places])) == tree(by_init(image, places))


def test_a_working_directory_is_made_as_well(image: Image) -> None:
    assert tree(make(image, [*DEFAULTS, ("/deep/er", "plain")])) == tree(by_init(image, [], cwd="/deep/er"))


def test_a_mount_hides_what_would_be_made_in_it(image: Image) -> None:
    """With the image's own directory, the link in it would be followed."""
    (image.layer / "covered").mkdir()
    (image.layer / "covered/there").symlink_to("/etc")
    (image.layer / "over").symlink_to("covered")
    made = make(image, [("/covered", "directory"), ("/over/there/x", "file")])
    assert not (made / "etc").exists() and not (made / "covered/there").exists()


@pytest.mark.parametrize("name", ["etc", "run", "proc"])
def test_a_link_of_the_image_leads_nowhere_outside(image: Image, name: str) -> None:
    outside = image.path / "outside"
    outside.mkdir()
    if name == "etc":
        (image.layer / "etc/passwd").unlink()
        (image.layer / "etc").rmdir()
    (image.layer / name).symlink_to(outside)
    places = [(f"/{name}/hosts", "file"), (f"/{name}/deep/er", "directory"), (f"/{name}", "exact")]
    with pytest.raises(StartRefused):
        make(image, places)
    inside = Path(f"{image.path}/made/upper{outside}")
    assert os.listdir(outside) == [] and sorted(os.listdir(inside)) == ["deep", "hosts"]


def test_a_loop_of_links_ends_in_a_refusal(image: Image) -> None:
    (image.layer / "run").symlink_to("run")
    with pytest.raises(StartRefused, match="too many levels") as refused:
        make(image, [("/run/secrets", "directory")])
    assert (refused.value.step, refused.value.object) == ("make the mountpoint", "/run/secrets")


def test_nothing_is_seen_on_the_host_and_nothing_stays_mounted(image: Image) -> None:
    before = Path("/proc/self/mountinfo").read_text()
    made = make(image, [*DEFAULTS, ("/etc/hosts", "file")])
    assert Path("/proc/self/mountinfo").read_text() == before
    assert stat.S_ISREG((made / "etc/hosts").stat().st_mode) and os.listdir(image.path / "staging") == []


def test_an_image_that_is_gone_is_named(image: Image) -> None:
    image.layer.rename(image.path / "elsewhere")
    with pytest.raises(Fault) as failed:
        make(image, [])
    assert failed.value.object == str(image.layer)
