"""ContainerStatus: what is in force, who runs, and what the verbose answer tells."""

from __future__ import annotations

import json
from pathlib import Path

import grpc
import grpc.aio
import pytest

from proto import api_pb2 as api
from tests.cri.harness import Crisp


async def test_the_status_has_mounts_resources_user_and_log_of_the_request(crisp: Crisp) -> None:
    config = crisp.container(
        "sleep", "1000", mounts=[api.Mount(container_path="/host", host_path=str(crisp.host.root), readonly=True)]
    )
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    config.linux.resources.cpu_shares = 204
    config.linux.security_context.run_as_user.value = 65534
    config.stop_signal = api.SIGNAL_SIGUSR1
    id = await crisp.run(await crisp.run_pod(), config)
    status = await crisp.status(id[:14])
    assert list(status.mounts) == list(config.mounts)
    assert status.resources.linux == config.linux.resources
    assert (status.user.linux.uid, status.user.linux.gid) == (65534, 65534)
    assert status.log_path == str(crisp.log_path(id))
    assert status.state == api.CONTAINER_RUNNING and status.started_at >= status.created_at > 0
    assert status.stop_signal == api.SIGNAL_SIGUSR1 and status.finished_at == 0


async def test_the_verbose_status_is_json_with_the_document_and_the_stages(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    answer = await crisp.runtime.ContainerStatus(api.ContainerStatusRequest(container_id=id, verbose=True))
    info, timeline = json.loads(answer.info["info"]), json.loads(answer.info["timeline"])
    assert info["pid"] > 1 and info["plan"]["spec"]["process"]["args"] == ["sleep", "1000"]
    stages = [stage["step"] for stage in timeline[0]["stages"]]
    assert stages == ["make_container_directories", "make_container_cgroup", "prepare_init", "start_init"]


async def test_the_document_is_where_other_runtimes_show_it_and_has_the_volumes_of_the_image(crisp: Crisp) -> None:
    await crisp.import_image("example.com/data:1", {"Volumes": {"/data": {}}})
    config = crisp.container(image=api.ImageSpec(image="example.com/data:1"))
    id = await crisp.run(await crisp.run_pod(), config)
    answer = await crisp.runtime.ContainerStatus(api.ContainerStatusRequest(container_id=id, verbose=True))
    spec = json.loads(answer.info["info"])["runtimeSpec"]
    assert spec["process"]["args"] == ["sleep", "1000"]
    (source,) = [each["source"] for each in spec["mounts"] if each["destination"] == "/data"]
    (Path(source) / "word").write_text("here")
    assert (await crisp.exec(id, "cat", "/data/word")).stdout == b"here"


async def test_an_unknown_container_is_not_found(crisp: Crisp) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await crisp.status("f" * 64)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
