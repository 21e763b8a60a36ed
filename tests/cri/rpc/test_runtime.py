"""Version, Status, RuntimeConfig and UpdateRuntimeConfig."""

from __future__ import annotations

import json
import os

import grpc
import grpc.aio
import msgspec
import pytest

from cri.state.meta import POD_CIDR
from cri.version import version
from proto import api_pb2 as api
from tests.cri.harness import Crisp


async def test_the_version_has_all_four_fields(crisp: Crisp) -> None:
    answer = await crisp.runtime.Version(api.VersionRequest())
    assert (answer.runtime_name, answer.runtime_version) == ("crisp", version())
    assert (answer.version, answer.runtime_api_version) == ("0.1.0", "v1")


async def test_the_status_has_conditions_handlers_and_json(crisp: Crisp) -> None:
    answer = await crisp.runtime.Status(api.StatusRequest(verbose=True))
    assert {each.type: each.status for each in answer.status.conditions} == {"RuntimeReady": True, "NetworkReady": True}
    assert {handler.name for handler in answer.runtime_handlers} == {"", "crisp"}
    works = not crisp.host.facts.no_user_namespaces
    assert {handler.features.user_namespaces for handler in answer.runtime_handlers} == {works}
    assert answer.features.user_namespaces_host_network == works
    assert json.loads(answer.info["config"])["stateDir"] == f"{crisp.host.root}/layers"
    assert json.loads(answer.info["config"])["root"] == str(crisp.host.root)
    assert json.loads(answer.info["host"])["instance"] == crisp.host.instance
    shown = {subject: json.loads(text) for subject, text in answer.info.items()}
    assert shown["network"]["bridge"] == crisp.host.settings.network.bridge and shown["network"]["ready"]
    assert shown["versions"]["crisp"] == version() and shown["versions"]["kernel"] == os.uname().release
    assert shown["features"]["cgroup_driver"] == "cgroupfs" and "CAP_CHOWN" in shown["features"]["capabilities"]
    assert not (await crisp.runtime.Status(api.StatusRequest())).info


async def test_what_the_kernel_lacks_is_not_announced(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> None:
    """The tests of mounts show that it is real where it is announced."""
    for has in (True, False):
        monkeypatch.setattr(crisp.host, "facts", msgspec.structs.replace(crisp.host.facts, recursive_read_only=has))
        answer = await crisp.runtime.Status(api.StatusRequest())
        assert {each.features.recursive_read_only_mounts for each in answer.runtime_handlers} == {has}
        assert answer.features.mount_options is has and answer.features.supplemental_groups_policy


async def test_a_daemon_that_recovers_says_so(crisp: Crisp) -> None:
    crisp.host.ready.clear()
    try:
        conditions = (await crisp.runtime.Status(api.StatusRequest())).status.conditions
        assert [each.reason for each in conditions if not each.status] == ["Recovering"]
    finally:
        crisp.host.ready.set()


async def test_the_cgroup_driver_is_cgroupfs(crisp: Crisp) -> None:
    answer = await crisp.runtime.RuntimeConfig(api.RuntimeConfigRequest())
    assert answer.linux.cgroup_driver == api.CGROUPFS


async def use_cidr(crisp: Crisp, cidr: str) -> None:
    config = api.RuntimeConfig(network_config=api.NetworkConfig(pod_cidr=cidr))
    await crisp.runtime.UpdateRuntimeConfig(api.UpdateRuntimeConfigRequest(runtime_config=config))


async def test_with_two_pod_cidrs_a_pod_has_two_addresses_and_says_so_everywhere(crisp: Crisp) -> None:
    try:
        await use_cidr(crisp, "fd00:212::/64,10.212.78.0/24")
        pod = await crisp.run_pod(crisp.pod("dual", hostname="dual"))
        answer = await crisp.runtime.PodSandboxStatus(api.PodSandboxStatusRequest(pod_sandbox_id=pod))
        assert answer.status.network.ip == "fd00:212::2"
        assert [each.ip for each in answer.status.network.additional_ips] == ["10.212.78.2"]
        hosts = (crisp.host.state / "pods" / pod / "files" / "hosts").read_text()
        assert hosts.endswith("fd00:212::2\tdual\n10.212.78.2\tdual\n")
    finally:
        await use_cidr(crisp, crisp.host.settings.network.subnets[0])


async def test_a_pod_cidr_is_stored_and_used_for_pods_that_come(crisp: Crisp) -> None:
    old = await crisp.run_pod()
    before = crisp.host.store.sandboxes.get(old).addresses

    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await use_cidr(crisp, "10.0.0.0/99")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    original = crisp.host.settings.network.subnets[0]
    await use_cidr(crisp, "10.212.77.0/24")
    try:
        new = crisp.host.store.sandboxes.get(await crisp.run_pod())
        assert new.addresses[0].startswith("10.212.77.")
        assert crisp.host.meta.get(POD_CIDR) == "10.212.77.0/24"
        assert crisp.host.store.sandboxes.get(old).addresses == before
    finally:
        await use_cidr(crisp, original)
