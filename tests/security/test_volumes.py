"""Volumes, working directories and mounts of hostile images and neighbours (R1)."""

from __future__ import annotations

import asyncio
import os
import subprocess
from pathlib import Path

import grpc.aio
import pytest

from proto import api_pb2 as api
from tests.security.attacks import Attacked, Code, mounts_of, refused
from tests.security.images import CHARACTER, Member, build_probe, symlink
from tests.security.weak import in_private_mounts

GETEUID = 107 if os.uname().machine == "x86_64" else 175

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    place = tmp_path / "secret"
    place.mkdir()
    (place / "key").write_text("of the host\n")
    return place


async def test_a_joined_path_copies_a_directory_of_the_host(secret: Path, tmp_path: Path) -> None:
    """CVE-2022-23648 as it was: the image's path is joined to the root's and followed."""
    root = tmp_path / "root"
    root.mkdir()
    (root / "data").symlink_to(secret)
    weak = os.path.join(root, "data")
    assert os.listdir(weak) == ["key"]
    assert os.listdir(os.path.normpath(f"{root}/../secret")) == ["key"]


@pytest.mark.parametrize("how", ["climbs", "a link", "a link that climbs", "below a link", "a magic link"])
async def test_a_volume_of_an_image_is_filled_from_the_image(how: str, crisp: Attacked, secret: Path) -> None:
    """CVE-2022-23648: `Volumes` with `..`, or through links."""
    members, path = {
        "climbs": ([], f"/../../../../../../../../../..{secret}"),
        "a link": ([symlink("data", str(secret))], "/data"),
        "a link that climbs": ([symlink("data", f"../../../../../../../../..{secret}")], "/data"),
        "below a link": ([symlink("data", str(secret.parent))], "/data/secret"),
        "a magic link": ([symlink("data", f"/proc/self/root{secret}")], "/data"),
    }[how]
    image = await crisp.image([*members, Member("etc/mine", content=b"image\n")], {"Volumes": {path: {}}})
    pod = await crisp.run_pod()
    id = await crisp.create(pod, crisp.attacker("sleep", "1000", image=image))
    mounts = mounts_of()
    try:
        await crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    except grpc.aio.AioRpcError as error:
        assert error.code() is Code.FAILED_PRECONDITION and how == "a magic link", error.details()
    else:
        said = await crisp.say(id, "sh", "-c", f"find / -xdev -name key; ls -A {path}; ls -A /data; ls -A {secret}")
        assert "key" not in said.replace("/etc/apk/keys", ""), said
    assert mounts_of() == mounts
    assert sorted(os.listdir(secret)) == ["key"] and (secret / "key").read_text() == "of the host\n"


async def test_a_volume_gets_the_images_own_content(crisp: Attacked) -> None:
    """What copy-up is for: owner, mode and links of the image, links not followed."""
    members = [
        Member("data/file", mode=0o4750, uid=7, content=b"mine\n"),
        symlink("data/link", "/etc/passwd"),
    ]
    image = await crisp.image(members, {"Volumes": {"/data/../data/": {}}})
    id = await crisp.run(await crisp.run_pod(), crisp.attacker("sleep", "1000", image=image))
    said = await crisp.say(id, "sh", "-c", "stat -c '%a %u' /data/file; cat /data/file; readlink /data/link")
    assert said.split("\n") == ["4750 7", "mine", "/etc/passwd"]


@pytest.mark.parametrize("path", ["/", "/proc/sys", "/proc/self/attr", "/sys/kernel", "/a/../proc/bus"])
async def test_a_volume_inside_of_a_kernel_file_system_is_refused(path: str, crisp: Attacked) -> None:
    """CVE-2023-27561, CVE-2019-19921, CVE-2025-52881: a volume in the place of a part of procfs."""
    image = await crisp.image(settings={"Volumes": {path: {}}})
    create = crisp.create(await crisp.run_pod(), crisp.attacker("true", image=image))
    await refused(create, Code.FAILED_PRECONDITION, "VOLUME")


async def test_a_volume_in_the_place_of_a_kernel_file_system_is_none(crisp: Attacked) -> None:
    """CVE-2023-27561: images name /sys/fs/cgroup, and could name /proc; what is there is the kernel's all the same."""
    places = ("/proc", "/sys", "/dev", "/sys/fs/cgroup")
    image = await crisp.image(settings={"Volumes": {place: {} for place in places}})
    id = await crisp.run(await crisp.run_pod(), crisp.attacker("sleep", "1000", image=image))
    mounts = [line.split() for line in (await crisp.say(id, "cat", "/proc/mounts")).splitlines()]
    kinds = {fields[1]: fields[2] for fields in mounts}
    assert (kinds["/proc"], kinds["/sys"], kinds["/dev"]) == ("proc", "sysfs", "tmpfs")
    assert "Read-only" in await crisp.say(id, "mkdir", "/sys/fs/cgroup/x")


async def test_a_missing_working_directory_is_made_inside(crisp: Attacked, tmp_path: Path) -> None:
    """CVE-2019-10152, CVE-2022-4122, CVE-2026-55686: WORKDIR below a link to the host."""
    (tmp_path / "weak").symlink_to(tmp_path)
    os.makedirs(tmp_path / "weak" / "made")
    assert (tmp_path / "made").is_dir()  # what a joined path does
    image = await crisp.image([symlink("work", str(tmp_path / "victim"))], {"WorkingDir": "/work/deeper"})
    id = await crisp.run(await crisp.run_pod(), crisp.attacker("sleep", "1000", image=image))
    assert await crisp.say(id, "pwd") == f"{tmp_path}/victim/deeper"
    assert not (tmp_path / "victim").exists()
    assert os.path.isdir(f"/proc/{crisp.pid(id)}/root{tmp_path}/victim/deeper")


async def test_a_host_path_is_left_as_it_is(crisp: Attacked, secret: Path) -> None:
    """CVE-2021-43816: a hostPath over one of the pod's files is neither relabelled, written nor given away. Who gives
    the container its /etc/hosts by the path in it, the weak variant, gives away the host's file."""
    source = secret / "key"
    weak = 'touch "$2/hosts"; mount --bind "$1" "$2/hosts"; chown 1000 "$2/hosts"'
    in_private_mounts(weak, source, secret.parent)
    assert source.stat().st_uid == 1000
    os.chown(source, 0, 0)
    before = source.stat()
    config = crisp.attacker("cat", "/etc/hosts")
    config.linux.security_context.run_as_user.value = 1000
    config.mounts.append(api.Mount(container_path="/etc/hosts", host_path=str(source), selinux_relabel=True))
    assert await crisp.output(await crisp.run_pod(), config) == ["of the host"]
    after = source.stat()
    assert (after.st_mode, after.st_uid, after.st_ctime_ns) == (before.st_mode, before.st_uid, before.st_ctime_ns)
    assert os.listxattr(source) == []


@pytest.mark.parametrize("options", [[], ["noexec"], ["nodev"], ["nosuid"], ["nosuid", "noexec", "nodev"]])
@pytest.mark.parametrize("of", ["the host", "an image"])
async def test_mount_options_hold(options: list[str], of: str, crisp: Attacked, tmp_path: Path) -> None:
    """KEP-5855: without an option, the weak variant, a volume's programs run, give its owner's rights, and its
    devices open. With `noexec` there is no program that could give rights."""
    volume = tmp_path / "volume"
    volume.mkdir()
    (volume / "gives").write_bytes(build_probe())
    (volume / "gives").chmod(0o4755)
    os.mknod(volume / "device", 0o020666, os.makedev(1, 3))
    (volume / "device").chmod(0o666)
    config = crisp.attacker("sleep", "1000")
    config.linux.security_context.run_as_user.value = 1000
    if of == "an image":
        node = Member("device", CHARACTER, mode=0o666, device=(1, 3))
        members = [Member("gives", mode=0o4755, content=build_probe()), node]
        config.mounts.append(api.Mount(container_path="/v", image=api.ImageSpec(image=await crisp.image(members))))
        config.mounts[0].readonly = True
    else:
        config.mounts.append(api.Mount(container_path="/v", host_path=str(volume)))
    config.mounts[0].mount_options.extend(options)
    id = await crisp.run(await crisp.run_pod(), config)
    said = await crisp.say(id, "sh", "-c", f"/v/gives call {GETEUID} || true; : </v/device && echo opened")
    ran, opened = [word for word in said.replace("opened", "").split() if word.isdigit()], "opened" in said
    assert ran == ([] if "noexec" in options else ["1000" if "nosuid" in options else "0"])
    assert opened is ("nodev" not in options)
    assert said.count("ermission denied") == ("noexec" in options) + ("nodev" in options)


async def test_a_joined_path_is_mounted_on_where_it_was_exchanged(secret: Path, tmp_path: Path) -> None:
    """CVE-2021-30465 as it was: checked as a path, exchanged, mounted as a path; CVE-2024-45310: and made as one."""
    (tmp_path / "target").mkdir()
    target = tmp_path / "target"
    checked = target.resolve()
    assert checked == target
    target.rename(tmp_path / "away")
    target.symlink_to(secret)
    os.makedirs(checked / "made")
    assert (secret / "made").is_dir()
    (secret / "made").rmdir()
    subprocess.run(["mount", "-t", "tmpfs", "none", checked], check=True)
    try:
        assert any(line.split()[4] == str(secret) for line in mounts_of())
    finally:
        subprocess.run(["umount", checked], check=True)


async def test_mount_points_that_are_exchanged_all_the_time_stay_inside(
    crisp: Attacked, secret: Path, tmp_path: Path
) -> None:
    """CVE-2021-30465, CVE-2024-45310, CVE-2025-52881: one pod exchanges names in a volume, in a loop of
    renameat2(2), while containers start that have mounts below them."""
    shared = tmp_path / "shared"
    (shared / "a").mkdir(parents=True)
    (shared / "b").symlink_to(secret)
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mounted").touch()
    before = sorted(os.listdir(secret)), mounts_of()
    pod = await crisp.run_pod()
    racer = crisp.attacker("sleep", "1000")
    racer.mounts.append(api.Mount(container_path="/vol", host_path=str(shared)))
    swaps, racing = ("probe", "swap", "/vol/a", "/vol/b", "4"), await crisp.run(pod, racer)

    outcomes: list[str] = []

    async def start_one() -> None:
        config = crisp.attacker("sh", "-c", "cat /vol/a/key /vol/b/key")
        config.mounts.append(api.Mount(container_path="/vol", host_path=str(shared)))
        for name in ("a", "a/x/y", "b/z"):
            config.mounts.append(api.Mount(container_path=f"/vol/{name}", host_path=str(tmp_path / "data")))
        config.working_dir = "/vol/a/work"
        try:
            id = await crisp.run(pod, config)
        except grpc.aio.AioRpcError as error:
            assert error.code() is Code.FAILED_PRECONDITION, error.details()
            outcomes.append("refused")
        else:
            await crisp.wait_exit(id)
            assert "of the host" not in crisp.log(id)
            outcomes.append("started")

    while len(outcomes) <= 20:
        race = asyncio.create_task(crisp.say(racing, *swaps))
        while not race.done():
            await asyncio.gather(*(start_one() for _ in range(4)))
        assert int(await race) > 10_000
    await crisp.remove_all()
    assert (sorted(os.listdir(secret)), mounts_of()) == before
    assert (secret / "key").read_text() == "of the host\n"


async def test_a_source_that_was_looked_at_is_mounted_as_what_it_became(secret: Path, tmp_path: Path) -> None:
    """CVE-2017-1002101, CVE-2021-25741 as they were: the subPath is looked at, exchanged, and mounted by its path."""
    volume = tmp_path / "volume"
    (volume / "sub").mkdir(parents=True)
    assert not (volume / "sub").is_symlink()
    (volume / "sub").rename(volume / "away")
    (volume / "sub").symlink_to(secret)
    (tmp_path / "target").mkdir()
    script = 'mount --bind "$1" "$2"; cat "$2/key"'
    assert in_private_mounts(script, volume / "sub", tmp_path / "target") == "of the host\n"


async def test_a_source_that_is_exchanged_is_mounted_as_it_was_found(
    crisp: Attacked, secret: Path, tmp_path: Path
) -> None:
    """CVE-2017-1002101, CVE-2021-25741: a subPath that kubelet has made safe is opened once by its path. The
    exchange is that of kubelet's own directories, so what is mounted is one of the two, whole and unmixed."""
    volume = tmp_path / "volume"
    for name in ("a", "b"):
        (volume / name).mkdir(parents=True)
        (volume / name / "is").write_text(name)
    pod = await crisp.run_pod()
    racer = crisp.attacker("sleep", "1000")
    racer.mounts.append(api.Mount(container_path="/vol", host_path=str(volume)))
    race = asyncio.create_task(crisp.say(await crisp.run(pod, racer), "probe", "swap", "/vol/a", "/vol/b", "1"))
    while not race.done():
        config = crisp.attacker(
            "sh", "-c", "cat /m/is; test /m/is -ef /m/../m/is && grep -c ' /m ' /proc/self/mountinfo"
        )
        config.mounts.append(api.Mount(container_path="/m", host_path=str(volume / "a")))
        said = await crisp.output(pod, config)
        assert said in (["a1"], ["b1"])
    assert int(await race) > 1000
