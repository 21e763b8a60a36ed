"""A kubelet that has its statistics from the CRI, streams its lists, hears of events and has options for mounts,
on crisp."""

from __future__ import annotations

import re
import urllib.request
from collections import Counter
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proto import api_pb2 as api
from tests import golang
from tests.cluster.kubelet import PATIENCE, Kubelet, kubelet_of
from tests.cluster.manifests import container, forever, pod, shell
from tests.cri.harness import DEMO_IMAGE
from tests.failpoints.serving import Daemon, serving, wait_for
from tests.ports import free_port

pytestmark = [
    pytest.mark.leaks("module"),
    pytest.mark.skipif(golang.is_missing(), reason="needs Go, which builds kubelet"),
    pytest.mark.timeout(300),
]

GATES = {
    "PodAndContainerStatsFromCRI": True,
    "CRIListStreaming": True,
    "EventedPLEG": True,
    "VolumeBindMountOptions": True,
}
VERBOSE = {"generic": 5, "evented": 4}
"""kubelet's files that say which pods it lists anew, and why."""

STATS = ("ListPodSandboxStats", "StreamPodSandboxStats")
METRICS = ("ListPodSandboxMetrics", "StreamPodSandboxMetrics")
TIMES = 5
ENDS = 8
"""kubelet lists all pods once a second. An end that it comes across in that list is one it might have heard of a
moment later; that all of so many are, chance does not bring about."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with serving(failpoints=None, pool=2, metrics=f"127.0.0.1:{free_port()}") as found:
        yield found


@pytest.fixture(scope="module")
def kubelet(daemon: Daemon) -> Iterator[Kubelet]:
    with kubelet_of(daemon, VERBOSE, **GATES) as found:
        yield found


def answered(daemon: Daemon, *rpcs: str) -> int:
    """How many calls of these the daemon has answered, as it counts them."""
    with urllib.request.urlopen(f"http://{daemon.metrics}/metrics") as answer:
        families = text_string_to_metric_families(answer.read().decode())
    found: Counter[str] = Counter()
    for sample in (sample for family in families for sample in family.samples):
        if sample.name == "crisp_operations_total" and sample.labels["code"] == "OK":
            found[sample.labels["rpc"]] += int(sample.value)
    return sum(found[rpc] for rpc in rpcs)


def stats_of(daemon: Daemon, pod: str) -> api.LinuxPodSandboxStats:
    every = daemon.runtime.ListPodSandboxStats(api.ListPodSandboxStatsRequest()).stats
    [found] = [each.linux for each in every if each.attributes.metadata.name == f"{pod}-crisp-node"]
    assert isinstance(found, api.LinuxPodSandboxStats)
    return found


def test_the_summary_comes_from_the_cri_with_the_pods_network(kubelet: Kubelet, daemon: Daemon) -> None:
    name = kubelet.apply(pod("counted", container("main", forever("dd if=/dev/zero of=/file bs=1M count=4"))))
    kubelet.wait_ready(name)

    def written() -> int:
        found = (kubelet.summary(name) or {}).get("containers") or [{}]
        return int(found[0].get("rootfs", {}).get("usedBytes", 0))

    wait_for(lambda: written() >= 4 << 20, "the writable layer", PATIENCE)
    before, counted = stats_of(daemon, name), answered(daemon, *STATS)
    found = [kubelet.summary(name) for _ in range(TIMES)][-1]
    assert answered(daemon, *STATS) >= counted + TIMES
    after = stats_of(daemon, name)
    for figures, first, last in (
        (found, before, after),
        (found["containers"][0], before.containers[0], after.containers[0]),
    ):
        used = figures["cpu"]["usageCoreNanoSeconds"]
        assert 0 < first.cpu.usage_core_nano_seconds.value <= used <= last.cpu.usage_core_nano_seconds.value
        assert figures["memory"]["workingSetBytes"] > 0
    assert found["network"]["name"] == "eth0"
    sent = [each.network.default_interface.tx_bytes.value for each in (before, after)]
    assert sent[0] <= found["network"]["txBytes"] <= sent[1]
    assert found["process_stats"]["process_count"] >= 1
    kubelet.delete(name)


def test_the_metrics_of_cadvisor_come_from_the_cri(kubelet: Kubelet, daemon: Daemon) -> None:
    name = kubelet.apply(pod("measured", container("main", forever())))
    kubelet.wait_ready(name)

    def metrics() -> str:
        return kubelet.ask("/metrics/cadvisor").decode()

    of_the_pod = f'pod="{name}-crisp-node"'
    wait_for(lambda: of_the_pod in metrics(), "the metrics", PATIENCE)
    counted = answered(daemon, *METRICS)
    found = [[line for line in metrics().splitlines() if of_the_pod in line] for _ in range(TIMES)][-1]
    assert answered(daemon, *METRICS) >= counted + TIMES
    for family in ("container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_network_"):
        assert any(line.startswith(family) for line in found), (family, found)
    kubelet.delete(name)


def test_lists_are_streamed(kubelet: Kubelet, daemon: Daemon) -> None:
    streams = ("StreamPodSandboxes", "StreamContainers")
    wait_for(lambda: all(answered(daemon, each) for each in streams), "the streams", PATIENCE)


def test_kubelet_has_one_stream_of_events_and_hears_each(kubelet: Kubelet, daemon: Daemon) -> None:
    def heard() -> float:
        return kubelet.metrics()["kubelet_evented_pleg_connection_latency_seconds_count"]

    name = kubelet.apply(pod("heard", container("main", forever())))
    kubelet.wait_ready(name)
    [running] = running_in(daemon, name)
    before = heard()
    daemon.runtime.StopContainer(api.StopContainerRequest(container_id=running.id, timeout=0))
    wait_for(lambda: any(running.id in line for line in relists_asked_for(kubelet)), "the end to be heard of", PATIENCE)
    wait_for(lambda: kubelet.container(name, "main").get("restartCount") == 1, "the container", PATIENCE)
    wait_for(lambda: heard() >= before + 3, "the end, and a container made and started", PATIENCE)
    found = kubelet.metrics()
    assert found["kubelet_evented_pleg_connection_success_count_total"] == 1
    assert found["kubelet_evented_pleg_connection_error_count_total"] == 0
    kubelet.delete(name)


def relists_asked_for(kubelet: Kubelet) -> list[str]:
    return [line for line in kubelet.said() if "requested pod relist after container termination" in line]


def running_in(daemon: Daemon, pod: str) -> list[api.Container]:
    named = [each for each in daemon.containers() if each.labels["io.kubernetes.pod.name"] == f"{pod}-crisp-node"]
    return [each for each in named if each.state == api.CONTAINER_RUNNING]


def test_an_end_that_nobody_asked_for_is_found_by_listing_that_pod_alone(kubelet: Kubelet, daemon: Daemon) -> None:
    manifests = [pod(f"ends-{n}", container("main", forever()), restartPolicy="Never") for n in range(ENDS)]
    names = [kubelet.apply(each) for each in manifests]
    for name in names:
        kubelet.wait_ready(name)
    found = []
    for name in names:
        [running] = running_in(daemon, name)
        daemon.runtime.StopContainer(api.StopContainerRequest(container_id=running.id, timeout=0))
        wait_for(lambda id=running.id: listing_before_the_end(kubelet, id), f"the end of {name}", PATIENCE)  # type: ignore[misc]
        found.append(listing_before_the_end(kubelet, running.id))
        if found[-1] == f'Relisting Pod" podUID="{running.labels["io.kubernetes.pod.uid"]}"':
            break
    else:
        raise AssertionError(f"kubelet came across each of these ends: {found}")
    kubelet.delete(*names)


def listing_before_the_end(kubelet: Kubelet, id: str) -> str:
    """What kubelet had just begun to list when it saw that container ``id`` has ended; empty if it did not yet."""
    listing = ""
    for line in kubelet.said():
        if match := re.search(r'"GenericPLEG: (Relisting.*)$', line):
            listing = match[1]
        elif f'containerID="{id}"' in line and 'oldState="running" newState="exited"' in line:
            return listing
    return ""


def test_init_containers_and_sidecars_run_before_the_others(kubelet: Kubelet) -> None:
    init = [
        container("init", shell("echo once")),
        container("side", forever(), restartPolicy="Always"),
    ]
    name = kubelet.apply(pod("first", container("main", forever()), initContainers=init))
    kubelet.wait_ready(name)
    assert kubelet.container(name, "init")["state"]["terminated"]["reason"] == "Completed"
    assert kubelet.container(name, "init")["restartCount"] == 0
    assert kubelet.container(name, "side")["ready"]
    kubelet.delete(name)


def test_a_job_runs_to_its_end(kubelet: Kubelet) -> None:
    job = pod("job", container("main", shell("echo done")), restartPolicy="Never")
    name = kubelet.apply(job)
    wait_for(lambda: kubelet.container(name, "main").get("state", {}).get("terminated"), "its end", PATIENCE)
    assert kubelet.container(name, "main")["state"]["terminated"]["exitCode"] == 0
    assert kubelet.log(name, "main") == "done\n"
    kubelet.delete(name)


def test_an_image_is_a_volume_and_in_use(kubelet: Kubelet, daemon: Daemon) -> None:
    """As kubelet finds out what it must not collect: by the id that it has named and reads again."""
    mounts = [
        {"name": "model", "mountPath": "/model"},
        {"name": "model", "mountPath": "/part", "subPath": "etc"},
    ]
    volume = {"name": "model", "image": {"reference": DEMO_IMAGE, "pullPolicy": "Never"}}
    looks = forever("ls /model/etc/passwd /part/passwd; touch /model/x 2>&1")
    name = kubelet.apply(pod("model", container("main", looks, volumeMounts=mounts), volumes=[volume]))
    kubelet.wait_ready(name)
    wait_for(lambda: "touch" in kubelet.log(name, "main"), "what it says", PATIENCE)
    shown = ["/model/etc/passwd", "/part/passwd", "touch: /model/x: Read-only file system"]
    assert kubelet.log(name, "main").splitlines() == shown
    (image,) = daemon.images.ListImages(api.ListImagesRequest()).images
    id = kubelet.container(name, "main")["containerID"].partition("://")[2]
    status = daemon.runtime.ContainerStatus(api.ContainerStatusRequest(container_id=id)).status
    volumes = [mount.image for mount in status.mounts if mount.HasField("image")]
    assert [(each.image, each.image_ref) for each in volumes] == [(image.id, image.id)] * 2
    kubelet.delete(name)


def test_a_missing_sub_path_of_an_image_is_a_reason_that_kubelet_knows(kubelet: Kubelet) -> None:
    mount = {"name": "model", "mountPath": "/model", "subPath": "nothing"}
    volume = {"name": "model", "image": {"reference": DEMO_IMAGE, "pullPolicy": "Never"}}
    name = kubelet.apply(pod("lacking", container("main", forever(), volumeMounts=[mount]), volumes=[volume]))

    def waiting() -> dict[str, str]:
        found: dict[str, str] = kubelet.container(name, "main").get("state", {}).get("waiting", {})
        return found

    wait_for(lambda: waiting().get("reason") == "CreateContainerError", "the reason", PATIENCE)
    assert waiting()["message"].startswith("ImageVolumeMountFailed: nothing: is not in the image")
    kubelet.delete(name)


def test_what_is_mounted_without_exec_runs_nothing(kubelet: Kubelet) -> None:
    mounts = [
        {"name": "work", "mountPath": "/work"},
        {"name": "work", "mountPath": "/still", "bindMountOptions": ["noexec", "nosuid", "nodev"]},
    ]
    volumes = [{"name": "work", "emptyDir": {}}]
    tries = forever("cp /bin/busybox /work/echo; /work/echo ran; /still/echo ran 2>&1; echo tried")
    name = kubelet.apply(pod("still", container("main", tries, volumeMounts=mounts), volumes=volumes))
    kubelet.wait_ready(name)
    wait_for(lambda: "tried" in kubelet.log(name, "main"), "what it says", PATIENCE)
    ran, refused, _ = kubelet.log(name, "main").splitlines()
    assert ran == "ran" and "ermission denied" in refused
    kubelet.delete(name)
