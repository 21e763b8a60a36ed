"""ContainerStats and ListContainerStats: figures that grow, and which containers have them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri import aged
from proto import api_pb2 as api
from tests.cri.harness import Crisp

BUSY = ("sh", "-c", "dd if=/dev/zero of=/file bs=1k count=64 2>/dev/null; while :; do :; done")


async def stats(crisp: Crisp, id: str) -> api.ContainerStats:
    answer = await crisp.runtime.ContainerStats(api.ContainerStatsRequest(container_id=id))
    found: api.ContainerStats = answer.stats
    return found


async def rated(crisp: Crisp, id: str) -> api.ContainerStats:
    """Its figures once there is a rate among them."""
    while not (found := await stats(crisp, id)).cpu.usage_nano_cores.value:
        await asyncio.sleep(0.05)
    return found


async def test_counters_grow_and_times_advance(crisp: Crisp, short_rates: None) -> None:
    config = crisp.container(*BUSY)
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    id = await crisp.run(await crisp.run_pod(), config)
    first = await stats(crisp, id)
    await asyncio.sleep(0.1)
    second = await rated(crisp, id)
    assert second.attributes.id == id and second.attributes.metadata == config.metadata
    assert second.cpu.timestamp > first.cpu.timestamp > 0
    assert second.cpu.usage_core_nano_seconds.value > first.cpu.usage_core_nano_seconds.value > 0
    assert 0 < second.memory.working_set_bytes.value <= second.memory.usage_bytes.value
    assert 0 < second.memory.available_bytes.value < 64 << 20


async def test_the_writable_layer_is_measured_in_the_background(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aged, "MAX_AGE", 0.0)
    id = await crisp.run(await crisp.run_pod(), crisp.container(*BUSY))
    async with asyncio.timeout(30):
        while (await stats(crisp, id)).writable_layer.used_bytes.value < 64 << 10:
            await asyncio.sleep(0.05)
    assert (await stats(crisp, id)).writable_layer.inodes_used.value >= 1


async def test_the_first_answer_has_the_size_of_the_writable_layer(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    one = await crisp.run(sandbox, crisp.container())
    assert (await stats(crisp, one)).writable_layer.inodes_used.value >= 1
    two = await crisp.run(sandbox, crisp.container(name="two"))
    answer = await crisp.runtime.ListContainerStats(
        api.ListContainerStatsRequest(filter=api.ContainerStatsFilter(id=two))
    )
    assert [each.writable_layer.inodes_used.value >= 1 for each in answer.stats] == [True]


async def test_the_list_has_the_running_containers_that_the_filter_lets_through(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    one = await crisp.run(sandbox, crisp.container(labels={"n": "1"}))
    two = await crisp.run(sandbox, crisp.container(name="two", labels={"n": "2"}))
    await crisp.create(sandbox, crisp.container(name="created"))

    async def ids(wanted: api.ContainerStatsFilter) -> set[str]:
        answer = await crisp.runtime.ListContainerStats(api.ListContainerStatsRequest(filter=wanted))
        return {item.attributes.id for item in answer.stats}

    assert await ids(api.ContainerStatsFilter()) == {one, two}
    assert await ids(api.ContainerStatsFilter(id=one)) == {one}
    assert await ids(api.ContainerStatsFilter(pod_sandbox_id=sandbox, label_selector={"n": "2"})) == {two}


async def test_the_first_rate_is_that_since_the_start_and_io_has_a_time(crisp: Crisp, short_rates: None) -> None:
    id = await crisp.run(await crisp.run_pod(), crisp.container(*BUSY))
    await asyncio.sleep(0.1)
    found = await stats(crisp, id)
    assert 0 < found.cpu.usage_nano_cores.value < 64_000_000_000
    assert found.io.timestamp > 0 and found.swap.timestamp > 0
    has_pressure = found.cpu.psi.HasField("Some")
    assert has_pressure == (found.io.psi.HasField("Some")) == found.memory.psi.HasField("Some")
    assert has_pressure == Path(f"{crisp.host.layout.v2}/cpu.pressure").exists()


async def test_an_exited_container_uses_nothing_and_still_has_a_time_that_advances(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod(), crisp.container("true"))
    await crisp.wait_exit(id)
    first, second = await stats(crisp, id), await stats(crisp, id)
    assert second.cpu.timestamp > first.cpu.timestamp > 0
    assert second.attributes.id == id and second.memory.working_set_bytes.value < 4 << 20


async def test_an_unknown_container_has_no_figures(crisp: Crisp) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stats(crisp, "nowhere")
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_stream_has_what_the_list_has(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    stream = crisp.runtime.StreamContainerStats(api.StreamContainerStatsRequest())
    assert [item.attributes.id async for answer in stream for item in answer.container_stats] == [id]
