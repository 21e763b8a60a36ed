"""UpdatePodSandboxResources: a pod's own cgroup, and what is stored of it."""

from __future__ import annotations

from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri.plan.document import decode
from cri.plan.sandbox import SandboxPlan
from proto import api_pb2 as api
from runtime.cgroups import tree
from runtime.cgroups.layout import directory
from tests.cri.harness import Crisp

MIB = 1 << 20
Code = grpc.StatusCode


async def update(crisp: Crisp, id: str, **parts: api.LinuxContainerResources) -> None:
    request = api.UpdatePodSandboxResourcesRequest(pod_sandbox_id=id, **parts)
    await crisp.runtime.UpdatePodSandboxResources(request)


def memory_limit(crisp: Crisp, id: str) -> str:
    plan = decode(crisp.host.store.sandboxes.get(id).plan, SandboxPlan)
    name = "memory.max" if crisp.host.layout.is_v2("memory") else "memory.limit_in_bytes"
    return Path(f"{directory(crisp.host.layout, 'memory', plan.cgroup_parent)}/{name}").read_text().strip()


async def test_a_pods_own_cgroup_gets_the_sum_and_the_request_is_stored(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    resources = api.LinuxContainerResources(memory_limit_in_bytes=64 * MIB, cpu_shares=512)
    overhead = api.LinuxContainerResources(memory_limit_in_bytes=16 * MIB)
    await update(crisp, sandbox, resources=resources, overhead=overhead)
    assert memory_limit(crisp, sandbox) == str(80 * MIB)
    stored = api.PodSandboxConfig.FromString(crisp.host.store.sandboxes.get(sandbox).config)
    assert (stored.linux.resources, stored.linux.overhead) == (resources, overhead)
    await update(crisp, sandbox, resources=api.LinuxContainerResources(memory_limit_in_bytes=48 * MIB))
    assert memory_limit(crisp, sandbox) == str(48 * MIB)
    assert len((await crisp.runtime.ListPodSandbox(api.ListPodSandboxRequest())).items) == 1


async def test_a_cgroup_of_somebody_else_is_left_alone(crisp: Crisp) -> None:
    parent = f"/crisp-test-{crisp.host.instance}"
    tree.create(crisp.host.layout, parent, "kubelet's")
    try:
        config = crisp.pod()
        config.linux.cgroup_parent = parent
        sandbox = await crisp.run_pod(config)
        before = memory_limit(crisp, sandbox)
        resources = api.LinuxContainerResources(memory_limit_in_bytes=64 * MIB)
        await update(crisp, sandbox, resources=resources)
        assert memory_limit(crisp, sandbox) == before
        stored = api.PodSandboxConfig.FromString(crisp.host.store.sandboxes.get(sandbox).config)
        assert stored.linux.resources == resources
        await crisp.remove_all()
    finally:
        assert tree.remove(crisp.host.layout, parent)


async def test_a_limit_below_the_use_is_refused_and_nothing_changes(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    script = "a=$(dd if=/dev/zero bs=1k count=20000 2>/dev/null | tr '\\0' x); echo ready; while :; do sleep 1000; done"
    id = await crisp.run(sandbox, crisp.container("sh", "-c", script))
    await crisp.until(lambda: "ready" in crisp.log(id))
    await update(crisp, sandbox, resources=api.LinuxContainerResources(memory_limit_in_bytes=256 * MIB))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await update(crisp, sandbox, resources=api.LinuxContainerResources(memory_limit_in_bytes=4 * MIB))
    assert refused.value.code() is Code.FAILED_PRECONDITION
    assert memory_limit(crisp, sandbox) == str(256 * MIB)
    stored = api.PodSandboxConfig.FromString(crisp.host.store.sandboxes.get(sandbox).config)
    assert stored.linux.resources.memory_limit_in_bytes == 256 * MIB


async def test_what_is_no_pod_or_no_limit_is_refused(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    fine = api.LinuxContainerResources(cpu_shares=2)
    bad = api.LinuxContainerResources(memory_limit_in_bytes=-7)
    for code, id, parts in (
        (Code.NOT_FOUND, "nowhere", {"resources": fine}),
        (Code.INVALID_ARGUMENT, "", {"resources": fine}),
        (Code.INVALID_ARGUMENT, sandbox, {}),
        (Code.INVALID_ARGUMENT, sandbox, {"resources": bad}),
        (Code.INVALID_ARGUMENT, sandbox, {"overhead": bad}),
    ):
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await update(crisp, id, **parts)
        assert refused.value.code() is code
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await update(crisp, sandbox, resources=fine)
    assert refused.value.code() is Code.FAILED_PRECONDITION
