"""Images as volumes show what is in the image, and never the host (R1): sub paths, links, nodes and mount points."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proto import api_pb2 as api
from tests.security.attacks import Attacked, Code, mounts_of, refused
from tests.security.images import BLOCK, CHARACTER, FIFO, Member, symlink

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    (tmp_path / "secret").mkdir()
    (tmp_path / "secret/key").write_text("of the host\n")
    return tmp_path / "secret"


def volume(image: str, sub_path: str = "", at: str = "/vol") -> api.Mount:
    return api.Mount(container_path=at, image=api.ImageSpec(image=image), image_sub_path=sub_path, readonly=True)


async def test_a_joined_sub_path_is_the_host_s(secret: Path, tmp_path: Path) -> None:
    """CVE-2017-1002101, CVE-2021-25741 as they were: the sub path is joined to where the volume lies, and followed."""
    (tmp_path / "volume").mkdir()
    (tmp_path / "volume/sub").symlink_to(secret)
    assert os.listdir(os.path.join(tmp_path, "volume", "sub")) == ["key"]


CLIMB = "../" * 6
LINKS = {
    "absolute": "{secret}",
    "climbing": CLIMB + "{bare}",
    "by another": "/first",
    "magic": "/proc/self/root{secret}",
    "the host's init": "/proc/1/root{secret}",
    "a descriptor": "/proc/self/fd/3",
}


@pytest.mark.parametrize("how", sorted(LINKS))
async def test_a_sub_path_that_is_a_link_leads_no_further_than_the_image(
    how: str, crisp: Attacked, secret: Path
) -> None:
    """CVE-2017-1002101, CVE-2021-25741: the link leads to the host; the image has something else there, or nothing."""
    target = LINKS[how].format(secret=secret, bare=str(secret)[1:])
    links = [symlink("sub", target), symlink("first", f"{CLIMB}{str(secret)[1:]}"), symlink("d/deeper", f"..{target}")]
    image = await crisp.image([Member("d/", b"5"), *links])
    pod, mounts = await crisp.run_pod(), mounts_of()
    for sub in ("sub", "sub/key", "d/deeper", "d/deeper/key"):
        config = crisp.attacker("sh", "-c", "ls -A /vol; cat /vol /vol/key", mounts=[volume(image, sub)])
        await refused(crisp.create(pod, config), Code.FAILED_PRECONDITION, "ImageVolumeMountFailed")
    own = await crisp.image([*links, Member(f"{secret}/key".lstrip("/"), content=b"of the image\n")])
    if how in ("absolute", "climbing", "by another"):
        config = crisp.attacker("cat", "/vol/key", mounts=[volume(own, "sub")])
        assert await crisp.output(pod, config) == ["of the image"]
    assert mounts_of() == mounts


@pytest.mark.parametrize("sub", ["../x", "a/../../x", "/../x", "a\0b", "x" * 300])
async def test_a_sub_path_that_is_no_path_is_refused(sub: str, crisp: Attacked) -> None:
    """CVE-2021-25741: what leads out by its text is the request's fault."""
    config = crisp.attacker("true", mounts=[volume(await crisp.image([Member("x")]), sub)])
    await refused(crisp.create(await crisp.run_pod(), config), Code.INVALID_ARGUMENT, "image_sub_path")


async def test_nodes_and_pipes_of_an_image_are_no_way_out(crisp: Attacked) -> None:
    """CVE-2022-0492's neighbours: nodes that another image brings are opened by nobody, and hold up no start."""
    disk = os.stat("/").st_dev
    nodes = [
        Member("disk", BLOCK, mode=0o666, device=(os.major(disk), os.minor(disk))),
        Member("mem", CHARACTER, mode=0o666, device=(1, 1)),
        Member("pipe", FIFO, mode=0o666),
    ]
    image = await crisp.image(nodes)
    pod = await crisp.run_pod()
    id = await crisp.run(pod, crisp.attacker("sleep", "1000", mounts=[volume(image)]))
    said = await crisp.say(id, "sh", "-c", "head -c1 /vol/disk; head -c1 /vol/mem; touch /vol/x; rm /vol/pipe")
    assert said.count("Operation not permitted") == 2 and said.count("Read-only") == 2, said
    for sub in ("disk", "mem", "pipe"):
        config = crisp.attacker("true", mounts=[volume(image, sub)])
        await refused(crisp.create(pod, config), Code.FAILED_PRECONDITION, "neither a directory nor a file")


@pytest.mark.parametrize("place", ["/proc", "/proc/sys", "//proc/self", "/"])
async def test_an_image_is_not_mounted_over_procfs(place: str, crisp: Attacked) -> None:
    """CVE-2019-16884, CVE-2025-52881: a whole procfs of the image's making."""
    image = await crisp.image([Member("self/attr/exec"), Member("sys/kernel/core_pattern")])
    config = crisp.attacker("true", mounts=[volume(image, at=place)])
    await refused(crisp.create(await crisp.run_pod(), config), Code.INVALID_ARGUMENT, "container_path")


async def test_an_image_over_links_of_the_root_lands_inside(crisp: Attacked, secret: Path) -> None:
    """CVE-2021-30465: the mount point is a link of the container's own image, to the host and into procfs."""
    image = await crisp.image([Member("mine", content=b"x")])
    pod, before = await crisp.run_pod(), mounts_of()
    root = await crisp.image([symlink("vol", str(secret)), symlink("bad", "/proc/sys")])
    id = await crisp.run(pod, crisp.attacker("sleep", "1000", image=root, mounts=[volume(image)]))
    assert "mine" in (await crisp.say(id, "ls", str(secret))).split()
    assert (os.listdir(secret), mounts_of()) == (["key"], before)
    bad = await crisp.create(pod, crisp.attacker("true", image=root, mounts=[volume(image, at="/bad")]))
    start = crisp.runtime.StartContainer(api.StartContainerRequest(container_id=bad))
    await refused(start, Code.FAILED_PRECONDITION, "/bad")
