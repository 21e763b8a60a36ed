"""One sweep for statistics and metrics: what it reads, what it remembers, what it forgets."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import pytest

from cri.plan.document import decode, encode
from cri.plan.sandbox import SandboxPlan
from cri.sweep import Place, place_of, running_of
from network.interfaces import Interface, PodInterfaces
from proto import api_pb2 as api
from runtime.cgroups.usage import Usage
from tests.cri.harness import Crisp

LONG = 600_000_000_000
"""Nanoseconds in which a test is over."""


async def test_a_pod_and_its_containers_are_read_in_one_sweep(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    readings, store = crisp.host.readings, crisp.host.store
    await readings.measured([store.containers.get(id)])
    (pod,) = readings.pods([store.sandboxes.get(sandbox)], store.containers_of, detailed=True)
    (container,) = pod.containers
    assert pod.sample is not None and container.sample is not None
    assert (pod.sample.usage.pids or 0) > (container.sample.usage.pids or 0) >= 1
    assert container.processes is not None and container.processes.processes >= 1
    assert container.detail.memory_peak and container.layer.time > 0
    assert [each.name for each in pod.interfaces] == ["eth0"]


async def test_a_rate_covers_the_time_between_two_sweeps(crisp: Crisp, short_rates: None) -> None:
    id = await crisp.run(await crisp.run_pod(), crisp.container("sh", "-c", "while :; do :; done"))
    records = [crisp.host.store.containers.get(id)]
    (first,) = crisp.host.readings.containers(records)
    assert first.sample is not None and first.sample.nanocores is None

    def rated() -> bool:
        (later,) = crisp.host.readings.containers(records)
        return later.sample is not None and (later.sample.nanocores or 0) > 0

    assert not rated()
    await crisp.until(rated)


async def test_a_cgroup_that_is_gone_has_no_sample_and_no_network(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    store, readings = crisp.host.store, crisp.host.readings
    records = [store.sandboxes.get(sandbox)], [store.containers.get(id)]
    await crisp.remove_all()
    (pod,) = readings.pods(records[0], lambda _: records[1])
    assert pod.sample is None and pod.interfaces == () and pod.containers[0].sample is None
    readings.forget(sandbox)
    readings.forget(id)
    readings.forget(id)


@pytest.fixture
def swept(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The cgroups that are read from now on."""
    read: list[str] = []
    sweep = crisp.host.sweeper.sweep

    def noting(cgroups: Iterable[str]) -> dict[str, Usage]:
        asked = list(cgroups)
        read.extend(asked)
        return sweep(asked)

    monkeypatch.setattr(crisp.host.sweeper, "sweep", noting)
    return read


async def test_what_somebody_has_asked_for_a_moment_ago_is_not_read_again(
    crisp: Crisp, swept: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    networks: list[str] = []
    read = PodInterfaces.read

    def noting(self: PodInterfaces, id: str, pid: int, namespace: str) -> tuple[Interface, ...]:
        networks.append(id)
        return read(self, id, pid, namespace)

    monkeypatch.setattr(PodInterfaces, "read", noting)
    sandbox = await crisp.run_pod()
    store, readings = crisp.host.store, crisp.host.readings
    container, record = store.containers.get(await crisp.run(sandbox)), store.sandboxes.get(sandbox)
    (pod,) = readings.pods([record], store.containers_of)
    assert (len(swept), networks) == (2, [sandbox]) and pod.sample is not None
    recent = readings.recent([container, record], LONG)
    assert recent[sandbox] == pod.sample.usage and set(recent) == {container.id, sandbox}
    assert readings.recent_interfaces(record, LONG) == pod.interfaces
    assert (len(swept), networks) == (2, [sandbox])
    again = readings.recent([container, record], 0)
    assert [each.name for each in readings.recent_interfaces(record, 0)] == ["eth0"]
    assert (len(swept), networks) == (4, [sandbox, sandbox]) and again[sandbox].clock > recent[sandbox].clock


async def test_of_figures_that_are_asked_for_a_moment_later_what_is_gone_is_left_out(crisp: Crisp) -> None:
    config = crisp.pod(hostname="")
    config.linux.security_context.namespace_options.network = api.NODE
    record = crisp.host.store.sandboxes.get(await crisp.run_pod(config))
    readings = crisp.host.readings
    assert list(readings.recent([record], LONG)) == [record.id]
    assert readings.recent_interfaces(record, LONG) == ()
    await crisp.remove_all()
    assert readings.recent([record], 0) == {}
    readings.forget(record.id)


async def test_what_has_ended_is_read_once_and_kept_open_no_longer(crisp: Crisp, swept: list[str]) -> None:
    sandbox = await crisp.run_pod()
    status, _ = await crisp.run_to_end(sandbox, "true")
    records, readings = [crisp.host.store.containers.get(status.id)], crisp.host.readings
    before = crisp.host.sweeper.descriptors
    used = readings.last(records)
    assert used[status.id].cpu and used[status.id].oom_kills == 0
    assert readings.last(records) == used and len(swept) == 1
    assert crisp.host.sweeper.descriptors == before
    await crisp.remove_all()
    assert readings.last(records) == {}
    readings.forget(status.id)


async def test_a_pod_below_the_root_shows_pause_and_one_of_the_node_has_no_namespace(crisp: Crisp) -> None:
    config = crisp.pod(hostname="")
    config.linux.security_context.namespace_options.network = api.NODE
    record = crisp.host.store.sandboxes.get(await crisp.run_pod(config))
    plan = decode(record.plan, SandboxPlan)
    assert place_of(record) == Place(plan.cgroup_parent, None)
    at_root = msgspec.structs.replace(record, plan=encode(msgspec.structs.replace(plan, cgroup_parent="/")))
    assert place_of(at_root) == Place(plan.pause_cgroup, None)


async def test_only_what_runs_is_read(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    running = await crisp.run(sandbox)
    await crisp.create(sandbox, crisp.container(name="created"))
    assert [each.id for each in running_of(crisp.host.store.containers_of(sandbox))] == [running]
