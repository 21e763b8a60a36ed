"""Images as volumes of containers: what they show, what refuses them, and how long their layers stay."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri.demo_image import Entry
from cri.image_volumes import MOUNT_FAILED
from cri.settings import Settings
from cri.state.records import ContainerState
from proto import api_pb2 as api
from tests.cri.harness import DEMO_IMAGE, Crisp, as_file, start
from tests.security.images import build_archive, pack_members, symlink

NUMBERS = iter(range(10**6))


async def model(crisp: Crisp) -> str:
    """The name of an image with files, on the layer of the demo image."""
    name = f"crisp.local/model-{next(NUMBERS)}:1"
    entries = [
        Entry("weights", 0o755, directory=True),
        Entry("weights/one", 0o644, b"one of " + name.encode()),
        Entry("run", 0o755, b"#!/bin/sh\necho ran\n"),
    ]
    await crisp.import_image(name, {}, entries)
    return name


def volume(image: str, at: str = "/volume", sub_path: str = "", **changes: object) -> api.Mount:
    spec = api.ImageSpec(image=image, user_specified_image="as written")
    made = api.Mount(container_path=at, image=spec, image_sub_path=sub_path, readonly=True)
    made.MergeFrom(api.Mount(**changes))  # type: ignore[arg-type]
    return made


async def refused(crisp: Crisp, mount: api.Mount, sandbox: str = "") -> tuple[grpc.StatusCode, str]:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await crisp.create(sandbox or await crisp.run_pod(), crisp.container(mounts=[mount], name="refused"))
    return raised.value.code(), str(raised.value.details())


async def remove_image(crisp: Crisp, name: str) -> None:
    await crisp.images.RemoveImage(api.RemoveImageRequest(image=api.ImageSpec(image=name)))


async def remove(crisp: Crisp, id: str) -> None:
    await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))


def layers_of(crisp: Crisp, id: str) -> list[str]:
    """The directories of the layers that a container has as volumes, topmost first."""
    return crisp.host.images.lowerdirs(crisp.host.store.containers.get(id).volume_layers)


async def test_an_image_is_shown_read_only_and_runs_by_default(crisp: Crisp) -> None:
    script = (
        "cat /volume/weights/one; echo; touch /volume/x || touch /volume/weights/one; /volume/run; ls /volume/bin/sh"
    )
    name = await model(crisp)
    _, said = await crisp.run_to_end(await crisp.run_pod(), "sh", "-c", script, mounts=[volume(name)])
    assert said.splitlines() == [
        f"one of {name}",
        "touch: /volume/x: Read-only file system",
        "touch: /volume/weights/one: Read-only file system",
        "ran",
        "/volume/bin/sh",
    ]


async def test_an_image_of_one_layer_is_shown(crisp: Crisp) -> None:
    _, said = await crisp.run_to_end(
        await crisp.run_pod(), "sh", "-c", "ls /volume/etc/passwd; touch /volume/x", mounts=[volume(DEMO_IMAGE)]
    )
    assert said.splitlines() == ["/volume/etc/passwd", "touch: /volume/x: Read-only file system"]


async def test_mount_options_of_an_image_are_in_force(crisp: Crisp) -> None:
    options = ["noexec", "nodev", "nosuid"]
    script = "grep ' /volume ' /proc/self/mountinfo | cut -d ' ' -f 6; /volume/run"
    mounts = [volume(await model(crisp), mount_options=options)]
    status, said = await crisp.run_to_end(await crisp.run_pod(), "sh", "-c", script, mounts=mounts)
    shown, error = said.splitlines()
    assert {"ro", *options} <= set(shown.split(",")) and "ermission denied" in error and status.exit_code == 126


async def test_a_part_of_an_image_is_shown(crisp: Crisp) -> None:
    name = await model(crisp)
    mounts = [volume(name, "/part", "weights"), volume(name, "/deep/file", "weights//one"), volume(name, "/all", "./")]
    script = "ls /part; cat /deep/file; echo; ls -d /all/weights; echo x > /deep/file"
    _, said = await crisp.run_to_end(await crisp.run_pod(), "sh", "-c", script, mounts=mounts)
    assert said.splitlines()[:3] == ["one", f"one of {name}", "/all/weights"] and "Read-only" in said


async def test_links_of_an_image_lead_no_further_than_its_root(crisp: Crisp, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.mkdir()
    name = f"crisp.local/links-{next(NUMBERS)}:1"
    links = [symlink("out", str(secret)), symlink("up", "../../../../../../etc"), symlink("fd", "/proc/self/root")]
    with as_file(build_archive(name, [pack_members(links)])) as archive:
        await crisp.host.images.import_archive(archive, "")
    sandbox = await crisp.run_pod()
    missing = "no such file or directory"
    for link, why in (("out", missing), ("up", missing), ("fd", missing)):
        code, words = await refused(crisp, volume(name, sub_path=link), sandbox)
        assert code is grpc.StatusCode.FAILED_PRECONDITION
        assert words == f"{MOUNT_FAILED}: {link}: is not in the image: {why}"


async def test_what_an_image_does_not_have_fails_the_creation_and_leaves_nothing(crisp: Crisp) -> None:
    name, sandbox = await model(crisp), await crisp.run_pod()
    code, words = await refused(crisp, volume(name, sub_path="not-existing"), sandbox)
    assert (code, words) == (
        grpc.StatusCode.FAILED_PRECONDITION,
        f"{MOUNT_FAILED}: not-existing: is not in the image: no such file or directory",
    )
    assert list(crisp.host.store.containers_of(sandbox)) == []
    code, words = await refused(crisp, volume("crisp.local/never:1"), sandbox)
    assert code is grpc.StatusCode.NOT_FOUND
    assert words.startswith(f"{MOUNT_FAILED}: image crisp.local/never:1")
    code, words = await refused(crisp, api.Mount(container_path="/v", image=api.ImageSpec(image=name)), sandbox)
    assert code is grpc.StatusCode.INVALID_ARGUMENT and "readonly" in words
    await crisp.create(sandbox, crisp.container(mounts=[volume(name)]))


async def test_an_image_without_layers_is_no_volume(crisp: Crisp) -> None:
    name = f"crisp.local/empty-{next(NUMBERS)}:1"
    with as_file(build_archive(name, [])) as archive:
        await crisp.host.images.import_archive(archive, "")
    code, words = await refused(crisp, volume(name))
    assert code is grpc.StatusCode.FAILED_PRECONDITION and "has no layers" in words


async def test_the_status_names_the_image_by_its_id(crisp: Crisp) -> None:
    name = await model(crisp)
    id = await crisp.create(
        await crisp.run_pod(), crisp.container(mounts=[volume(name, "/a", "weights"), volume(DEMO_IMAGE, "/b/")])
    )
    first, second = (await crisp.status(id)).mounts
    found = [crisp.host.images.resolve(each) for each in (name, DEMO_IMAGE)]
    assert [first.image.image_ref, second.image.image_ref] == [record.id for record in found if record]
    assert (first.image.image, first.image.user_specified_image) == (name, "as written")
    assert (first.container_path, first.image_sub_path, first.readonly) == ("/a", "weights", True)


async def test_kubelet_finds_an_image_in_use(crisp: Crisp) -> None:
    """It names images as ListImages does, and collects none that a container's status has among its mounts."""
    name = await model(crisp)
    listed = (await crisp.images.ListImages(api.ListImagesRequest())).images
    (asked,) = [image.id for image in listed if name in image.repo_tags]
    mount = volume(asked, recursive_read_only=True)
    id = await crisp.run(await crisp.run_pod(), crisp.container(mounts=[mount, volume(asked, "/b", propagation=1)]))
    assert {each.image.image for each in (await crisp.status(id)).mounts} == {asked}
    assert (await crisp.exec(id, "cat", "/volume/weights/one")).stdout.decode() == f"one of {name}"


async def test_containers_of_pods_share_an_image_and_may_have_several(crisp: Crisp) -> None:
    names = [await model(crisp), await model(crisp)]
    mounts = [volume(name, f"/v{n}", "weights") for n, name in enumerate(names)]
    containers = [
        await crisp.run(await crisp.run_pod(), crisp.container(mounts=mounts, name=f"c{n}")) for n in range(3)
    ]
    for id in containers:
        answer = await crisp.exec(id, "cat", "/v0/one", "/v1/one")
        assert answer.stdout.decode() == f"one of {names[0]}one of {names[1]}"
    inodes = {(await crisp.exec(id, "stat", "-c", "%i", "/v0/one")).stdout for id in containers}
    assert len(inodes) == 1, "the same file on disk"


async def test_the_hosts_mount_table_never_shows_an_image(crisp: Crisp) -> None:
    before = Path("/proc/self/mountinfo").read_text().count("overlay")
    sandbox = await crisp.run_pod()
    await crisp.run(sandbox, crisp.container(mounts=[volume(await model(crisp), sub_path="weights")]))
    table = Path("/proc/self/mountinfo").read_text()
    assert table.count("overlay") == before and f"{crisp.host.pod_directory(sandbox)}/rootfs" not in table


async def test_a_second_container_finds_its_mountpoints_made(crisp: Crisp) -> None:
    name, sandbox = await model(crisp), await crisp.run_pod()
    mounts = [volume(name, "/dir", "weights"), volume(name, "/file", "weights/one")]
    ids = []
    for n in range(2):
        ids.append(await crisp.run(sandbox, crisp.container(mounts=mounts, name=f"c{n}")))
        await crisp.end_of_tasks()
    assert [bool(crisp.host.store.containers.get(id).mountpoints) for id in ids] == [False, True]
    for id in ids:
        assert (await crisp.exec(id, "cat", "/dir/one", "/file")).stdout.decode() == f"one of {name}" * 2


async def test_the_layers_of_a_volume_stay_when_its_image_is_removed_and_go_with_the_container(crisp: Crisp) -> None:
    name, sandbox = await model(crisp), await crisp.run_pod()
    id = await crisp.run(sandbox, crisp.container(mounts=[volume(name)]))
    other = await crisp.create(sandbox, crisp.container(mounts=[volume(name)], name="other"))
    top, bottom = layers_of(crisp, id)
    ref = (await crisp.status(id)).mounts[0].image.image_ref
    await remove_image(crisp, name)
    assert (await crisp.exec(id, "cat", "/volume/weights/one")).stdout.decode() == f"one of {name}"
    assert (await crisp.status(id)).mounts[0].image.image_ref == ref
    await crisp.start(other)
    assert (await crisp.exec(other, "cat", "/volume/weights/one")).exit_code == 0
    code, _ = await refused(crisp, volume(name), sandbox)
    assert code is grpc.StatusCode.NOT_FOUND
    await remove(crisp, id)
    assert os.path.isdir(top), "the other one has it"
    await remove(crisp, other)
    assert not os.path.exists(top) and os.path.isdir(bottom), "the demo image has the lower one"


async def test_an_image_that_goes_while_a_container_is_created_keeps_its_layers(crisp: Crisp) -> None:
    name, sandbox = await model(crisp), await crisp.run_pod()
    crisp.host.failpoints.set("CreateContainer/make_container_cgroup:before", "hang")
    creation = asyncio.create_task(crisp.create(sandbox, crisp.container(mounts=[volume(name)])))
    await crisp.until(lambda: bool(crisp.host.planned))
    await remove_image(crisp, name)
    crisp.host.failpoints.set("CreateContainer/make_container_cgroup:before", "off")
    await creation
    (record,) = crisp.host.store.containers_of(sandbox)
    await crisp.start(record.id)
    assert (await crisp.exec(record.id, "cat", "/volume/weights/one")).stdout.decode() == f"one of {name}"


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Crisp]:
    """A daemon for a while; its pods go on."""
    async with contextlib.AsyncExitStack() as undo:
        yield await start(settings, undo)


async def test_the_layers_stay_for_a_container_that_outlives_a_daemon(new_settings: Callable[[], Settings]) -> None:
    settings = new_settings()
    async with serving(settings) as first:
        await first.import_demo_image()
        name, sandbox = await model(first), await first.run_pod()
        id = await first.run(sandbox, first.container(mounts=[volume(name)]))
        waiting = await first.create(sandbox, first.container(mounts=[volume(name, sub_path="weights")], name="later"))
        top, _ = layers_of(first, id)
        await remove_image(first, name)
    left = list(first.host.pods.values())
    first.host.pods.clear()
    for pod in left:
        pod.monitor.close()
    async with serving(settings) as second:
        assert second.host.store.containers.get(id).state is ContainerState.RUNNING and os.path.isdir(top)
        assert (await second.exec(id, "cat", "/volume/weights/one")).stdout.decode() == f"one of {name}"
        await second.start(waiting)
        assert (await second.exec(waiting, "cat", "/volume/one")).stdout.decode() == f"one of {name}"
        await second.remove_all()
        assert not os.path.exists(top)
        await second.settle()
