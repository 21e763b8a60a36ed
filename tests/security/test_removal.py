"""What is taken away with a container is what was made for it, wherever its names lead by now (R1)."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from proto import api_pb2 as api
from tests.security.attacks import Attacked, mounts_of
from tests.security.images import DIRECTORY, Member, symlink

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A directory of the host with files that nobody may remove."""
    place = tmp_path / "host"
    (place / "deep").mkdir(parents=True)
    for name in ("mounted", "hosts", "deep/key"):
        (place / name).write_text("of the host\n")
    return place


def contents(place: Path) -> dict[str, tuple[int, int]]:
    return {str(path): (path.lstat().st_ino, path.lstat().st_mode) for path in (place, *place.rglob("*"))}


async def test_a_joined_path_removes_what_its_link_leads_to(host: Path, tmp_path: Path) -> None:
    """CVE-2024-23652, CVE-2026-33747 as they were: what was made for a mount is removed by its path, of which a part
    has become a link meanwhile."""
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "vol").symlink_to(host)
    shutil.rmtree(os.path.join(tmp_path, "root", "vol", "deep"))
    os.unlink(os.path.join(tmp_path, "root", "vol", "mounted"))
    assert os.listdir(host) == ["hosts"]


SWAP = """
rm -rf /vol; ln -s $0 /vol
mkdir /nest; ln -s $0 /nest/link; ln -s / /nest/root; ln -s /proc/self/root /nest/magic; ln -s .. /nest/up
mkdir /etc/x; rm -f /etc/passwd; ln -s $0/hosts /etc/passwd
ln -s $0 /data/link; echo made > /data/mine; mkfifo /nest/pipe; mkdir -p /nest/a/b/c; chmod 000 /nest/a
"""


async def test_a_removal_leaves_the_host_alone(crisp: Attacked, host: Path, tmp_path: Path) -> None:
    """CVE-2024-23652, CVE-2024-23651, CVE-2024-1753, CVE-2024-11218, CVE-2026-33747: the container has put links where
    crisp made mount points, in its writable layer and in its volume; container and pod go, the host stays."""
    (tmp_path / "data").mkdir()
    before, mounts = contents(host), mounts_of()
    pod = await crisp.run_pod()
    config = crisp.attacker("sh", "-c", f"{SWAP}sleep 1000", str(host))
    config.mounts.append(api.Mount(container_path="/data", host_path=str(tmp_path / "data")))
    config.mounts.append(api.Mount(container_path="/away/made/here", host_path=str(tmp_path / "data")))
    id = await crisp.run(pod, config)
    await crisp.until(lambda: (tmp_path / "data/mine").exists() and os.path.lexists(f"{root_of(crisp, id)}/nest/a/b"))
    assert os.readlink(f"{root_of(crisp, id)}/vol") == str(host)
    await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))
    await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod))
    await crisp.settle()
    assert (contents(host), mounts_of()) == (before, mounts)
    assert sorted(os.listdir(tmp_path / "data")) == ["link", "mine"]  # a volume is the pod's owner's
    assert not os.path.exists(crisp.host.container_directory(id))
    assert os.listdir(crisp.host.root / "trash") == []


def root_of(crisp: Attacked, container: str) -> str:
    return f"/proc/{crisp.pid(container)}/root"


async def test_an_image_with_links_is_removed_alone(crisp: Attacked, host: Path) -> None:
    """CVE-2024-9407, CVE-2024-9675: layers go by their own directories, whatever lies in them."""
    before = contents(host)
    links = [symlink("out", str(host)), symlink("d/up", "../../../.."), symlink("d/magic", "/proc/1/root")]
    name = await crisp.image([Member("d", DIRECTORY), *links])
    record = crisp.host.images.resolve(name)
    assert record is not None
    await crisp.images.RemoveImage(api.RemoveImageRequest(image=api.ImageSpec(image=name)))
    await crisp.settle()
    assert contents(host) == before
    assert record.layers[-1] not in os.listdir(crisp.host.root / "layers")
