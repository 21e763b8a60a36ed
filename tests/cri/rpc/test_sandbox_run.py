"""RunPodSandbox over real gRPC: what a pod has, and what a request may not have."""

from __future__ import annotations

import os
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri.fsck import fsck
from cri.plan.document import decode
from cri.plan.sandbox import SandboxPlan
from cri.state.records import SandboxState
from cri.turns import AT_ONCE
from network.provider import PortMapping
from proto import api_pb2 as api
from runtime.cgroups import tree
from runtime.cgroups.in_force import read_current
from runtime.cgroups.resources import Current
from tests.cri.harness import Crisp


async def test_a_pod_has_namespaces_of_its_own_pinned_by_bind_mounts(crisp: Crisp) -> None:
    id = await crisp.run_pod()
    record = crisp.host.store.sandboxes.get(id)
    for kind, entry in (("network", "net"), ("ipc", "ipc"), ("uts", "uts")):
        pinned = os.stat(f"{crisp.host.pod_directory(id)}/ns/{kind}").st_ino
        assert pinned == os.stat(f"/proc/{record.pause_pid}/ns/{entry}").st_ino
        assert pinned != os.stat(f"/proc/self/ns/{entry}").st_ino


async def test_a_pod_has_an_address_and_the_files_that_tell_it(crisp: Crisp) -> None:
    config = crisp.pod(dns_config=api.DNSConfig(servers=["10.0.0.10"], searches=["a.b"], options=["ndots:5"]))
    id = await crisp.run_pod(config)
    record = crisp.host.store.sandboxes.get(id)
    files = Path(crisp.host.pod_directory(id)) / "files"
    assert len(record.addresses) == 1
    assert f"{record.addresses[0]}\t{config.hostname}" in (files / "hosts").read_text()
    assert (files / "hostname").read_text() == f"{config.hostname}\n"
    assert (files / "resolv.conf").read_text() == "search a.b\nnameserver 10.0.0.10\noptions ndots:5\n"


async def test_a_pod_in_the_nodes_network_shares_it(crisp: Crisp) -> None:
    config = crisp.pod()
    config.hostname = ""
    config.linux.security_context.namespace_options.network = api.NODE
    id = await crisp.run_pod(config)
    pause = crisp.host.store.sandboxes.get(id).pause_pid
    assert os.stat(f"/proc/{pause}/ns/net").st_ino == os.stat("/proc/self/ns/net").st_ino
    assert not os.path.exists(f"{crisp.host.pod_directory(id)}/ns/network")


async def test_pause_lives_below_the_given_cgroup_which_is_not_ours(crisp: Crisp) -> None:
    parent = f"/crisp-test-{os.getpid()}"
    roots = [hierarchy.mount for hierarchy in crisp.host.layout.v1] or [str(crisp.host.layout.v2)]
    for root in roots:
        os.mkdir(root + parent)
    try:
        config = crisp.pod()
        config.linux.cgroup_parent = parent
        id = await crisp.run_pod(config)
        pause = crisp.host.store.sandboxes.get(id).pause_pid
        assert f"{parent}/{id}" in Path(f"/proc/{pause}/cgroup").read_text()
        monitor = crisp.host.store.sandboxes.get(id).monitor
        assert monitor is not None
        own = Path("/proc/self/cgroup").read_text()
        assert Path(f"/proc/{monitor.pid}/cgroup").read_text() == own, "no limit of the pod ends it"
        await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=id))
        assert all(os.path.isdir(root + parent) for root in roots)
    finally:
        for root in roots:
            os.rmdir(root + parent)
        if crisp.host.layout.v1 and crisp.host.layout.v2 and os.path.isdir(crisp.host.layout.v2 + parent):
            os.rmdir(crisp.host.layout.v2 + parent)


async def test_a_pods_own_cgroup_gets_its_resources_and_overhead_and_nothing_where_none_are_given(crisp: Crisp) -> None:
    plain = pod_cgroup(crisp, await crisp.run_pod())
    assert read_current(crisp.host.layout, plain) == Current()
    config = crisp.pod()
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    config.linux.resources.cpu_quota, config.linux.resources.cpu_period = 50_000, 100_000
    config.linux.resources.cpuset_cpus = "0"
    config.linux.overhead.memory_limit_in_bytes = 16 << 20
    config.linux.overhead.cpu_quota, config.linux.overhead.cpu_period = 10_000, 50_000
    id = await crisp.run_pod(config)
    now = read_current(crisp.host.layout, pod_cgroup(crisp, id))
    assert (now.memory_limit, now.cpu_quota, now.cpu_period) == (80 << 20, 70_000, 100_000)
    container = await crisp.run(id)
    name = "cpuset.cpus.effective" if crisp.host.layout.is_v2("cpuset") else "cpuset.cpus"
    assert crisp.cgroup_file(container, name).read_text() == "0\n"


async def test_the_resources_of_a_pod_in_kubelets_cgroup_are_kubelets_to_give(crisp: Crisp) -> None:
    parent = f"/crisp-test-{os.getpid()}"
    tree.create(crisp.host.layout, parent, "kubelet's")
    try:
        config = crisp.pod()
        config.linux.cgroup_parent = parent
        config.linux.resources.memory_limit_in_bytes = 64 << 20
        await crisp.run_pod(config)
        assert read_current(crisp.host.layout, parent) == Current()
        await crisp.remove_all()
    finally:
        assert tree.remove(crisp.host.layout, parent, ours=True)


async def test_limits_of_a_pod_that_the_host_cannot_give_are_refused_before_anything_is_made(crisp: Crisp) -> None:
    config = crisp.pod()
    config.linux.resources.hugepage_limits.add(page_size="7MB", limit=7 << 20)
    with pytest.raises(grpc.aio.AioRpcError, match="7MB") as refused:
        await crisp.run_pod(config)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert not os.listdir(crisp.host.state / "pods")


def pod_cgroup(crisp: Crisp, id: str) -> str:
    return decode(crisp.host.store.sandboxes.get(id).plan, SandboxPlan).cgroup_parent


async def test_the_name_of_a_ready_pod_is_taken(crisp: Crisp) -> None:
    config = crisp.pod()
    await crisp.run_pod(config)
    await crisp.until(lambda: not crisp.host.store.operations)  # the answer's delivery is noted a moment after it
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await crisp.run_pod(config)
    assert refused.value.code() is grpc.StatusCode.ALREADY_EXISTS


def with_port(crisp: Crisp, host_port: int, host_ip: str = "") -> api.PodSandboxConfig:
    port = api.PortMapping(protocol=api.TCP, container_port=80, host_port=host_port, host_ip=host_ip)
    return crisp.pod(port_mappings=[port])


async def test_a_host_port_is_the_pods_until_it_stops(crisp: Crisp) -> None:
    pod = await crisp.run_pod(with_port(crisp, 8080))
    claims = await crisp.host.network["bridge"]._ports.claims()  # type: ignore[attr-defined]
    assert claims == {pod: (PortMapping("tcp", 8080, 80, ""),)}
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod))
    assert not claims and await fsck(crisp.host, repair=False) == []


async def test_a_host_port_that_another_pod_has_is_refused_before_anything_is_done(crisp: Crisp) -> None:
    first = await crisp.run_pod(with_port(crisp, 8080))
    crisp.host.failpoints.set("RunPodSandbox/make_pod_directory:before", "fail")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await crisp.run_pod(with_port(crisp, 8080, "127.0.0.1"))
    crisp.host.failpoints.set("*", "off")
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert f"tcp 127.0.0.1:8080: sandbox {first} has it" in (refused.value.details() or "")
    await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=first))
    await crisp.run_pod(with_port(crisp, 8080, "127.0.0.1"))


async def test_identical_requests_at_once_make_one_pod(crisp: Crisp) -> None:
    config = crisp.pod()
    ids = await crisp.at_once("RunPodSandbox/write_files:mid", [crisp.run_pod(config) for _ in range(AT_ONCE)])
    assert len(set(ids)) == 1 and len(crisp.host.store.sandboxes) == 1


async def test_a_pod_whose_client_left_is_adopted_by_the_same_request(crisp: Crisp) -> None:
    config = crisp.pod()
    crisp.host.failpoints.set("RunPodSandbox/attach_network:mid", "hang")
    call = crisp.runtime.RunPodSandbox(api.RunPodSandboxRequest(config=config))
    await crisp.until(lambda: any(point.waiting for point in crisp.host.failpoints.points()))
    call.cancel()
    await crisp.until(lambda: not any(each.waiting for each in crisp.host.operations._creating.values()))
    crisp.host.failpoints.set("*", "off")
    await crisp.until(lambda: len(crisp.host.store.sandboxes) == 1)
    id = await crisp.run_pod(config)
    assert [record.id for record in crisp.host.store.sandboxes] == [id]


async def test_a_request_without_metadata_has_no_effect(crisp: Crisp) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await crisp.run_pod(api.PodSandboxConfig(hostname="x"))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert os.listdir(crisp.host.state / "pods") == []


async def test_a_pod_that_cannot_be_made_leaves_its_name_free(crisp: Crisp) -> None:
    config = crisp.pod()
    crisp.host.failpoints.set("RunPodSandbox/write_files:mid", "fail", 1)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await crisp.run_pod(config)
    assert "write_files" in str(refused.value.details())
    assert os.listdir(crisp.host.state / "pods") == [] and not crisp.host.pods
    id = await crisp.run_pod(config)
    assert crisp.host.store.sandboxes.get(id).state is SandboxState.READY


async def test_the_timeline_has_every_step(crisp: Crisp) -> None:
    record = crisp.host.store.sandboxes.get(await crisp.run_pod())
    assert [stage.step for stage in record.stages] == [
        "make_pod_directory",
        "make_pod_cgroups",
        "start_monitor",
        "create_namespaces",
        "pin_namespaces",
        "mount_shm",
        "attach_network",
        "write_files",
        "wait_for_pause",
    ]
    assert all(stage.took > 0 and not stage.error for stage in record.stages)
