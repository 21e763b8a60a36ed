"""The path of a pod's packets, as the daemon tells it, of pods that are sound and of broken ones."""

from __future__ import annotations

import subprocess
from collections.abc import AsyncIterator
from typing import Any

import grpc
import grpc.aio
import pytest
import pytest_asyncio

from cri.path import path_of
from network.bandwidth import EGRESS, INGRESS
from proto import admin_pb2 as pb
from proto import admin_pb2_grpc as rpc
from proto import api_pb2 as api
from runtime.errors import HostFault
from runtime.linux import mount
from tests.cri.harness import Crisp
from tests.rates import LACKING

NAMESPACE_GONE = "the pod's network namespace is gone"


@pytest_asyncio.fixture(loop_scope="module")
async def admin(crisp: Crisp) -> AsyncIterator[Any]:
    async with grpc.aio.insecure_channel(f"unix://{crisp.host.state}/admin.sock") as channel:
        yield rpc.AdminStub(channel)


async def missing(crisp: Crisp, pod: str) -> dict[str, str]:
    hops = await path_of(crisp.host, crisp.host.store.sandboxes.get(pod))
    return {f"{hop.part} {hop.name}": hop.missing for hop in hops if hop.missing}


def run(*command: str) -> None:
    subprocess.run(command, check=True)


async def test_the_path_of_a_pod_is_explained_over_the_admin_socket(crisp: Crisp, admin: Any) -> None:
    pod = await crisp.run_pod(crisp.pod(port_mappings=[api.PortMapping(host_port=31999, container_port=80)]))
    path = (await admin.Explain(pb.ExplainRequest(pod=pod))).path
    address = crisp.host.store.sandboxes.get(pod).addresses[0]
    names = {hop.part: hop.name for hop in path}
    assert names["address"] == f"{address}/24" and names["host's end"] == f"crp{pod[:12]}"
    found = {hop.name: hop.found for hop in path}
    assert found["any_ports_v4 tcp *:31999"].endswith(f"leads to {address}:80")
    assert [hop.name for hop in path if hop.missing] == []


async def test_a_deleted_element_and_a_deleted_link_are_missing(crisp: Crisp) -> None:
    pod = await crisp.run_pod()
    assert await missing(crisp, pod) == {}
    address, table = crisp.host.store.sandboxes.get(pod).addresses[0], f"crisp_{crisp.host.instance}"
    run("nft", "delete", "element", "inet", table, "pods_v4", f"{{ {address} }}")
    assert await missing(crisp, pod) == {f"masquerade pods_v4 {address}": f"no such element in inet {table}"}
    run("ip", "link", "delete", f"crp{pod[:12]}")
    told = await missing(crisp, pod)
    assert told["interface eth0"] == told[f"host's end crp{pod[:12]}"] == "there is no such interface"


@pytest.mark.skipif(bool(LACKING), reason=LACKING)
async def test_what_limits_a_pod_is_explained_and_its_deletion_is_told(crisp: Crisp) -> None:
    pod = await crisp.run_pod(crisp.pod(annotations={INGRESS: "10M", EGRESS: "20M"}))
    assert await missing(crisp, pod) == {}
    hops = await path_of(crisp.host, crisp.host.store.sandboxes.get(pod))
    assert [(hop.part, hop.name) for hop in hops[-4:]] == [
        ("bandwidth", "receives 10000000 bit/s at most"),
        ("egress link", f"cre{pod[:12]}"),
        ("redirection", f"crp{pod[:12]} to cre{pod[:12]}"),
        ("bandwidth", "sends 20000000 bit/s at most"),
    ]
    run("ip", "link", "delete", f"cre{pod[:12]}")
    told = await missing(crisp, pod)
    assert told[f"egress link cre{pod[:12]}"] == "there is no ifb link of this name"
    assert len(told) == 3


async def test_without_its_namespace_nothing_in_a_pod_is_found(crisp: Crisp) -> None:
    pod = await crisp.run_pod()
    mount.umount2(f"{crisp.host.pod_directory(pod)}/ns/network", mount.MNT_DETACH)
    told = await missing(crisp, pod)
    assert NAMESPACE_GONE in told.values() and not any("crp" in name for name in told)


async def test_a_pod_of_the_nodes_network_and_one_that_was_stopped_have_one_hop(crisp: Crisp) -> None:
    config = crisp.pod()
    config.linux.security_context.namespace_options.network = api.NODE
    (hop,) = await path_of(crisp.host, crisp.host.store.sandboxes.get(await crisp.run_pod(config)))
    assert (hop.part, hop.name, hop.missing) == ("host network", "the node's own", "")
    pod = await crisp.run_pod()
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod))
    (hop,) = await path_of(crisp.host, crisp.host.store.sandboxes.get(pod))
    assert (hop.part, hop.found) == ("network", "taken back when the pod was stopped")


async def test_a_kernel_that_refuses_is_told_instead_of_the_path(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise HostFault("no answer", step="read the host's networks")

    pod = await crisp.run_pod()
    monkeypatch.setattr("network.device.read_host", refuse)
    assert await missing(crisp, pod) == {"network bridge": "read the host's networks: no answer"}
