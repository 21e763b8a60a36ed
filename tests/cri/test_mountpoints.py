"""Mountpoints are made once for all containers of an image that have the same ones, and nothing else depends on it."""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
from pathlib import Path
from typing import Any

import grpc
import pytest
import pytest_asyncio

from cri import mountpoints
from cri.demo_image import Entry
from cri.mountpoints import MAKE, Mountpoints
from proto import api_pb2 as api
from runtime.errors import HostFault, NotSupported
from tests.cri.harness import Crisp
from tests.security.images import Member, extend_demo, symlink

LOOK = "cd /; find . -xdev -print0 | xargs -0 stat -c '%n %F %a %u:%g %s' | sort"


def upper(crisp: Crisp, id: str) -> list[str]:
    folder = Path(crisp.host.container_directory(id)) / "upper"
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def layers(crisp: Crisp) -> list[str]:
    """All that is in the directory of layers."""
    return sorted(os.listdir(crisp.host.mountpoints._directory))


def key(crisp: Crisp, id: str) -> str:
    return crisp.host.store.containers.get(id).mountpoints


async def make(crisp: Crisp, sandbox: str, config: api.ContainerConfig | None = None) -> str:
    """The key of a layer that was made after a container without it, which is removed again."""
    before = set(layers(crisp))
    id = await crisp.create(sandbox, config or crisp.container(name="first"))
    assert key(crisp, id) == ""
    await crisp.end_of_tasks()
    (made,) = set(layers(crisp)) - before
    await remove(crisp, id)
    return made


async def own_image(crisp: Crisp, name: str) -> api.ImageSpec:
    """With a layer that no image of another test has."""
    config = {"Cmd": ["sleep", "1000"], "Env": [f"NAME={name}"]}
    await crisp.import_image(f"crisp.local/{name}:latest", config, [Entry("own", 0o644, b"own")])
    return api.ImageSpec(image=f"crisp.local/{name}:latest")


async def remove(crisp: Crisp, id: str) -> None:
    await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))


@pytest.fixture(autouse=True)
def what_is_a_directory_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever else is mounted on this host at the same moment, for which the kernel may not say it."""
    monkeypatch.setattr(mountpoints, "is_known_directory", os.path.isdir)


@pytest_asyncio.fixture(autouse=True, loop_scope="module")
async def none_is_left_of_other_tests(crisp: Crisp) -> None:
    """Nor is one still to be made for them, for a pod that is gone by then."""
    await crisp.end_of_tasks()
    for each in list(crisp.host.mountpoints._kept):
        crisp.host.mountpoints._discard(each)
    crisp.host.mountpoints._failed.clear()


async def test_a_second_container_sees_the_same_and_writes_nothing(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    first = await crisp.run(sandbox)
    assert {"etc/hosts", "etc/hostname", "etc/resolv.conf"} <= set(upper(crisp, first))
    await crisp.end_of_tasks()
    second = await crisp.run(sandbox, crisp.container(name="second"))
    assert layers(crisp) == [key(crisp, second)]
    assert upper(crisp, second) == []
    looks = [(await crisp.exec(id, "sh", "-c", LOOK)).stdout.decode() for id in (first, second)]
    assert looks[0] == looks[1] and "./etc/hosts regular" in looks[0]
    third = await crisp.run(sandbox, crisp.container("true", name="third"))
    await crisp.wait_exit(third)
    assert upper(crisp, third) == []


async def test_a_container_with_a_layer_writes_into_its_own(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    made = await make(crisp, sandbox)
    ids = [await crisp.run(sandbox, crisp.container(name=name)) for name in ("a", "b")]
    said = await crisp.exec(ids[0], "sh", "-c", "umount /etc/hosts 2>/dev/null; echo x > /etc/new; rm -r /run; ls /")
    assert said.exit_code == 0 and b"run" not in said.stdout
    assert (await crisp.exec(ids[1], "sh", "-c", "test -d /run && ! test -e /etc/new")).exit_code == 0
    assert not (Path(crisp.host.mountpoints._directory) / made / "etc/new").exists()


async def test_other_mounts_and_other_images_have_other_layers(crisp: Crisp, tmp_path: Path) -> None:
    sandbox = await crisp.run_pod()
    (tmp_path / "file").touch()
    os.stat(tmp_path / "file")
    mount = api.Mount(container_path="/data", host_path=str(tmp_path))
    file = api.Mount(container_path="/data", host_path=str(tmp_path / "file"))
    await crisp.import_image("crisp.local/other:latest", {"Cmd": ["sleep", "1000"], "WorkingDir": "/made"})
    other = api.ImageSpec(image="crisp.local/other:latest")
    asked: list[dict[str, Any]] = [{}, {"mounts": [mount]}, {"mounts": [file]}, {"image": other}]
    made = [await make(crisp, sandbox, crisp.container(**changes)) for changes in asked]
    assert len(set(made)) == 4
    for number, changes in enumerate(asked):
        id = await crisp.run(sandbox, crisp.container(name=f"n{number}", **changes))
        assert (key(crisp, id), upper(crisp, id)) == (made[number], [])


HOSTILE = {
    "/etc leads up": [symlink("etc", "../../..")],
    "/etc leads to the kernel": [symlink("etc", "/proc/self/root/etc")],
    "/var leads up": [symlink("var", "..")],
    "/run is a loop": [symlink("run", "run")],
    "/run leads to a name that is not there": [symlink("run", "/absent/run")],
    "files are devices": [Member("etc/hosts", b"3", device=(1, 3)), Member("etc/hostname", b"6")],
    "a directory is where a file goes": [Member("etc/hosts", b"5")],
    "/dev is a link": [symlink("dev", "/tmp")],
}


@pytest.mark.parametrize("members", HOSTILE.values(), ids=HOSTILE)
async def test_a_hostile_image_has_the_same_result_with_and_without(
    crisp: Crisp, members: list[Member], tmp_path: Path
) -> None:
    image = api.ImageSpec(image=f"crisp.local/n{len(crisp.host.images.all())}:latest")
    archive = tmp_path / "archive"
    archive.write_bytes(await asyncio.to_thread(extend_demo, image.image, members))
    with open(archive, "rb") as file:
        await crisp.host.images.import_archive(file.fileno(), "")
    sandbox = await crisp.run_pod()
    mounts = [api.Mount(container_path="/var/run/secrets/token", host_path=str(tmp_path))]

    async def result(name: str) -> tuple[str, str]:
        """What a container sees, or why it does not start; and what it has in its writable layer."""
        id = await crisp.create(sandbox, crisp.container(name=name, image=image, mounts=mounts))
        try:
            await crisp.start(id)
        except grpc.aio.AioRpcError as error:
            return key(crisp, id), str(error.details()).replace(id, "")
        return key(crisp, id), (await crisp.exec(id, "sh", "-c", LOOK)).stdout.decode()

    without, first = await result("without")
    await crisp.end_of_tasks()
    with_it, second = await result("with")
    assert first == second and without == ""
    assert with_it or not first.startswith(".")


async def test_what_cannot_be_made_is_told_once_and_not_tried_again(
    crisp: Crisp, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox = await crisp.run_pod()
    crisp.host.failpoints.set(f"{MAKE}:before", "fail")
    with caplog.at_level(logging.INFO, "crisp.mountpoints"):
        for name in ("a", "b"):
            await crisp.create(sandbox, crisp.container(name=name))
            await crisp.end_of_tasks()
    assert len(caplog.records) == 1 and "made to fail" in caplog.text
    assert layers(crisp) == [] and len(crisp.host.mountpoints) == 0


async def test_a_monitor_of_an_older_crisp_makes_none_and_another_one_may(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*arguments: object) -> None:
        raise NotSupported("no such operation")

    sandbox = await crisp.run_pod()
    with monkeypatch.context() as patch, caplog.at_level(logging.INFO, "crisp.mountpoints"):
        patch.setattr(crisp.host.pods[sandbox].monitor, "make_mountpoints", refuse)
        await crisp.create(sandbox)
        await crisp.end_of_tasks()
        assert layers(crisp) == [] and caplog.records == []
    await make(crisp, sandbox)


async def test_a_layer_with_anything_else_in_it_is_not_used(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(path: str) -> None:
        assert "hosts" in os.listdir(f"{path}/etc")
        raise HostFault("is no empty file")

    monkeypatch.setattr(mountpoints, "check_layer", refuse)
    sandbox = await crisp.run_pod()
    with caplog.at_level(logging.INFO, "crisp.mountpoints"):
        await crisp.create(sandbox)
        await crisp.end_of_tasks()
    assert layers(crisp) == [] and "is no empty file" in caplog.text


async def test_a_layer_goes_with_its_image_and_the_last_container_that_has_it(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    one, two = [await own_image(crisp, name) for name in ("one", "two")]  # of the same layers
    made = await make(crisp, sandbox, crisp.container(image=one))
    id = await crisp.run(sandbox, crisp.container(name="stays", image=one))
    assert key(crisp, id) == made
    await crisp.images.RemoveImage(api.RemoveImageRequest(image=one))
    await remove(crisp, id)
    assert layers(crisp) == [made]
    id = await crisp.run(sandbox, crisp.container(name="stays", image=two))
    assert key(crisp, id) == made
    await crisp.images.RemoveImage(api.RemoveImageRequest(image=two))
    assert layers(crisp) == [made]
    await remove(crisp, id)
    assert layers(crisp) == [] and len(crisp.host.mountpoints) == 0


async def test_an_image_that_goes_meanwhile_leaves_no_layer(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    image = await own_image(crisp, "meanwhile")
    crisp.host.failpoints.set(f"{MAKE}:mid", "hang")
    id = await crisp.create(sandbox, crisp.container(image=image))
    await crisp.until(lambda: crisp.host.failpoints.waiting.get(f"{MAKE}:mid") == 1)
    await crisp.images.RemoveImage(api.RemoveImageRequest(image=image))
    await remove(crisp, id)
    crisp.host.failpoints.set("*", "off")
    await crisp.end_of_tasks()
    assert layers(crisp) == []


async def test_the_oldest_that_nobody_uses_makes_room_and_none_in_use_does(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mountpoints, "KEPT", 2)
    sandbox = await crisp.run_pod()

    def mounting(name: str) -> api.ContainerConfig:
        mount = api.Mount(container_path=f"/{name}", host_path=str(crisp.host.root))
        return crisp.container(name=name, mounts=[mount])

    first, second = [await make(crisp, sandbox, mounting(name)) for name in ("one", "two")]
    used = [await crisp.create(sandbox, mounting("one"))]
    await crisp.create(sandbox, mounting("three"))
    await crisp.end_of_tasks()
    assert first in layers(crisp) and second not in layers(crisp) and len(layers(crisp)) == 2
    (third,) = set(layers(crisp)) - {first}
    config = mounting("three")
    config.metadata.attempt = 1
    used.append(await crisp.create(sandbox, config))
    await crisp.create(sandbox, mounting("four"))
    await crisp.end_of_tasks()
    assert [key(crisp, id) for id in used] == [first, third]
    assert layers(crisp) == sorted([first, third])


async def test_a_layer_that_somebody_has_removed_is_not_missed(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    made = await make(crisp, sandbox)
    id = await crisp.create(sandbox)
    assert key(crisp, id) == made
    record = crisp.host.store.containers.get(id)
    shutil.rmtree(f"{crisp.host.mountpoints._directory}/{made}")
    crisp.host.pods[sandbox].prepared.discard(id)  # its start begins anew
    await crisp.start(id)
    assert crisp.host.store.containers.get(id).mountpoints == record.mountpoints
    await crisp.run(sandbox, crisp.container(name="second"))
    await crisp.end_of_tasks()
    assert layers(crisp) == [made]


async def test_a_layer_that_does_not_fit_costs_time_and_nothing_else(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The source became a directory after it was looked at: a file of the layer is in its way."""
    sandbox = await crisp.run_pod()
    mount = api.Mount(container_path="/data", host_path=str(tmp_path))
    monkeypatch.setattr(mountpoints, "is_known_directory", lambda path: False)
    made = await make(crisp, sandbox, crisp.container(mounts=[mount]))
    assert (Path(crisp.host.mountpoints._directory) / made / "data").is_file()
    id = await crisp.create(sandbox, crisp.container("ls", "-d", "/data/.", mounts=[mount]))
    assert key(crisp, id) == made
    monitor = crisp.host.pods[sandbox].monitor
    await monitor.discard(id)  # answered when what was prepared has ended, if it has not by itself
    await crisp.start(id)
    status = await crisp.wait_exit(id)
    assert (status.exit_code, crisp.log(id)) == (0, "/data/.")


async def test_a_next_daemon_goes_on_with_what_is_whole_and_of_this_boot(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    made = await make(crisp, sandbox)
    parent = Path(crisp.host.mountpoints._parent)
    (parent / crisp.host.boot_id / ".unfinished/upper").mkdir(parents=True)
    (parent / crisp.host.boot_id / f"{'0' * 64}.0").mkdir()
    (parent / "another boot" / made).mkdir(parents=True)
    following = Mountpoints(crisp.host)
    await following.open()
    assert os.listdir(parent) == [crisp.host.boot_id] and layers(crisp) == [made]
    assert len(following) == 1 and following.lowerdirs(made) and not following.lowerdirs("")
