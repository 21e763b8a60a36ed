"""StopPodSandbox: its containers are killed, its namespaces and network go, again and again."""

from __future__ import annotations

import asyncio
import os

import grpc
import grpc.aio
import pytest

from proto import api_pb2 as api
from tests.cri.harness import Crisp


async def stop(crisp: Crisp, id: str) -> None:
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=id))


async def test_containers_are_killed_and_what_ends_with_the_pod_goes(crisp: Crisp) -> None:
    id = await crisp.run_pod()
    container = await crisp.run(id, crisp.container("sh", "-c", "trap '' TERM; while :; do sleep 1; done"))
    record = crisp.host.store.sandboxes.get(id)
    await stop(crisp, id)
    assert (await crisp.status(container)).exit_code == 137
    assert not os.path.exists(f"/proc/{record.pause_pid}")
    assert os.listdir(f"{crisp.host.pod_directory(id)}/ns") == []
    assert id not in crisp.host.pods and crisp.host.store.sandboxes.get(id).stopped
    await stop(crisp, id)


async def test_no_container_is_made_or_started_in_a_stopped_pod(crisp: Crisp) -> None:
    id = await crisp.run_pod()
    created = await crisp.create(id)
    await stop(crisp, id)
    for call in (crisp.create(id, crisp.container(name="late")), crisp.start(created)):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await call
        assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_stop_that_failed_half_way_goes_on_when_it_is_repeated(crisp: Crisp) -> None:
    id = await crisp.run_pod()
    crisp.host.failpoints.set("StopPodSandbox/attach_network:undo", "fail", 1)
    with pytest.raises(grpc.aio.AioRpcError):
        await stop(crisp, id)
    assert not crisp.host.store.sandboxes.get(id).stopped
    await stop(crisp, id)
    assert crisp.host.store.sandboxes.get(id).stopped


async def test_an_unknown_pod_is_stopped_already_and_stops_at_once_join(crisp: Crisp) -> None:
    await stop(crisp, "unknown")
    id = await crisp.run_pod()
    await asyncio.gather(*(stop(crisp, id) for _ in range(5)))
    assert crisp.host.store.sandboxes.get(id).stopped
