"""Intents: stored before, forgotten after, and settled by the next try when something is owed."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import grpc
import grpc.aio
import pytest

from cri import intent
from cri.intent import digest_of, undo_all, undo_operation
from cri.plan.document import decode
from cri.plan.sandbox import SandboxPlan
from cri.state.records import OperationPhase
from cri.steps.sandbox import plan_steps
from proto import api_pb2 as api
from runtime.errors import Fault
from tests.cri.harness import Crisp


async def test_equal_requests_have_equal_digests_whatever_the_order_of_their_labels() -> None:
    one = api.PodSandboxConfig(labels={"a": "1", "b": "2"})
    two = api.PodSandboxConfig(labels={"b": "2", "a": "1"})
    assert digest_of(one) == digest_of(two) != digest_of(api.PodSandboxConfig())


async def test_what_could_not_be_undone_is_undone_by_the_next_try(crisp: Crisp) -> None:
    config = crisp.pod()
    crisp.host.failpoints.set("RunPodSandbox/write_files:mid", "fail", 1)
    crisp.host.failpoints.set("RunPodSandbox/make_pod_cgroups:undo", "fail", 1)
    with pytest.raises(grpc.aio.AioRpcError):
        await crisp.run_pod(config)
    (owed,) = crisp.host.operations.unfinished()
    assert owed.phase is OperationPhase.RUNNING
    id = await crisp.run_pod(config)
    assert id != owed.object_id and crisp.host.operations.unfinished() == []


async def test_what_could_not_be_undone_is_tried_again_though_nobody_asks(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intent, "SETTLE_FIRST", 0.001)
    for step in ("write_files:mid", "make_pod_cgroups:undo"):
        crisp.host.failpoints.set(f"RunPodSandbox/{step}", "fail", 2 if "undo" in step else 1)
    with pytest.raises(grpc.aio.AioRpcError):
        await crisp.run_pod()
    await crisp.until(lambda: crisp.host.operations.unfinished() == [])
    assert not crisp.host.pods


async def test_an_owed_operation_can_be_undone_by_itself(crisp: Crisp) -> None:
    crisp.host.failpoints.set("RunPodSandbox/write_files:mid", "fail", 1)
    crisp.host.failpoints.set("RunPodSandbox/make_pod_cgroups:undo", "fail", 2)
    with pytest.raises(grpc.aio.AioRpcError):
        await crisp.run_pod()
    (owed,) = crisp.host.operations.unfinished()
    with pytest.raises(Fault):
        await undo_operation(crisp.host, owed)
    await undo_operation(crisp.host, owed)
    assert crisp.host.operations.unfinished() == []


async def test_a_result_that_cannot_be_stored_is_taken_back(crisp: Crisp) -> None:
    config = crisp.pod()
    crisp.host.failpoints.set("RunPodSandbox:store", "fail", 1)
    with pytest.raises(grpc.aio.AioRpcError):
        await crisp.run_pod(config)
    assert not crisp.host.pods and crisp.host.operations.unfinished() == []
    await crisp.run_pod(config)


async def test_a_way_down_tries_all_and_tells_the_first_failure(crisp: Crisp) -> None:
    record = crisp.host.store.sandboxes.get(await crisp.run_pod())
    steps = plan_steps(decode(record.plan, SandboxPlan))
    crisp.host.failpoints.set("Down/pin_namespaces:undo", "fail", 1)
    with pytest.raises(Fault, match="made to fail"):
        await undo_all(crisp.host, "Down", steps[4:], [])
    await undo_all(crisp.host, "Down", steps[4:], [])


async def test_a_plan_is_one_transaction_and_no_step_has_one_of_its_own(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The intent, the result, and for a pod between them its address."""
    database, written = crisp.host.store.database, 0
    run = database.run

    def count(work: Any, **options: Any) -> Any:
        nonlocal written
        task = asyncio.current_task()
        written += task is not None and not task.get_name().startswith("forget")  # what was delivered: many at once
        return run(work, **options)

    monkeypatch.setattr(database, "run", count)
    sandbox = await crisp.run_pod()
    assert written == 3
    id = await crisp.create(sandbox)
    assert written == 5
    await crisp.start(id)
    assert written == 7


async def test_what_is_stored_all_the_same_when_the_daemon_stops_is_not_undone(crisp: Crisp) -> None:
    config = crisp.container()
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    id = await crisp.run(await crisp.run_pod(), config)
    crisp.host.failpoints.set("UpdateContainerResources:store", "hang")
    resources = api.LinuxContainerResources(memory_limit_in_bytes=96 << 20)
    request = api.UpdateContainerResourcesRequest(container_id=id, linux=resources)
    asked = crisp.runtime.UpdateContainerResources(request)
    await crisp.until(lambda: any(point.waiting for point in crisp.host.failpoints.points()))
    gate, held = threading.Event(), threading.Event()

    def hold(_: object) -> None:
        held.set()
        gate.wait(20)

    busy = asyncio.ensure_future(crisp.host.store.database.run(hold, durable=True))  # in its thread
    await crisp.until(held.is_set)
    crisp.host.failpoints.set("*", "off")
    await crisp.until(lambda: crisp.host.store.database._jobs.qsize() == 1)  # the result, behind it
    (flight,) = crisp.host.operations._creating.values()
    flight.task.cancel()
    asked.cancel()
    await asyncio.sleep(0)
    gate.set()
    await busy
    await crisp.until(lambda: not crisp.host.operations._creating)
    assert (await crisp.status(id)).resources.linux.memory_limit_in_bytes == 96 << 20
    name = "memory.max" if crisp.host.layout.is_v2("memory") else "memory.limit_in_bytes"
    assert crisp.cgroup_file(id, name).read_text() == f"{96 << 20}\n"
    assert crisp.host.operations.unfinished() == []


async def test_a_change_that_its_client_has_left_is_made(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    crisp.host.failpoints.set("UpdateContainerResources/set_container_limits:mid", "hang")
    request = api.UpdateContainerResourcesRequest(container_id=id, linux=api.LinuxContainerResources(cpu_shares=300))
    asked = crisp.runtime.UpdateContainerResources(request)
    await crisp.until(lambda: any(point.waiting for point in crisp.host.failpoints.points()))
    asked.cancel()
    crisp.host.failpoints.set("*", "off")
    await crisp.until(lambda: not crisp.host.operations._creating)
    assert (await crisp.status(id)).resources.linux.cpu_shares == 300
