"""The admin service over its own socket: what the ``crisp`` command asks."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from cri.demo_image import build_demo_image
from proto import admin_pb2 as pb
from proto import admin_pb2_grpc as rpc
from tests.cri.harness import DEMO_IMAGE, Crisp


@pytest_asyncio.fixture(loop_scope="module")
async def admin(crisp: Crisp) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"unix://{crisp.host.state}/admin.sock") as channel:
        yield rpc.AdminStub(channel)


async def test_the_daemon_tells_who_it_is(crisp: Crisp, admin: Any) -> None:
    info = await admin.DaemonInfo(pb.DaemonInfoRequest())
    assert info.instance == crisp.host.instance and info.zygote_pid == crisp.host.supervisor.zygote_pid
    assert json.loads(info.settings_json)["state"] == str(crisp.host.state)


async def test_a_pod_is_explained_by_id_and_by_name(crisp: Crisp, admin: Any) -> None:
    config = crisp.pod()
    id = await crisp.run_pod(config)
    container = await crisp.run(id)
    for wanted in (id, id[:12], config.metadata.name, f"default/{config.metadata.name}"):
        answer = await admin.Explain(pb.ExplainRequest(pod=wanted))
        assert (answer.pod_sandbox_id, answer.state) == (id, "ready")
    steps = [stage.step for stage in answer.stages]
    assert steps[0] == "make_pod_directory" and steps[-1] == "start_init"
    assert answer.stages[-1].container_id == container
    assert [stage.began for stage in answer.stages] == sorted(stage.began for stage in answer.stages)


async def test_images_are_imported_listed_and_removed(crisp: Crisp, admin: Any, tmp_path: Path) -> None:
    archive = tmp_path / "demo.tar"
    await asyncio.to_thread(build_demo_image, archive)

    async def chunks() -> AsyncIterator[pb.ImportImageRequest]:
        data = archive.read_bytes()
        for start in range(0, len(data), 1 << 20):
            yield pb.ImportImageRequest(chunk=data[start : start + (1 << 20)])

    crisp.host.failpoints.set("images/unlist_image:before", "fail", 1)
    with pytest.raises(grpc.aio.AioRpcError, match="made to fail"):
        await admin.RemoveImage(pb.RemoveImageRequest(image=DEMO_IMAGE))
    removed = (await admin.RemoveImage(pb.RemoveImageRequest(image=DEMO_IMAGE))).removed
    assert DEMO_IMAGE in removed.repo_tags
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await admin.RemoveImage(pb.RemoveImageRequest(image=DEMO_IMAGE))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
    (imported,) = (await admin.ImportImage(chunks())).images
    assert imported.id == removed.id
    assert imported.id in [image.id for image in (await admin.ListImages(pb.ListImagesRequest())).images]


async def test_an_empty_archive_is_refused(admin: Any) -> None:
    async def nothing() -> AsyncIterator[pb.ImportImageRequest]:
        yield pb.ImportImageRequest(reference="a:b")

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await admin.ImportImage(nothing())
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_failpoints_are_armed_passed_and_listed(crisp: Crisp, admin: Any) -> None:
    await admin.SetFailpoint(pb.SetFailpointRequest(point="RunPodSandbox/write_files:mid", action="fail", count=1))
    with pytest.raises(grpc.aio.AioRpcError):
        await crisp.run_pod()
    points = {each.point: each for each in (await admin.ListFailpoints(pb.ListFailpointsRequest())).failpoints}
    point = points["RunPodSandbox/write_files:mid"]
    assert point.hits >= 1 and point.action == ""


async def test_fsck_finds_nothing_in_a_healthy_daemon(crisp: Crisp, admin: Any) -> None:
    await crisp.run(await crisp.run_pod())
    assert list((await admin.Fsck(pb.FsckRequest())).findings) == []
