"""Pods that CNI plugins connect: the reference plugins of Debian, and ours that misbehave."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
import pytest_asyncio

from cri import networks
from cri.fsck import fsck
from cri.host import LivePod
from cri.path import path_of
from cri.settings import PoolSettings, Settings
from cri.state.records import SandboxState
from network.cni.capabilities import BURST
from network.cni.debts import TOLD
from proto import api_pb2 as api
from tests.cri.harness import Crisp, start
from tests.fake_cni import FakePlugins


@pytest.fixture
def settings(new_settings: Callable[[], Settings]) -> Settings:
    return new_settings()


@pytest.fixture
def plugins(settings: Settings) -> FakePlugins:
    """Those of ``settings``; without a configuration yet."""
    return FakePlugins(Path(settings.cni.conf_dir).parent / "bin", Path(settings.cni.conf_dir))


@pytest_asyncio.fixture(loop_scope="module")
async def crisp(settings: Settings, plugins: FakePlugins) -> AsyncIterator[Crisp]:
    """A daemon with plugins of ours, which has no pod and no lease in the end."""
    async with running(settings, plugins) as crisp:
        yield crisp
        await crisp.remove_all()
        assert await fsck(crisp.host, repair=False, checking=True) == []
    assert plugins.leases() == []


@contextlib.asynccontextmanager
async def running(settings: Settings, plugins: FakePlugins, **cni: Any) -> AsyncIterator[Crisp]:
    asked = msgspec.structs.replace(settings.cni, bin_dir=os.fspath(plugins.folder), **cni)
    async with contextlib.AsyncExitStack() as undo:
        crisp = await start(msgspec.structs.replace(settings, cni=asked), undo)
        await networks.prepare(crisp.host)
        yield crisp


def provider_of(crisp: Crisp, pod: str) -> str:
    return str(json.loads(crisp.host.store.sandboxes.get(pod).plan)["provider"])


async def remove(crisp: Crisp, pod: str) -> None:
    await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod))


async def addresses(crisp: Crisp, pod: str) -> list[str]:
    answer = await crisp.runtime.PodSandboxStatus(api.PodSandboxStatusRequest(pod_sandbox_id=pod))
    return [answer.status.network.ip, *(each.ip for each in answer.status.network.additional_ips)]


async def test_a_pod_is_attached_and_all_its_addresses_are_told(crisp: Crisp, plugins: FakePlugins) -> None:
    plugins.configure()
    assert (await networks.status(crisp.host)).ready
    pod = await crisp.run_pod()
    assert await addresses(crisp, pod) == ["10.9.8.7", "fd09::7"]
    assert plugins.leases() == [f"first-{pod}", f"second-{pod}"]


async def test_the_path_of_a_pod_is_what_the_plugins_said(crisp: Crisp, plugins: FakePlugins) -> None:
    plugins.configure()
    await networks.status(crisp.host)
    pod = await crisp.run_pod()
    network, *rest = await path_of(crisp.host, crisp.host.store.sandboxes.get(pod))
    assert (network.name, network.found.rpartition(", plugins ")[2]) == ("net", "first, second")
    assert {(hop.part, hop.name): hop.missing for hop in rest} == {
        ("address", "10.9.8.7/24"): "not on eth0",
        ("address", "fd09::7/64"): "not on eth0",
        ("host's end", "host0"): "there is no such interface",
        ("interface", "eth0"): "there is no such interface",
    }


async def test_without_a_configuration_pods_get_the_bridge(crisp: Crisp, plugins: FakePlugins) -> None:
    assert crisp.host.provider == "bridge"
    pod = await crisp.run_pod()
    assert provider_of(crisp, pod) == "bridge"
    assert plugins.calls() == []


async def test_each_pod_is_detached_by_the_provider_that_attached_it(crisp: Crisp, plugins: FakePlugins) -> None:
    first = await crisp.run_pod()
    path = plugins.configure()
    await wait_until(lambda: crisp.host.provider == "cni")
    second = await crisp.run_pod()
    path.unlink()
    await wait_until(lambda: crisp.host.provider == "bridge")
    third = await crisp.run_pod()
    makers = [provider_of(crisp, pod) for pod in (first, second, third)]
    assert makers == ["bridge", "cni", "bridge"]
    assert (await networks.status(crisp.host)).ready
    plugins.calls()
    for pod in (first, third):
        await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod))
    assert plugins.calls() == []
    await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=second))
    assert plugins.order() == ["second DEL", "first DEL"]


async def test_network_ready_says_what_the_plugins_say(crisp: Crisp, plugins: FakePlugins) -> None:
    plugins.configure()
    plugins.behave({"first STATUS": "error"})
    answer = await crisp.runtime.Status(api.StatusRequest(verbose=True))
    ready = next(each for each in answer.status.conditions if each.type == "NetworkReady")
    assert (ready.status, ready.reason) == (False, "NetworkPluginNotReady")
    assert "plugin first: no more addresses: in the pool (code 7)" in ready.message
    info = json.loads(answer.info["network"])
    assert (info["provider"], info["cni"]["network"]) == ("cni", "net")
    plugins.configure("{")
    answer = await crisp.runtime.Status(api.StatusRequest())
    assert "10-net.conflist is not JSON" in answer.status.conditions[1].message
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await crisp.run_pod()
    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE and "is not JSON" in str(raised.value.details())


async def test_a_pod_that_cannot_be_attached_leaves_nothing_and_the_same_request_succeeds_later(
    crisp: Crisp, plugins: FakePlugins
) -> None:
    plugins.configure()
    await wait_until(lambda: crisp.host.provider == "cni")
    config = crisp.pod()
    plugins.behave({"second ADD": "error"})
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await crisp.run_pod(config)
    assert "plugin second: no more addresses: in the pool (code 7)" in str(raised.value.details())
    assert plugins.leases() == [] and await crisp.host.cni.orphans(()) == ()
    plugins.behave({})
    await crisp.run_pod(config)


async def test_a_pod_whose_plugins_are_broken_for_good_can_be_removed_and_its_address_comes_back(
    crisp: Crisp, plugins: FakePlugins
) -> None:
    plugins.configure()
    await wait_until(lambda: crisp.host.provider == "cni")
    pod = await crisp.run_pod()
    plugins.behave({"first DEL": "error"})
    request = api.StopPodSandboxRequest(pod_sandbox_id=pod)
    for _ in range(TOLD - 1):
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await crisp.runtime.StopPodSandbox(request)
        assert "plugin first: no more addresses" in str(raised.value.details())
    await crisp.runtime.StopPodSandbox(request)
    await remove(crisp, pod)
    assert [each.kind for each in await fsck(crisp.host, repair=False)] == ["CNI attachment"]
    plugins.behave({})
    await wait_until(lambda: not plugins.leases() and not crisp.host.cni.attached())


async def test_plugins_are_told_of_the_pod(crisp: Crisp, plugins: FakePlugins) -> None:
    capabilities = {
        "portMappings": True,
        "dns": True,
        "bandwidth": True,
        "io.kubernetes.cri.pod-annotations": True,
    }
    plugins.configure(plugins=[{"type": "first", "capabilities": capabilities}])
    await wait_until(lambda: crisp.host.provider == "cni")
    config = crisp.pod(
        annotations={"kubernetes.io/ingress-bandwidth": "8M", "kubernetes.io/egress-bandwidth": "1.5Mi", "x": "y"},
        dns_config=api.DNSConfig(servers=["10.0.0.10"]),
        port_mappings=[
            api.PortMapping(protocol=api.UDP, host_port=53, container_port=5353),
            api.PortMapping(container_port=80),
        ],
    )
    pod = await crisp.run_pod(config)
    call = next(each for each in plugins.calls() if each["command"] == "ADD")
    told = call["config"]["runtimeConfig"]
    assert told["portMappings"] == [{"hostPort": 53, "containerPort": 5353, "protocol": "udp", "hostIP": ""}]
    assert told["dns"] == {"servers": ["10.0.0.10"]}
    assert told["bandwidth"] == {
        "ingressRate": 8_000_000,
        "ingressBurst": BURST,
        "egressRate": 1_572_864,
        "egressBurst": BURST,
    }
    assert told["io.kubernetes.cri.pod-annotations"] == dict(config.annotations)
    assert f"K8S_POD_NAME={config.metadata.name};K8S_POD_INFRA_CONTAINER_ID={pod}" in call["environment"]["CNI_ARGS"]
    assert call["environment"]["CNI_NETNS"] == f"{crisp.host.state}/pods/{pod}/ns/network"


async def test_a_bandwidth_that_is_none_is_refused_before_a_plugin_is_called(
    crisp: Crisp, plugins: FakePlugins
) -> None:
    plugins.configure()
    await wait_until(lambda: crisp.host.provider == "cni")
    with pytest.raises(grpc.aio.AioRpcError, match="egress-bandwidth: must be between 1k and 1P") as refused:
        await crisp.run_pod(crisp.pod(annotations={"kubernetes.io/egress-bandwidth": "2P"}))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert plugins.calls() == [] and not os.listdir(crisp.host.state / "pods")


async def test_pods_of_an_earlier_boot_are_detached_by_the_next_daemon_and_garbage_is_collected(
    settings: Settings, plugins: FakePlugins
) -> None:
    plugins.configure()
    async with running(settings, plugins) as crisp:
        pods = [await crisp.run_pod() for _ in range(2)]
        for record in list(crisp.host.store.sandboxes):
            await of_an_earlier_boot(crisp, record.id)
    (plugins.folder / "leases" / f"first-{'0' * 64}").touch()  # of a pod that nobody knows any more
    plugins.calls()
    async with running(settings, plugins) as crisp:
        await wait_until(lambda: not plugins.leases())
        order = plugins.order()
        assert sorted(order[:4]) == ["first DEL"] * 2 + ["second DEL"] * 2 and "first GC" in order[4:]
        for pod in pods:
            await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod))


async def test_a_failed_detachment_of_an_earlier_boot_is_told_and_tried_again(
    settings: Settings, plugins: FakePlugins, caplog: pytest.LogCaptureFixture
) -> None:
    plugins.configure()
    async with running(settings, plugins) as crisp:
        pod = await crisp.run_pod()
        await of_an_earlier_boot(crisp, pod)
    plugins.behave({"first DEL": "error"})
    async with running(settings, plugins) as crisp:
        await wait_until(lambda: "plugin first: no more addresses" in caplog.text)
        plugins.behave({})
        await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod))
    assert plugins.leases() == []


async def test_kubelets_subnets_make_a_configuration_from_the_template(
    settings: Settings, plugins: FakePlugins
) -> None:
    template = plugins.folder / "template"
    template.write_text(json.dumps(plugins.conflist(plugins=[{"type": "first", "subnet": "{{.PodCIDR}}"}])))
    async with running(settings, plugins, conf_template=str(template)) as crisp:
        assert not (await networks.status(crisp.host)).ready
        request = api.UpdateRuntimeConfigRequest()
        request.runtime_config.network_config.pod_cidr = "10.77.0.0/24"
        await crisp.runtime.UpdateRuntimeConfig(request)
        assert (await networks.status(crisp.host)).ready
        await remove(crisp, await crisp.run_pod())
        call = next(each for each in plugins.calls() if each["command"] == "ADD")
        assert call["config"]["subnet"] == "10.77.0.0/24"


async def test_plugins_are_told_subnets_that_came_before_their_configuration(
    settings: Settings, plugins: FakePlugins
) -> None:
    async with running(settings, plugins) as crisp:
        request = api.UpdateRuntimeConfigRequest()
        request.runtime_config.network_config.pod_cidr = settings.network.subnets[0]
        await crisp.runtime.UpdateRuntimeConfig(request)
        plugins.configure(plugins=[{"type": "first", "capabilities": {"ipRanges": True}}])
        await wait_until(lambda: crisp.host.provider == "cni")
        await remove(crisp, await crisp.run_pod())
        told = next(each for each in plugins.calls() if each["command"] == "ADD")["config"]["runtimeConfig"]
        assert told["ipRanges"] == [[{"subnet": settings.network.subnets[0]}]]


async def test_a_blank_pod_becomes_one_of_the_network_that_is_in_force(
    settings: Settings, plugins: FakePlugins
) -> None:
    """While CNI is in force blank pods are not attached; those of the bridge are not taken for one."""
    pooled = msgspec.structs.replace(settings, pool=PoolSettings(size=1))
    async with running(pooled, plugins) as crisp:
        crisp.host.tasks.spawn("pool", crisp.host.pool.keep_full())
        await wait_until(lambda: len(crisp.host.pool) == 1)
        plugins.configure()
        await wait_until(lambda: crisp.host.provider == "cni")
        await wait_until(lambda: len(crisp.host.pool) == 1 and not blank(crisp).provider)
        id = next(iter(crisp.host.pool._items))
        pod = await crisp.run_pod()
        assert pod == id and await addresses(crisp, pod) == ["10.9.8.7", "fd09::7"]
        await remove(crisp, pod)
        assert plugins.leases() == []
        await crisp.host.pool.flush()


def blank(crisp: Crisp) -> LivePod:
    return crisp.host.pods[crisp.host.pool._items[0]]


async def test_the_setting_decides_where_both_could_be(settings: Settings, plugins: FakePlugins) -> None:
    asked = msgspec.structs.replace(settings, network=msgspec.structs.replace(settings.network, provider="cni"))
    async with running(asked, plugins) as crisp:
        assert "there is no folder" in (await networks.status(crisp.host)).message
    plugins.configure()
    asked = msgspec.structs.replace(settings, network=msgspec.structs.replace(settings.network, provider="bridge"))
    async with running(asked, plugins) as crisp:
        assert crisp.host.provider == "bridge" and (await networks.status(crisp.host)).ready


async def of_an_earlier_boot(crisp: Crisp, pod: str) -> None:
    """As a reboot leaves it: the record has it, and nothing of it is there."""
    await crisp.host.pods[pod].monitor.shutdown()
    await wait_until(lambda: crisp.host.store.sandboxes.get(pod).state is SandboxState.NOTREADY)
    await crisp.host.store.update_sandbox(pod, lambda now: msgspec.structs.replace(now, boot_id="earlier"))


async def wait_until(holds: Callable[[], object]) -> None:
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0.01)


async def test_a_daemon_starts_with_a_subnet_that_overlaps_one_of_pods_and_uses_it_once_they_are_gone(
    settings: Settings, plugins: FakePlugins
) -> None:
    async with running(settings, plugins) as first:
        pod = await first.run_pod()
    part = settings.network.subnets[0].replace("/24", "/25")
    network = msgspec.structs.replace(settings.network, subnets=(part,))
    async with running(msgspec.structs.replace(settings, network=network), plugins) as second:
        status = await networks.status(second.host)
        assert not status.ready and f"subnet {part}: overlaps with {settings.network.subnets[0]}" in status.message
        await second.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod))
        assert (await networks.status(second.host)).ready
