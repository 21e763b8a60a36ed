"""RemovePodSandbox: the pod is forgotten with all that was made for it."""

from __future__ import annotations

import os

import grpc
import grpc.aio
import pytest

from proto import api_pb2 as api
from runtime.linux.mount import umount2
from tests.cri.harness import Crisp


async def remove(crisp: Crisp, id: str) -> None:
    await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=id))


async def test_a_running_pod_is_stopped_and_removed_with_its_containers(crisp: Crisp) -> None:
    config = crisp.pod()
    id = await crisp.run_pod(config)
    container = await crisp.run(id)
    await remove(crisp, id)
    assert len(crisp.host.store.sandboxes) == len(crisp.host.store.containers) == 0
    assert not os.path.exists(crisp.host.pod_directory(id))
    assert not os.path.exists(crisp.host.container_directory(container))
    assert await crisp.run_pod(config) != id


async def test_a_removal_that_failed_is_finished_by_the_next(crisp: Crisp) -> None:
    id = await crisp.run_pod()
    crisp.host.failpoints.set("RemovePodSandbox/make_pod_cgroups:undo", "fail", 1)
    with pytest.raises(grpc.aio.AioRpcError):
        await remove(crisp, id)
    assert id in crisp.host.store.sandboxes
    await remove(crisp, id)
    assert id not in crisp.host.store.sandboxes


async def test_a_pin_that_somebody_took_away_does_not_keep_the_pod(crisp: Crisp) -> None:
    id = await crisp.run_pod()
    pin = f"{crisp.host.pod_directory(id)}/ns/uts"
    umount2(pin)
    os.unlink(pin)
    await remove(crisp, id)
    await remove(crisp, id)
    assert id not in crisp.host.store.sandboxes
