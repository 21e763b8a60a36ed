"""PodSandboxStatus: addresses, namespaces, the containers, and how the pod came to be."""

from __future__ import annotations

import json

import grpc
import grpc.aio
import pytest

from proto import api_pb2 as api
from tests.cri.harness import Crisp


async def test_the_status_has_address_namespaces_and_containers(crisp: Crisp) -> None:
    config = crisp.pod()
    config.linux.security_context.namespace_options.pid = api.CONTAINER
    id = await crisp.run_pod(config)
    container = await crisp.create(id)
    answer = await crisp.runtime.PodSandboxStatus(api.PodSandboxStatusRequest(pod_sandbox_id=id[:12]))
    status = answer.status
    assert (status.id, status.state, status.metadata) == (id, api.SANDBOX_READY, config.metadata)
    assert status.network.ip == crisp.host.store.sandboxes.get(id).addresses[0]
    assert status.linux.namespaces.options.pid == api.CONTAINER
    assert [each.id for each in answer.containers_statuses] == [container]
    assert status.created_at > 0 and not answer.info
    assert answer.timestamp == 0  # with one, a kubelet that hears of events cannot start init containers


async def test_a_stopped_pod_has_no_address(crisp: Crisp) -> None:
    id = await crisp.run_pod()
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=id))
    status = (await crisp.runtime.PodSandboxStatus(api.PodSandboxStatusRequest(pod_sandbox_id=id))).status
    assert (status.state, status.network.ip) == (api.SANDBOX_NOTREADY, "")


async def test_the_verbose_status_has_the_timelines_of_pod_and_containers(crisp: Crisp) -> None:
    id = await crisp.run_pod()
    await crisp.run(id)
    request = api.PodSandboxStatusRequest(pod_sandbox_id=id, verbose=True)
    info = (await crisp.runtime.PodSandboxStatus(request)).info
    assert json.loads(info["info"])["plan"]["id"] == id
    pod, container = json.loads(info["timeline"])
    assert pod["stages"][0]["step"] == "make_pod_directory" and container["stages"][-1]["step"] == "start_init"


async def test_an_unknown_pod_is_not_found(crisp: Crisp) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await crisp.runtime.PodSandboxStatus(api.PodSandboxStatusRequest(pod_sandbox_id="nope"))
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND
