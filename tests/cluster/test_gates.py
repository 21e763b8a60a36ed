"""A kubelet that has its statistics from the CRI, streams its lists and hears of events, on crisp."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from proto import api_pb2 as api
from tests import golang
from tests.cluster.kubelet import PATIENCE, Kubelet, kubelet_of
from tests.cluster.manifests import container, forever, pod, shell
from tests.failpoints.serving import Daemon, serving, wait_for

pytestmark = [
    pytest.mark.leaks("module"),
    pytest.mark.skipif(golang.is_missing(), reason="needs Go, which builds kubelet"),
    pytest.mark.timeout(300),
]

GATES = {"PodAndContainerStatsFromCRI": True, "CRIListStreaming": True, "EventedPLEG": True}


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with serving(failpoints=None, pool=2, settings='log_level = "debug"\n') as found:
        yield found


@pytest.fixture(scope="module")
def kubelet(daemon: Daemon) -> Iterator[Kubelet]:
    with kubelet_of(daemon, **GATES) as found:
        yield found


def asked(daemon: Daemon) -> set[str]:
    """The RPCs that the daemon has answered."""
    lines = (daemon.folder / "log").read_text(errors="replace").splitlines()
    messages = [json.loads(line)["message"] for line in lines if '"crisp.rpc"' in line]
    return {message.removesuffix(" OK") for message in messages if message.endswith(" OK")}


def test_the_summary_comes_from_the_cri_with_the_pods_network(kubelet: Kubelet, daemon: Daemon) -> None:
    name = kubelet.apply(pod("counted", container("main", forever("dd if=/dev/zero of=/file bs=1M count=4"))))
    kubelet.wait_ready(name)

    def written() -> int:
        found = (kubelet.summary(name) or {}).get("containers") or [{}]
        return int(found[0].get("rootfs", {}).get("usedBytes", 0))

    wait_for(lambda: written() >= 4 << 20, "the writable layer", PATIENCE)
    found = kubelet.summary(name)
    assert found["containers"][0]["cpu"]["usageCoreNanoSeconds"] > 0
    assert found["containers"][0]["memory"]["workingSetBytes"] > 0
    assert found["cpu"]["usageCoreNanoSeconds"] > 0 and found["memory"]["workingSetBytes"] > 0
    assert found["network"]["name"] == "eth0" and found["network"]["rxBytes"] >= 0
    assert found["process_stats"]["process_count"] >= 1
    assert asked(daemon) & {"ListPodSandboxStats", "StreamPodSandboxStats"}
    kubelet.delete(name)


def test_the_metrics_of_cadvisor_come_from_the_cri(kubelet: Kubelet, daemon: Daemon) -> None:
    name = kubelet.apply(pod("measured", container("main", forever())))
    kubelet.wait_ready(name)

    def metrics() -> str:
        return kubelet.ask("/metrics/cadvisor").decode()

    of_the_pod = f'pod="{name}-crisp-node"'
    wait_for(lambda: of_the_pod in metrics(), "the metrics", PATIENCE)
    found = [line for line in metrics().splitlines() if of_the_pod in line]
    for family in ("container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_network_"):
        assert any(line.startswith(family) for line in found), (family, found)
    assert asked(daemon) & {"ListPodSandboxMetrics", "StreamPodSandboxMetrics"}
    kubelet.delete(name)


def test_lists_are_streamed(kubelet: Kubelet, daemon: Daemon) -> None:
    wait_for(lambda: {"StreamPodSandboxes", "StreamContainers"} <= asked(daemon), "the streams", PATIENCE)


def test_an_end_that_nobody_asked_for_is_heard_of(kubelet: Kubelet, daemon: Daemon) -> None:
    name = kubelet.apply(pod("ended", container("main", forever())))
    kubelet.wait_ready(name)
    [running] = [each for each in daemon.containers() if each.labels["io.kubernetes.pod.name"] == f"{name}-crisp-node"]
    daemon.runtime.StopContainer(api.StopContainerRequest(container_id=running.id, timeout=0))
    wait_for(lambda: kubelet.container(name, "main").get("restartCount") == 1, "the container", PATIENCE)
    kubelet.wait_ready(name)
    kubelet.delete(name)


def test_a_job_runs_to_its_end(kubelet: Kubelet) -> None:
    job = pod("job", container("main", shell("echo done")), restartPolicy="Never")
    name = kubelet.apply(job)
    wait_for(lambda: kubelet.container(name, "main").get("state", {}).get("terminated"), "its end", PATIENCE)
    assert kubelet.container(name, "main")["state"]["terminated"]["exitCode"] == 0
    assert kubelet.log(name, "main") == "done\n"
    kubelet.delete(name)
