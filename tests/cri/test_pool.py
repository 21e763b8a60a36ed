"""Blank pods: when they are made, who gets them, and that they go."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Callable

import msgspec
import pytest
import pytest_asyncio

from cri import assembly, pool
from cri.fsck import fsck
from cri.plan.sandbox import BRIDGE
from cri.settings import PoolSettings, Settings
from network.bridge import BridgeProvider
from proto import api_pb2 as api
from tests.cri.harness import Crisp, start

SIZE = 2


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def pooled(new_settings: Callable[[], Settings]) -> AsyncIterator[Crisp]:
    """A daemon that would have blank pods, if somebody made them."""
    async with contextlib.AsyncExitStack() as undo:
        patch = undo.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(assembly, "TRASH_DELAY", 0.0)
        patch.setattr(pool, "QUIET", 0.0)
        settings = msgspec.structs.replace(new_settings(), pool=PoolSettings(size=SIZE))
        crisp = await start(settings, undo)
        crisp.host.failpoints.enabled = True
        yield crisp


@pytest_asyncio.fixture(loop_scope="module")
async def crisp(pooled: Crisp) -> AsyncIterator[Crisp]:
    """Each test begins and ends without blank pods and without anything else."""
    yield pooled
    pooled.host.failpoints.set("*", "off")
    await pooled.remove_all()
    await pooled.host.pool.flush()
    await pooled.settle()
    assert await fsck(pooled.host, repair=False) == []


@contextlib.asynccontextmanager
async def filling(crisp: Crisp) -> AsyncIterator[None]:
    task = crisp.host.tasks.spawn("pool", crisp.host.pool.keep_full())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def fill(crisp: Crisp) -> list[str]:
    """The ids of the blank pods, after which no more are made."""
    async with filling(crisp):
        await crisp.until(lambda: len(crisp.host.pool) == SIZE)
    return list(crisp.host.pods)


def metric(crisp: Crisp) -> float | None:
    return crisp.host.metrics.registry.get_sample_value("crisp_pool_items")


async def test_the_pool_is_filled_to_its_size_and_belongs_to_no_record(crisp: Crisp) -> None:
    ids = await fill(crisp)
    assert len(ids) == len(crisp.host.pool) == SIZE == metric(crisp)
    assert not list(crisp.host.store.sandboxes)
    assert sorted(os.listdir(crisp.host.state / "pods")) == sorted(ids)
    assert await fsck(crisp.host, repair=False) == []


async def test_a_pod_takes_the_blank_ones_id_and_address(crisp: Crisp) -> None:
    ids = await fill(crisp)
    addresses = {id: crisp.host.pods[id].addresses for id in ids}
    monitor = crisp.host.pods[ids[0]].monitor.pid
    id = await crisp.run_pod()
    record = crisp.host.store.sandboxes.get(id)
    assert id == ids[0] and record.addresses == addresses[id]
    assert record.monitor is not None and record.monitor.pid == monitor
    done = {stage.step for stage in record.stages}
    assert "write_files" in done and not done & {"make_pod_directory", "start_monitor", "attach_network"}
    assert len(crisp.host.pool) == SIZE - 1 == metric(crisp)


async def test_a_taken_item_is_replaced(crisp: Crisp) -> None:
    async with filling(crisp):
        await crisp.until(lambda: len(crisp.host.pool) == SIZE)
        id = await crisp.run_pod()
        await crisp.until(lambda: len(crisp.host.pool) == SIZE)
        assert id in crisp.host.pods and len(crisp.host.pods) == SIZE + 1


async def test_a_burst_beyond_the_pool_is_served_the_cold_way(crisp: Crisp) -> None:
    blank = await fill(crisp)
    ids = await asyncio.gather(*(crisp.run_pod() for _ in range(SIZE + 2)))
    assert len(set(ids)) == SIZE + 2 and set(blank) < set(ids)
    records = [crisp.host.store.sandboxes.get(id) for id in ids]
    assert len({record.addresses for record in records}) == SIZE + 2
    assert sum(any(stage.step == "start_monitor" for stage in record.stages) for record in records) == 2
    assert len(crisp.host.pool) == 0 == metric(crisp)


async def test_a_pod_in_the_nodes_network_leaves_the_pool_alone(crisp: Crisp) -> None:
    blank = await fill(crisp)
    config = crisp.pod()
    config.hostname = ""
    config.linux.security_context.namespace_options.network = api.NODE
    assert await crisp.run_pod(config) not in blank
    assert len(crisp.host.pool) == SIZE


async def test_a_flush_takes_what_is_in_the_making_as_well(crisp: Crisp) -> None:
    crisp.host.failpoints.set("pool/attach_network:after", "hang")
    async with filling(crisp):
        await crisp.until(lambda: bool(crisp.host.failpoints.waiting.get("pool/attach_network:after")))
        (outdated,) = crisp.host.pods
        await crisp.host.pool.flush()
        crisp.host.failpoints.set("*", "off")
        await crisp.until(lambda: len(crisp.host.pool) == SIZE)
    assert outdated not in crisp.host.pods and len(crisp.host.pods) == SIZE


async def test_a_flush_leaves_nothing(crisp: Crisp) -> None:
    await fill(crisp)
    await crisp.host.pool.flush()
    assert len(crisp.host.pool) == 0 == metric(crisp)
    assert not crisp.host.pods and os.listdir(crisp.host.state / "pods") == []
    assert crisp.host.pool.take(BRIDGE) is None


async def test_new_subnets_may_be_among_the_addresses_of_blank_pods_also_of_one_in_the_making(crisp: Crisp) -> None:
    original = crisp.host.settings.network.subnets[0]
    part, flushes = original.replace("/24", "/25"), crisp.host.pool._flushes
    crisp.host.failpoints.set("pool/attach_network:after", "hang")
    async with filling(crisp), asyncio.TaskGroup() as group:
        await crisp.until(lambda: bool(crisp.host.failpoints.waiting.get("pool/attach_network:after")))
        asked = group.create_task(use_cidr(crisp, part))
        await crisp.until(lambda: crisp.host.pool._flushes > flushes)
        crisp.host.failpoints.set("*", "off")
        await asked
        await crisp.until(lambda: len(crisp.host.pool) == SIZE)
    assert await pools_in_use(crisp) == {part}
    await use_cidr(crisp, original)
    assert await pools_in_use(crisp) == set()


async def use_cidr(crisp: Crisp, cidr: str) -> None:
    config = api.RuntimeConfig(network_config=api.NetworkConfig(pod_cidr=cidr))
    await crisp.runtime.UpdateRuntimeConfig(api.UpdateRuntimeConfigRequest(runtime_config=config))


async def pools_in_use(crisp: Crisp) -> set[str]:
    provider = crisp.host.network[BRIDGE]
    assert isinstance(provider, BridgeProvider)
    return {lease.pool for lease in await provider._leases.held()}


async def test_after_a_flush_the_pool_is_filled_anew(crisp: Crisp) -> None:
    async with filling(crisp):
        await crisp.until(lambda: len(crisp.host.pool) == SIZE)
        before = set(crisp.host.pods)
        await crisp.host.pool.flush()
        await crisp.until(lambda: len(crisp.host.pool) == SIZE)
        assert not before & set(crisp.host.pods)


async def test_a_blank_pod_whose_monitor_was_killed_is_dropped(crisp: Crisp) -> None:
    killed, sound = await fill(crisp)
    monitor = crisp.host.pods[killed].monitor
    os.kill(monitor.pid, signal.SIGKILL)
    await monitor.wait_closed()
    assert await crisp.run_pod() == sound
    await crisp.settle()
    assert list(crisp.host.pods) == [sound]
    assert not os.path.exists(crisp.host.pod_directory(killed))


async def test_an_item_that_cannot_be_made_leaves_nothing_and_is_tried_again(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "PAUSE", 0.0)
    caplog.set_level("INFO", "crisp.pool")
    crisp.host.failpoints.set("pool/attach_network:mid", "fail", 1)
    ids = await fill(crisp)
    assert "cannot make a blank pod now: failpoint" in caplog.text
    assert sorted(os.listdir(crisp.host.state / "pods")) == sorted(ids)


async def test_an_item_that_cannot_be_undone_is_named_in_the_log(
    crisp: Crisp, caplog: pytest.LogCaptureFixture
) -> None:
    first, second = await fill(crisp)
    crisp.host.failpoints.set("pool/make_pod_directory:undo", "fail", 1)
    await crisp.host.pool.flush()
    assert f"blank pod {first[:12]}" in caplog.text and f"blank pod {second[:12]}" not in caplog.text
    (found,) = await fsck(crisp.host, repair=True)
    assert found.object == crisp.host.pod_directory(first) and found.repaired


async def test_nothing_is_made_before_recovery_is_over(crisp: Crisp) -> None:
    crisp.host.ready.clear()
    async with filling(crisp):
        for _ in range(20):
            await asyncio.sleep(0)
        assert "pool" in crisp.host.tasks.names() and not crisp.host.pods
        crisp.host.ready.set()
        await crisp.until(lambda: len(crisp.host.pool) == SIZE)


async def test_on_a_node_that_is_never_quiet_items_are_made_all_the_same(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "QUIET", 3600.0)
    monkeypatch.setattr(pool, "HURRY", 0.01)
    crisp.host.pool.touch()
    assert len(await fill(crisp)) == SIZE


async def test_nothing_is_made_while_rpcs_are_served(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []
    sleep = asyncio.sleep

    async def note(seconds: float) -> None:
        asked.append(seconds)
        await sleep(0)
        monkeypatch.setattr(pool, "QUIET", 0.0)

    monkeypatch.setattr(pool, "QUIET", 3600.0)
    monkeypatch.setattr(pool, "HURRY", 7200.0)
    crisp.host.pool.touch()
    with monkeypatch.context() as patch:
        patch.setattr("asyncio.sleep", note)
        await crisp.host.pool._wait_quiet()
    assert len(asked) == 1 and 3500 < asked[0] <= 3600


async def test_nothing_is_made_beside_the_pod_that_takes_an_item(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> None:
    await fill(crisp)
    monkeypatch.setattr(pool, "QUIET", 3600.0)
    monkeypatch.setattr(pool, "HURRY", 7200.0)
    monkeypatch.setattr(crisp.host.pool, "_touched", float("-inf"))
    async with filling(crisp):
        taken = crisp.host.pool.take(BRIDGE)
        for _ in range(20):
            await asyncio.sleep(0)
            assert crisp.host.pool._making == ""
    assert taken is not None
    await crisp.host.pool.drop(taken)
