"""A pod over the reference plugins of Debian: bridge, host-local and portmap, with real packets.

The daemon is a process of its own in a network namespace that plays the node, so that what the
plugins leave there by design (their bridge, their chains) ends with it.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator

import pytest

from proto import admin_pb2 as admin
from proto import api_pb2 as api
from tests.failpoints.serving import Daemon, in_folder, wait_for
from tests.kernel.network.conftest import Netns
from tests.reference_cni import PLUGINS, conflist, leases, missing

pytestmark = pytest.mark.skipif(bool(missing()), reason=missing())


@pytest.fixture
def daemon(daemons_on_node: None) -> Iterator[Daemon]:
    with in_folder(cni=f'bin_dir = "{PLUGINS}"\n') as found:
        (found.folder / "cni").mkdir()
        (found.folder / "cni" / "10-ref.conflist").write_text(json.dumps(conflist(found.folder)))
        found.start()
        found.import_demo_image()
        yield found


def fetch(node: Netns, address: str, port: int) -> bytes:
    """What is said at a port, from the node."""

    def ask() -> bytes:
        with socket.create_connection((address, port), timeout=2) as client:
            return client.recv(100)

    return node.do(ask)


def answers(node: Netns, address: str, port: int) -> bool:
    try:
        return fetch(node, address, port) == b"hello\n"
    except OSError:
        return False


def test_a_pod_is_reached_at_its_addresses_and_its_host_port_and_leaves_no_lease(daemon: Daemon, node: Netns) -> None:
    assert all(each.status for each in daemon.runtime.Status(api.StatusRequest()).status.conditions)
    request = daemon.pod(port_mappings=[api.PortMapping(host_port=8080, container_port=80)])
    pod = daemon.run_pod(request)
    network = daemon.pod_status(pod).status.network
    addresses = [network.ip, *(each.ip for each in network.additional_ips)]
    assert [each.partition(".")[0].partition(":")[0] for each in addresses] == ["10", "fd00"]
    assert leases(daemon.folder) == sorted(addresses)
    daemon.run(pod, request, "nc", "-ll", "-p", "80", "-e", "echo", "hello")
    for address in addresses:  # the node's end may not be used before the kernel has looked for doubles
        wait_for(lambda address=address: answers(node, address, 80), f"the pod to answer at {address}")  # type: ignore[misc]
    assert fetch(node, "192.0.2.7", 8080) == b"hello\n"
    path = daemon.admin.Explain(admin.ExplainRequest(pod=pod)).path
    assert (
        path[0].found.endswith("plugins bridge, portmap, tuning") and [each.name for each in path if each.missing] == []
    )
    assert {each.name for each in path if each.part == "interface"} == {"eth0"}
    daemon.remove_pod(pod)
    assert leases(daemon.folder) == []
    assert "10.219.0" not in node.run("iptables-save").stdout


@pytest.mark.parametrize("point", ["RunPodSandbox/attach_network:after", "StopPodSandbox/attach_network:undo"])
def test_a_daemon_that_is_killed_beside_the_plugins_leaves_no_lease(daemon: Daemon, point: str) -> None:
    request = daemon.pod()
    if point.startswith("Stop"):
        pod = daemon.run_pod(request)
        daemon.arm(point, "kill", 1)
        call = daemon.runtime.StopPodSandbox.future(api.StopPodSandboxRequest(pod_sandbox_id=pod))
    else:
        daemon.arm(point, "kill", 1)
        call = daemon.runtime.RunPodSandbox.future(request)
    assert call.exception() is not None
    daemon.reap()
    assert len(leases(daemon.folder)) == 2
    daemon.start()
    daemon.remove_pods()
    wait_for(lambda: not leases(daemon.folder), "the leases to be given back")


def test_pods_keep_their_network_when_the_node_moves_to_cni_and_back(daemon: Daemon, node: Netns) -> None:
    conf = daemon.folder / "cni" / "10-ref.conflist"
    first = daemon.run_pod()
    conf.rename(daemon.folder / "aside")
    wait_for(lambda: provider(daemon) == "bridge", "the configuration to be gone")
    second = daemon.run_pod()
    assert daemon.pod_status(second).status.network.ip.startswith("10.214.")
    (daemon.folder / "aside").rename(conf)
    daemon.restart()
    third = daemon.run_pod()
    assert [json.loads(daemon.pod_status(pod).info["info"])["plan"]["provider"] for pod in (first, second, third)] == [
        "cni",
        "bridge",
        "cni",
    ]
    assert daemon.runtime.Status(api.StatusRequest()).status.conditions[1].status
    daemon.remove_pod(second)
    assert daemon.pod_status(first).status.network.ip.startswith("10.219.")
    conf.unlink()
    daemon.restart()
    for pod in (first, third):
        daemon.remove_pod(pod)
    assert leases(daemon.folder) == []
    assert daemon.fsck() == []


def provider(daemon: Daemon) -> str:
    info = daemon.runtime.Status(api.StatusRequest(verbose=True)).info["network"]
    return str(json.loads(info)["provider"])


def test_fsck_says_what_the_plugins_find_wrong(daemon: Daemon, node: Netns) -> None:
    pod = daemon.run_pod()
    assert daemon.fsck() == []
    address = daemon.pod_status(pod).status.network.ip
    inside = f"--net={daemon.state}/pods/{pod}/ns/network"
    assert node.run("nsenter", inside, "ip", "address", "del", f"{address}/24", "dev", "eth0").returncode == 0
    (line,) = daemon.fsck()
    assert f"network {pod}: check the pod's network: plugin bridge: " in line
