"""GetContainerEvents: a pod's life as every subscriber sees it."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from cri import events
from cri.assembly import kill_monitors
from proto import api_pb2 as api
from tests.cri.harness import Crisp

KINDS = api.ContainerEventType


async def subscribe(crisp: Crisp) -> Any:
    stream = crisp.runtime.GetContainerEvents(api.GetEventsRequest())
    await asyncio.wait_for(stream.initial_metadata(), 30)
    return stream


async def take(stream: Any, count: int) -> list[api.ContainerEventResponse]:
    async with asyncio.timeout(30):
        return [await stream.read() for _ in range(count)]


def shown(taken: list[api.ContainerEventResponse]) -> list[tuple[str, str]]:
    names = {each: KINDS.Name(each).split("_")[1] for each in KINDS.values()}
    return [(each.container_id, names[each.container_event_type]) for each in taken]


async def test_every_subscriber_sees_a_pods_life_in_order_with_its_statuses(crisp: Crisp) -> None:
    streams = [await subscribe(crisp) for _ in range(3)]
    sandbox = await crisp.run_pod(crisp.pod(annotations={"a": "b"}))
    one = await crisp.run(sandbox, crisp.container("sh", "-c", "exit 3"))
    await crisp.wait_exit(one)
    two = await crisp.run(sandbox, crisp.container(name="two"))
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=sandbox))
    expected = [
        (sandbox, "CREATED"),
        (sandbox, "STARTED"),
        (one, "CREATED"),
        (one, "STARTED"),
        (one, "STOPPED"),
        (two, "CREATED"),
        (two, "STARTED"),
        (two, "STOPPED"),
        (sandbox, "STOPPED"),
        (one, "DELETED"),
        (two, "DELETED"),
        (sandbox, "DELETED"),
    ]
    for stream in streams:
        taken = await take(stream, len(expected))
        assert shown(taken) == expected
        assert all(each.pod_sandbox_status.id == sandbox for each in taken)
        assert all(each.pod_sandbox_status.metadata.name for each in taken)
        times = [each.created_at for each in taken]
        assert times == sorted(times) and times[0] > 0
        stopped = taken[4].containers_statuses[0]
        assert (stopped.id, stopped.state, stopped.exit_code) == (one, api.CONTAINER_EXITED, 3)
        assert taken[3].containers_statuses[0].state == api.CONTAINER_RUNNING
        assert [each.id for each in taken[6].containers_statuses] == [one, two]
        assert taken[1].pod_sandbox_status.state == api.SANDBOX_READY and taken[1].pod_sandbox_status.network.ip
        assert taken[8].pod_sandbox_status.state == api.SANDBOX_NOTREADY
        assert [each.id for each in taken[9].containers_statuses] == [two], "the deleted one is not there any more"
        stream.cancel()
    await crisp.until(lambda: not crisp.host.events._subscribers)


async def test_a_container_that_cannot_be_started_was_stopped(crisp: Crisp) -> None:
    stream = await subscribe(crisp)
    id = await crisp.create(await crisp.run_pod(), crisp.container("/nowhere"))
    with pytest.raises(grpc.aio.AioRpcError):
        await crisp.start(id)
    assert shown(await take(stream, 4))[2:] == [(id, "CREATED"), (id, "STOPPED")]
    stream.cancel()


async def test_a_pod_whose_monitor_dies_was_stopped_after_its_containers(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    stream = await subscribe(crisp)
    await kill_monitors(crisp.host)
    assert shown(await take(stream, 2)) == [(id, "STOPPED"), (sandbox, "STOPPED")]
    stream.cancel()


async def test_who_lost_events_is_told_by_the_end_of_the_stream(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(events, "QUEUED_EVENTS", 0)
    await crisp.until(lambda: not crisp.host.events._subscribers)  # of other tests
    stream = await subscribe(crisp)
    await crisp.run_pod()
    with pytest.raises(grpc.aio.AioRpcError) as ended:
        await take(stream, 1)
    assert ended.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED and "too slow" in str(ended.value.details())
    assert b"crisp_events_dropped_total 2.0" in crisp.host.metrics.render()


async def test_many_pods_at_once_are_each_in_order(crisp: Crisp) -> None:
    stream = await subscribe(crisp)

    async def life() -> str:
        sandbox = await crisp.run_pod()
        await crisp.run_to_end(sandbox, "true")
        await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=sandbox))
        return sandbox

    sandboxes = await asyncio.gather(*(life() for _ in range(6)))
    by_pod: dict[str, list[str]] = {}
    for event in await take(stream, 6 * 8):
        (kind,) = {name for _, name in shown([event])}
        of = "pod" if event.container_id == event.pod_sandbox_status.id else "container"
        by_pod.setdefault(event.pod_sandbox_status.id, []).append(f"{of} {kind}")
    whole = ["pod CREATED", "pod STARTED", "container CREATED", "container STARTED", "container STOPPED"]
    assert by_pod == {each: [*whole, "pod STOPPED", "container DELETED", "pod DELETED"] for each in sandboxes}
    stream.cancel()
