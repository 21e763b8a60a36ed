"""What stands in for procfs, for its files and for the devices that cover them (R2)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proto import api_pb2 as api
from tests.security.attacks import Attacked, Code, refused, status_of
from tests.security.images import DIRECTORY, Member, symlink
from tests.security.weak import in_private_mounts

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

PATTERN = "/proc/sys/kernel/core_pattern"


async def test_a_joined_path_mounts_procfs_where_the_image_says(tmp_path: Path) -> None:
    """CVE-2019-16884, CVE-2019-19921, CVE-2023-27561, CVE-2023-28642, youki CVE-2025-54867 as they were: /proc of the
    image is a link, so the mount lands elsewhere, and what is written to the label's file is a file of the image."""
    for name in ("root", "fake/self/attr", "elsewhere"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "fake/self/attr/exec").write_text("")
    script = 'mount -t proc none "$1/root/proc"; ls "$2"; echo label > "$1/fake/self/attr/exec"'
    (tmp_path / "root/proc").symlink_to(tmp_path / "elsewhere")
    assert "cpuinfo" in in_private_mounts(script, tmp_path, tmp_path / "elsewhere")
    assert (tmp_path / "fake/self/attr/exec").read_text() == "label\n"  # which no kernel has seen


async def test_a_write_by_name_goes_to_what_stands_in_for_procfs(tmp_path: Path) -> None:
    """CVE-2025-52881, youki CVE-2025-62596 as they were: a sysctl's name leads elsewhere, and the write with it."""
    (tmp_path / "kernel").mkdir()
    (tmp_path / "target").touch()
    (tmp_path / "kernel/shm_rmid_forced").symlink_to(tmp_path / "target")
    in_private_mounts('mount --bind "$1" /proc/sys; echo 1 > /proc/sys/kernel/shm_rmid_forced', tmp_path)
    assert (tmp_path / "target").read_text() == "1\n"


@pytest.mark.parametrize("device", ["null", "pts/0"])
async def test_a_mask_by_the_image_s_device_binds_what_that_names(device: str, tmp_path: Path) -> None:
    """CVE-2025-31133 (null), CVE-2025-52565 (pts/0, as /dev/console) as they were: the device is a link to a file of
    procfs, which is mounted, writable, where it was to be hidden."""
    (tmp_path / "dev/pts").mkdir(parents=True)
    (tmp_path / "masked").touch()
    (tmp_path / "dev" / device).symlink_to(PATTERN)
    said = in_private_mounts('mount --bind "$1" "$2"; cat "$2"', tmp_path / "dev" / device, tmp_path / "masked")
    assert said == Path(PATTERN).read_text()


FAKES = {
    "files": [
        Member("proc/self/attr/exec", mode=0o666),
        Member("proc/sys/kernel/shm_rmid_forced", mode=0o666),
        Member("proc/1/oom_score_adj", mode=0o666),
        Member("sys/fs/cgroup/cgroup.procs", mode=0o666),
    ],
    "links": [
        Member("proc", DIRECTORY),
        Member("sys", DIRECTORY),
        symlink("proc/self", "/tmp"),
        symlink("proc/sys", "/etc"),
        symlink("sys/fs", "/tmp"),
    ],
}


@pytest.mark.parametrize("kind", sorted(FAKES))
async def test_what_an_image_has_in_proc_is_covered(kind: str, crisp: Attacked) -> None:
    """CVE-2019-19921, CVE-2025-52881: files and links where procfs and sysfs go; scores, labels and sysctls are the
    kernel's own all the same."""
    image = await crisp.image(FAKES[kind])
    config = crisp.attacker("sleep", "1000", image=image)
    config.linux.resources.oom_score_adj = 500
    pod = crisp.pod()
    pod.linux.sysctls["kernel.shm_rmid_forced"] = "1"
    id = await crisp.run(await crisp.run_pod(pod), config)
    pid = crisp.pid(id)
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "500\n"
    assert await crisp.say(id, "cat", "/proc/sys/kernel/shm_rmid_forced") == "1"
    kinds = [line.split()[1:3] for line in (await crisp.say(id, "cat", "/proc/mounts")).splitlines()]
    assert ["/proc", "proc"] in kinds and ["/sys", "sysfs"] in kinds
    assert await crisp.say(id, "readlink", "/proc/self") != "/tmp"


@pytest.mark.parametrize("kind", ["file", "device", "pipe"])
async def test_what_is_no_directory_is_no_mount_point_for_procfs(kind: str, crisp: Attacked) -> None:
    """CVE-2019-16884, CVE-2023-27561: /proc, /dev and /sys of the image are something else."""
    pod = await crisp.run_pod()
    number = {"file": b"0", "device": b"3", "pipe": b"6"}[kind]
    for name in ("proc", "sys", "dev"):
        image = await crisp.image([Member(name, number, device=(1, 3))])
        id = await crisp.create(pod, crisp.attacker("sleep", "1000", image=image))
        start = crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
        await refused(start, Code.FAILED_PRECONDITION, f"/{name}")


async def test_a_volume_with_a_fake_procfs_is_one_and_changes_nothing(crisp: Attacked, tmp_path: Path) -> None:
    """CVE-2025-52881: a neighbour's volume, mounted beside procfs, holds what a careless runtime would write to."""
    for name in ("self/attr", "sys/kernel"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("self/attr/exec", "self/oom_score_adj", "sys/kernel/shm_rmid_forced"):
        (tmp_path / name).write_text("fake")
    before = {path: path.read_text() for path in tmp_path.rglob("*") if path.is_file()}
    image = await crisp.image([symlink("vol", "/proc"), symlink("lib/vol", "/proc/sys")])
    for place in ("/vol", "/lib/vol"):
        config = crisp.attacker("sleep", "1000", image=image)
        config.mounts.append(api.Mount(container_path=place, host_path=str(tmp_path)))
        id = await crisp.create(await crisp.run_pod(), config)
        start = crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
        await refused(start, Code.FAILED_PRECONDITION, place)
    beside = crisp.attacker("sleep", "1000")
    beside.mounts.append(api.Mount(container_path="/vol", host_path=str(tmp_path)))
    id = await crisp.run(await crisp.run_pod(), beside)
    assert status_of(crisp.pid(id))["Seccomp"] == "2"
    assert {path: path.read_text() for path in before} == before
    assert os.path.ismount(f"/proc/{crisp.pid(id)}/root/proc")
