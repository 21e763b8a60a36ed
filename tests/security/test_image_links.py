"""Links of an image where crisp makes or mounts something lead nowhere outside (R1, R2)."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from proto import api_pb2 as api
from tests.security.attacks import Attacked, Code, mounts_of, refused
from tests.security.images import BLOCK, CHARACTER, DIRECTORY, Member, symlink

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory of the host with the names that a runtime makes in /dev, /proc and /etc."""
    for name in ("ptmx", "null", "console", "hosts", "core", "fd", "stdin"):
        (tmp_path / name).write_text("marker")
    for name in ("pts", "shm", "mqueue", "fs", "kernel"):
        (tmp_path / name).mkdir()
    return tmp_path


def fingerprint(place: Path) -> list[tuple[str, int, int, int]]:
    return sorted(
        (str(path), found.st_ino, found.st_mode, found.st_mtime_ns)
        for path in (place, *place.rglob("*"))
        for found in [path.lstat()]
    )


async def start_refused(crisp: Attacked, config: api.ContainerConfig, words: str = "") -> None:
    pod = await crisp.run_pod()
    id = await crisp.create(pod, config)
    mounts = mounts_of()
    start = crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    await refused(start, Code.FAILED_PRECONDITION, words)
    status = await crisp.status(id)
    assert (status.state, status.reason, status.exit_code) == (api.CONTAINER_EXITED, "StartError", 128)
    assert mounts_of() == mounts


async def test_joined_paths_remove_the_marker_of_the_host(
    outside: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """CVE-2026-41579, CVE-2026-47766 as they were: /dev/ptmx is made anew by its path, before the pivot."""
    root = tmp_path_factory.mktemp("root")
    (root / "dev").symlink_to(outside)
    ptmx = os.path.join(root, "dev", "ptmx")
    os.unlink(ptmx)
    os.symlink("pts/ptmx", ptmx)
    assert (outside / "ptmx").is_symlink()


@pytest.mark.parametrize("name", ["dev", "proc", "sys"])
async def test_a_link_where_a_kernel_file_system_goes_is_refused(name: str, crisp: Attacked, outside: Path) -> None:
    """CVE-2026-41579, CVE-2026-47766 (/dev); CVE-2019-16884, CVE-2019-19921, CVE-2023-27561,
    CVE-2023-28642 (/proc, /sys): to the host, into the image, and in a circle."""
    before = fingerprint(outside)
    for target in (str(outside), "/tmp", ".", name):
        image = await crisp.image([symlink(name, target)])
        await start_refused(crisp, crisp.attacker("sleep", "1000", image=image), f"/{name}")
    assert fingerprint(outside) == before


async def test_a_link_inside_of_dev_is_covered(crisp: Attacked, outside: Path) -> None:
    """CVE-2025-31133, CVE-2025-52565: null, ptmx, pts and console of the image are links to the host's files."""
    before = fingerprint(outside)
    names = ("null", "ptmx", "console", "pts", "shm", "mqueue", "fd", "core")
    links = [symlink(f"dev/{name}", f"{outside}/{name}") for name in names]
    image = await crisp.image([Member("dev", DIRECTORY), *links])
    pod = await crisp.run_pod()
    for tty in (False, True):
        config = crisp.attacker("sleep", "1000", image=image, tty=tty)
        config.linux.security_context.masked_paths.extend(["/proc/interrupts", "/proc/keys"])
        id = await crisp.run(pod, config)
        root = f"/proc/{crisp.pid(id)}/root"
        for name, number in (("null", (1, 3)), ("zero", (1, 5)), ("full", (1, 7)), ("tty", (5, 0))):
            found = os.lstat(f"{root}/dev/{name}")
            assert (os.major(found.st_rdev), os.minor(found.st_rdev)) == number
        assert os.readlink(f"{root}/dev/ptmx") == "pts/ptmx"
        assert os.stat(f"{root}/dev/pts/ptmx").st_rdev == os.makedev(5, 2)
    assert fingerprint(outside) == before


async def test_a_volume_at_dev_with_a_link_for_null_masks_nothing_else(crisp: Attacked, outside: Path) -> None:
    """CVE-2025-31133: what covers a masked path is the host's null device, never what the volume calls so."""
    pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    volume = outside / "volume"
    (volume / "pts").mkdir(parents=True)
    (volume / "null").symlink_to("/proc/sys/kernel/core_pattern")
    pod = await crisp.run_pod()
    config = crisp.attacker("sh", "-c", "echo hostile > /proc/interrupts; cat /proc/interrupts; echo $?")
    config.mounts.append(api.Mount(container_path="/dev", host_path=str(volume)))
    config.linux.security_context.masked_paths.append("/proc/interrupts")
    assert await crisp.output(pod, config) == ["0"]
    assert Path("/proc/sys/kernel/core_pattern").read_text() == pattern
    assert (volume / "null").is_symlink()


async def test_a_terminal_is_never_taken_from_a_volume(crisp: Attacked, outside: Path) -> None:
    """CVE-2025-52565: /dev/pts is the container's own devpts, or the start with a tty fails."""
    marker = outside / "pts" / "ptmx"
    marker.write_text("marker")
    config = crisp.attacker("sleep", "1000", tty=True)
    config.mounts.append(api.Mount(container_path="/dev/pts", host_path=str(outside / "pts")))
    await start_refused(crisp, config, "terminal")
    assert marker.read_text() == "marker"


@pytest.mark.parametrize("place", ["/proc", "/proc/self", "/proc/sys/kernel", "/proc/1/attr", "//proc/./self/../sys"])
async def test_nothing_is_mounted_over_proc(place: str, crisp: Attacked, outside: Path) -> None:
    """CVE-2019-16884, CVE-2025-52881: writes to procfs that somebody else answers."""
    pod = await crisp.run_pod()
    config = crisp.attacker("true")
    config.mounts.append(api.Mount(container_path=place, host_path=str(outside)))
    await refused(crisp.create(pod, config), Code.INVALID_ARGUMENT, "container_path")


@pytest.mark.parametrize("target", ["/proc/sys", "/proc/self/attr", "/proc/self/fd/3", "/proc/1/root"])
async def test_a_link_into_proc_is_no_mount_point(target: str, crisp: Attacked, outside: Path) -> None:
    """CVE-2019-16884, CVE-2025-52881, youki CVE-2025-62596: the destination is a link of the image."""
    image = await crisp.image([symlink("data", target)])
    config = crisp.attacker("sleep", "1000", image=image)
    config.mounts.append(api.Mount(container_path="/data", host_path=str(outside)))
    await start_refused(crisp, config, "/data")


async def test_links_for_the_files_of_the_pod_stay_inside(crisp: Attacked, outside: Path) -> None:
    """CVE-2021-43816, CVE-2021-30465: /etc/hosts and its like are links to the host's files, or /etc is one."""
    before = fingerprint(outside)
    names = ("hosts", "hostname", "resolv.conf")
    pod = await crisp.run_pod()
    for members in (
        [symlink(f"etc/{name}", f"{outside}/{name}") for name in names],
        [symlink("etc", str(outside))],
        [symlink("etc/hosts", "../../../../../../../../etc/shadow")],
    ):
        image = await crisp.image(members)
        id = await crisp.run(pod, crisp.attacker("/bin/sleep", "1000", image=image))
        assert "localhost" in await crisp.say(id, "/bin/cat", "/etc/hosts")
    assert fingerprint(outside) == before


async def test_a_device_of_the_request_is_made_inside(crisp: Attacked, outside: Path) -> None:
    """CVE-2026-41579: a device at a path below a link."""
    image = await crisp.image([symlink("data", str(outside))])
    config = crisp.attacker("sleep", "1000", image=image)
    config.devices.append(api.Device(container_path="/data/null", host_path="/dev/null", permissions="rwm"))
    before = fingerprint(outside)
    id = await crisp.run(await crisp.run_pod(), config)
    assert os.stat(f"/proc/{crisp.pid(id)}/root{outside}/null").st_rdev == os.makedev(1, 3)
    assert fingerprint(outside) == before


async def test_raw_device_nodes_of_an_image_cannot_be_opened(crisp: Attacked) -> None:
    """A block device that a layer brings: the cgroup lets nobody open it, nor make another."""
    disk = os.stat("/").st_dev
    numbers = (os.major(disk), os.minor(disk))
    nodes = [Member("disk", BLOCK, mode=0o666, device=numbers), Member("mem", CHARACTER, device=(1, 1))]
    image = await crisp.image(nodes)
    id = await crisp.run(await crisp.run_pod(), crisp.attacker("sleep", "1000", image=image))
    script = f"head -c1 /disk; head -c1 /mem; mknod /other b {numbers[0]} {numbers[1]} && head -c1 /other"
    said = await crisp.say(id, "sh", "-c", script)
    assert said.count("Operation not permitted") == 3, said
