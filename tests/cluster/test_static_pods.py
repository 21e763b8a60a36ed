"""A real kubelet on crisp: what pods are promised, as far as kubelet alone can promise it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from proto import api_pb2 as api
from tests import golang
from tests.cluster.kubelet import PATIENCE, Kubelet, kubelet_of
from tests.cluster.manifests import container, exec_probe, forever, pod, shell
from tests.failpoints.serving import Daemon, serving, wait_for

pytestmark = [
    pytest.mark.leaks("module"),
    pytest.mark.skipif(golang.is_missing(), reason="needs Go, which builds kubelet"),
    pytest.mark.timeout(300),
]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with serving(failpoints=None, pool=2) as found:
        yield found


@pytest.fixture(scope="module")
def kubelet(daemon: Daemon) -> Iterator[Kubelet]:
    with kubelet_of(daemon) as found:
        yield found


def test_init_containers_and_sidecars_run_before_the_others_and_share_volumes(kubelet: Kubelet) -> None:
    volume = {"volumeMounts": [{"name": "work", "mountPath": "/work"}]}
    name = kubelet.apply(
        pod(
            "order",
            container("main", forever("cat /work/order; echo main >>/work/order"), **volume),
            initContainers=[
                container("init", shell("echo init >>/work/order"), **volume),
                container("side", forever("echo side >>/work/order"), restartPolicy="Always", **volume),
            ],
            volumes=[{"name": "work", "emptyDir": {}}],
        )
    )
    kubelet.wait_ready(name)
    wait_for(lambda: kubelet.log(name, "main") == "init\nside\n", "the order", PATIENCE)
    assert kubelet.container(name, "init")["state"]["terminated"]["reason"] == "Completed"
    kubelet.delete(name)


def test_the_downward_api_and_run_show_the_pod_its_own_name_address_and_labels(kubelet: Kubelet) -> None:
    field = {"valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}
    items = [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]
    name = kubelet.apply(
        pod(
            "downward",
            container(
                "main",
                forever(),
                env=[{"name": "POD_IP", **field}],
                volumeMounts=[{"name": "info", "mountPath": "/etc/podinfo"}],
            ),
            volumes=[{"name": "info", "downwardAPI": {"items": items}}],
        )
    )
    kubelet.wait_ready(name)
    address = kubelet.pod(name)["status"]["podIP"]
    assert f"POD_IP={address}\n" in kubelet.run(name, "main", "env")
    assert kubelet.run(name, "main", "cat /etc/podinfo/labels") == 'app="downward"'
    assert kubelet.run(name, "main", "hostname") == f"{name}-crisp-node\n"
    kubelet.delete(name)


def test_probes_by_command_http_and_tcp_decide_who_is_ready(kubelet: Kubelet) -> None:
    serve = "mkdir /www; echo hello >/www/index.html; httpd -p 8080 -h /www"
    http = {"httpGet": {"path": "/index.html", "port": 8080}, "periodSeconds": 1}
    name = kubelet.apply(
        pod(
            "probed",
            container("http", forever(serve), readinessProbe=http, startupProbe=http),
            container("tcp", forever(), livenessProbe={"tcpSocket": {"port": 8080}, "periodSeconds": 1}),
            container("file", forever(), readinessProbe=exec_probe("test", "-e", "/tmp/ready")),
        )
    )
    wait_for(lambda: kubelet.container(name, "http").get("ready"), "the HTTP probe", PATIENCE)
    assert not kubelet.container(name, "file")["ready"]
    kubelet.run(name, "file", "touch /tmp/ready")
    kubelet.wait_ready(name)
    assert kubelet.container(name, "tcp")["restartCount"] == 0
    kubelet.delete(name)


def test_a_liveness_probe_that_takes_too_long_restarts_the_container(kubelet: Kubelet) -> None:
    note = "test -e /tmp/was && touch /tmp/once; touch /tmp/was"
    probe = exec_probe("sh", "-c", "test -e /tmp/once || sleep 60", timeoutSeconds=1, failureThreshold=1)
    volume = {"volumeMounts": [{"name": "tmp", "mountPath": "/tmp"}]}
    name = kubelet.apply(
        pod(
            "slow",
            container("main", forever(note), livenessProbe=probe, **volume),
            volumes=[{"name": "tmp", "emptyDir": {}}],
        )
    )
    wait_for(lambda: kubelet.container(name, "main").get("restartCount") == 1, "the restart", PATIENCE)
    kubelet.wait_ready(name)
    time.sleep(3)  # three more probes, each of which succeeds
    assert kubelet.container(name, "main")["restartCount"] == 1
    kubelet.delete(name)


def test_hooks_run_after_the_start_and_before_the_stop(kubelet: Kubelet) -> None:
    hooks = {
        "postStart": {"exec": {"command": shell("echo post >/proc/1/fd/1")}},
        "preStop": {"exec": {"command": shell("echo pre >/proc/1/fd/1; sleep 0.5")}},
    }
    name = kubelet.apply(pod("hooked", container("main", forever("echo started"), lifecycle=hooks)))
    kubelet.wait_ready(name)
    wait_for(lambda: "post\n" in kubelet.log(name, "main"), "postStart", PATIENCE)
    uid = kubelet.pod(name)["metadata"]["uid"]
    log = kubelet.folder / "logs" / f"default_{name}-crisp-node_{uid}" / "main/0.log"
    kept = os.open(log, os.O_RDONLY)
    try:
        kubelet.delete(name)
        assert b"stdout F pre\n" in os.read(kept, 1 << 16)
    finally:
        os.close(kept)


def test_a_crashing_container_is_restarted_with_its_log_code_and_message_kept(kubelet: Kubelet) -> None:
    crash = "echo attempt $(date +%s%N); echo because >/dev/termination-log; exit 3"
    name = kubelet.apply(pod("crashing", container("main", shell(crash)), container("other", forever())))
    wait_for(lambda: kubelet.container(name, "main").get("restartCount", 0) >= 1, "a restart", PATIENCE)
    last = kubelet.container(name, "main")["lastState"]["terminated"]
    assert (last["exitCode"], last["reason"], last["message"]) == (3, "Error", "because\n")
    # When an attempt ends, kubelet removes the one before it at once and says so in the pod's
    # status a moment later: until then "previous" names a container that is gone.
    wait_for(
        lambda: kubelet.log(name, "main", "?previous=true").startswith("attempt "),
        "the log of the attempt before",
        PATIENCE,
    )
    assert kubelet.container(name, "other")["restartCount"] == 0
    kubelet.delete(name)


def test_a_container_above_its_memory_limit_is_reported_as_oom_killed(kubelet: Kubelet) -> None:
    eater = container("main", shell("tail /dev/zero"), resources={"limits": {"memory": "24Mi"}})
    name = kubelet.apply(pod("eater", eater, restartPolicy="Never"))
    wait_for(lambda: kubelet.container(name, "main").get("state", {}).get("terminated"), "its end", PATIENCE)
    ended = kubelet.container(name, "main")["state"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")
    kubelet.delete(name)


def test_a_long_log_is_rotated_and_no_line_is_lost(kubelet: Kubelet) -> None:
    talk = "i=0; while [ $i -lt 4000 ]; do echo line $i of a log that grows; i=$((i+1)); done; touch /tmp/done"
    name = kubelet.apply(pod("talker", container("main", forever(talk))))
    kubelet.wait_ready(name)
    uid = kubelet.pod(name)["metadata"]["uid"]
    folder = kubelet.folder / "logs" / f"default_{name}-crisp-node_{uid}" / "main"
    wait_for(lambda: len(list(folder.iterdir())) > 1, "a rotated log", PATIENCE)
    wait_for(lambda: kubelet.run(name, "main", "ls /tmp") == "done\n", "the last line", PATIENCE)
    rotated = min(folder.glob("0.log.*")).read_text()
    current = (folder / "0.log").read_text()
    lines = [line.split(" ", 3)[3].split()[1] for line in (rotated + current).splitlines()]
    assert lines == [str(number) for number in range(4000)]
    kubelet.delete(name)


def test_the_summary_has_the_cpu_memory_and_disk_of_each_container(kubelet: Kubelet) -> None:
    name = kubelet.apply(pod("counted", container("main", forever("dd if=/dev/zero of=/file bs=1M count=4"))))
    kubelet.wait_ready(name)

    def stats() -> dict[str, dict[str, int]]:
        found = (kubelet.summary(name) or {}).get("containers") or [{}]
        return dict(found[0])

    wait_for(lambda: stats().get("rootfs", {}).get("usedBytes", 0) >= 4 << 20, "the writable layer", PATIENCE)
    assert stats()["cpu"]["usageCoreNanoSeconds"] > 0
    assert stats()["memory"]["workingSetBytes"] > 0
    kubelet.delete(name)


def test_what_is_stopped_behind_kubelets_back_comes_back(kubelet: Kubelet, daemon: Daemon) -> None:
    name = kubelet.apply(pod("stopped", container("main", forever())))
    kubelet.wait_ready(name)
    [running] = [each for each in daemon.containers() if each.labels["io.kubernetes.pod.name"] == f"{name}-crisp-node"]
    daemon.runtime.StopContainer(api.StopContainerRequest(container_id=running.id, timeout=0))
    wait_for(lambda: kubelet.container(name, "main").get("restartCount") == 1, "the container", PATIENCE)
    kubelet.wait_ready(name)
    daemon.stop_pod(running.pod_sandbox_id)
    wait_for(lambda: ready_sandbox(daemon, name) not in ("", running.pod_sandbox_id), "another sandbox", PATIENCE)
    kubelet.wait_ready(name)
    kubelet.delete(name)


def ready_sandbox(daemon: Daemon, pod_name: str) -> str:
    """The id of the pod's ready sandbox, empty while there is none."""
    for each in daemon.pods():
        if each.metadata.name == f"{pod_name}-crisp-node" and each.state == api.SANDBOX_READY:
            return str(each.id)
    return ""


def test_a_restarted_kubelet_keeps_its_pods(kubelet: Kubelet, daemon: Daemon) -> None:
    name = kubelet.apply(pod("kept", container("main", forever())))
    kubelet.wait_ready(name)
    before = kubelet.container(name, "main")["containerID"]
    kubelet.stop()
    kubelet.start()
    kubelet.wait_ready(name)
    assert kubelet.container(name, "main")["containerID"] == before
    kubelet.delete(name)


def test_a_killed_and_restarted_crisp_loses_no_pod_and_no_line(kubelet: Kubelet, daemon: Daemon) -> None:
    count = "trap 'exit 0' TERM; i=0; while :; do echo $i; i=$((i+1)); sleep 0.01; done"
    name = kubelet.apply(pod("counting", container("main", shell(count))))
    kubelet.wait_ready(name)
    before = kubelet.container(name, "main")["containerID"]
    daemon.kill()
    time.sleep(1)
    daemon.start()
    kubelet.wait_ready(name)
    time.sleep(2)  # a relist or two: nothing may be restarted
    assert kubelet.container(name, "main")["containerID"] == before
    assert kubelet.container(name, "main")["restartCount"] == 0
    numbers = kubelet.log(name, "main").split()
    assert numbers == [str(number) for number in range(len(numbers))] and len(numbers) > 100
    kubelet.delete(name)


def test_a_removed_manifest_leaves_nothing(kubelet: Kubelet, daemon: Daemon) -> None:
    name = kubelet.apply(pod("gone", container("main", forever())))
    kubelet.wait_ready(name)
    kubelet.delete_all()
    assert daemon.containers() == []
    assert daemon.fsck() == []
    assert list((daemon.state / "pods").iterdir()) == [
        each for each in (daemon.state / "pods").iterdir() if (each / "monitor.sock").exists()
    ]  # what waits blank
