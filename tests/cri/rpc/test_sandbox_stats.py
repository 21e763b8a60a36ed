"""PodSandboxStats and ListPodSandboxStats: the pod's cgroup, its network, and its containers."""

from __future__ import annotations

import asyncio

import grpc
import grpc.aio
import pytest

from proto import api_pb2 as api
from tests.cri.harness import Crisp

BUSY = ("sh", "-c", "while :; do :; done")


async def stats(crisp: Crisp, id: str) -> api.PodSandboxStats:
    answer = await crisp.runtime.PodSandboxStats(api.PodSandboxStatsRequest(pod_sandbox_id=id))
    found: api.PodSandboxStats = answer.stats
    return found


async def test_a_pod_has_all_figures_of_its_cgroup_and_its_running_containers(crisp: Crisp, short_rates: None) -> None:
    config = crisp.pod(annotations={"a": "b"})
    sandbox = await crisp.run_pod(config)
    busy = await crisp.run(sandbox, crisp.container(*BUSY))
    await crisp.create(sandbox, crisp.container(name="created"))
    first = await stats(crisp, sandbox)
    while not (second := await stats(crisp, sandbox)).linux.cpu.usage_nano_cores.value:
        await asyncio.sleep(0.05)
    attributes = second.attributes
    assert (attributes.id, attributes.metadata) == (sandbox, config.metadata)
    assert attributes.labels == config.labels and attributes.annotations == config.annotations
    before, linux = first.linux, second.linux
    assert linux.cpu.timestamp > before.cpu.timestamp > 0
    assert linux.cpu.usage_core_nano_seconds.value > before.cpu.usage_core_nano_seconds.value > 0
    assert 0 < linux.memory.working_set_bytes.value <= linux.memory.usage_bytes.value
    assert linux.memory.timestamp > 0 and linux.memory.page_faults.value > 0
    assert linux.process.process_count.value >= 2 and linux.process.timestamp > 0
    assert linux.io.timestamp > 0
    assert [each.attributes.id for each in linux.containers] == [busy]
    (container,) = linux.containers
    assert 0 < container.cpu.usage_core_nano_seconds.value <= linux.cpu.usage_core_nano_seconds.value
    assert container.writable_layer.fs_id.mountpoint == str(crisp.host.root)
    assert not second.HasField("windows")


async def test_a_pods_network_is_that_of_its_own_interface(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    first = (await stats(crisp, sandbox)).linux.network
    assert first.default_interface.name == "eth0" and not first.interfaces and first.timestamp > 0
    id = await crisp.run(sandbox)
    await crisp.exec(id, "sh", "-c", "ping -c 1 -W 1 $(ip route | sed -n 's/default via \\([^ ]*\\).*/\\1/p')")
    second = (await stats(crisp, sandbox)).linux.network
    assert second.timestamp > first.timestamp
    assert second.default_interface.tx_bytes.value > first.default_interface.tx_bytes.value


@pytest.mark.parametrize("name", ["net1", "veth7"])
async def test_each_interface_of_a_pod_has_its_own_figures(crisp: Crisp, name: str) -> None:
    sandbox = await crisp.run_pod()
    crisp.add_interface(sandbox, name)
    id = await crisp.run(sandbox)
    first = (await stats(crisp, sandbox)).linux.network
    assert first.default_interface.name == "eth0"
    assert sorted(each.name for each in first.interfaces) == sorted(["far", name])
    await crisp.exec(id, "ping", "-c", "1", "-W", "1", "10.9.9.8")  # nobody: the question alone is counted
    answer = await crisp.runtime.ListPodSandboxStats(api.ListPodSandboxStatsRequest())
    (second,) = [each.linux.network for each in answer.stats if each.attributes.id == sandbox]
    before, after = ({each.name: each for each in network.interfaces} for network in (first, second))
    assert after[name].tx_bytes.value > before[name].tx_bytes.value
    assert after["far"].rx_bytes.value > before["far"].rx_bytes.value
    assert second.default_interface.name == "eth0"


async def test_a_pod_in_the_nodes_network_has_the_nodes_interfaces(crisp: Crisp) -> None:
    config = crisp.pod(hostname="")
    config.linux.security_context.namespace_options.network = api.NODE
    sandbox = await crisp.run_pod(config)
    network = (await stats(crisp, sandbox)).linux.network
    names = [network.default_interface.name, *(each.name for each in network.interfaces)]
    assert "lo" not in names and not any(name.startswith("crp") for name in names) and network.timestamp > 0


async def test_the_list_has_the_ready_pods_that_the_filter_lets_through(crisp: Crisp) -> None:
    one = await crisp.run_pod(crisp.pod(labels={"n": "1"}))
    two = await crisp.run_pod(crisp.pod(labels={"n": "2"}))
    over = await crisp.run_pod()
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=over))

    async def ids(wanted: api.PodSandboxStatsFilter) -> set[str]:
        answer = await crisp.runtime.ListPodSandboxStats(api.ListPodSandboxStatsRequest(filter=wanted))
        return {item.attributes.id for item in answer.stats}

    assert await ids(api.PodSandboxStatsFilter()) == {one, two}
    assert await ids(api.PodSandboxStatsFilter(id=one[:20])) == {one}
    assert await ids(api.PodSandboxStatsFilter(label_selector={"n": "2"})) == {two}
    stopped = await stats(crisp, over)
    assert stopped.attributes.id == over and not stopped.linux.network.HasField("default_interface")
    assert not stopped.linux.containers


@pytest.mark.parametrize("id", ["", "nowhere"])
async def test_what_kubelet_probes_with_does_not_exist(crisp: Crisp, id: str) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stats(crisp, id)
    assert refused.value.code() is grpc.StatusCode.NOT_FOUND


async def test_the_stream_has_what_the_list_has(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    stream = crisp.runtime.StreamPodSandboxStats(api.StreamPodSandboxStatsRequest())
    (item,) = [item async for answer in stream for item in answer.pod_sandbox_stats]
    assert item.attributes.id == sandbox and item.linux.containers[0].attributes.id == id
