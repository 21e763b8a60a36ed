"""Processes in the one tree of cgroup v2: where those of ExecSync live, how all are killed, what is told."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from proto import api_pb2 as api
from tests.failpoints.serving import wait_for
from tests.guest.service import CGROUPS, PATIENCE, Service, cgroup_of, processes, read
from tests.guest.test_limits import HUNGRY, MIB


@pytest.fixture
def kubepods() -> Iterator[str]:
    """A pod's cgroup as kubelet makes it, with what it enables on the way."""
    parent, path = CGROUPS, "/kubepods/burstable/pod77"
    for name in path[1:].split("/"):
        (parent / "cgroup.subtree_control").write_text("+cpu +cpuset +memory +pids +hugetlb")
        parent = parent / name
        parent.mkdir()
    (parent / "memory.max").write_text(str(256 * MIB))
    yield path
    while parent != CGROUPS:
        parent.rmdir()
        parent = parent.parent


def test_pods_live_where_kubelet_says_and_leave_it_as_it_was(crisp: Service, kubepods: str) -> None:
    pod = crisp.pod(linux={"cgroup_parent": kubepods})
    sandbox = crisp.run_pod(pod)
    container = crisp.run(sandbox, pod, linux={"resources": {"memory_limit_in_bytes": 64 * MIB, "cpu_shares": 512}})
    parent = CGROUPS / kubepods[1:]
    assert (parent / container / "memory.max").read_text() == f"{64 * MIB}\n"
    assert not processes(parent) and len([each for each in parent.iterdir() if each.is_dir()]) == 2
    crisp.remove_pod(sandbox)
    assert not [each for each in parent.iterdir() if each.is_dir()]
    assert (parent / "memory.max").read_text() == f"{256 * MIB}\n"


def test_a_command_has_a_cgroup_below_the_containers_and_shares_its_limits(crisp: Service) -> None:
    container = crisp.start_container(memory_limit_in_bytes=64 * MIB)
    folder = cgroup_of(container)
    assert processes(folder) and not (folder / "cgroup.subtree_control").read_text().split()
    assert crisp.execute(container, "cat", "/proc/self/cgroup").stdout.startswith(b"0::/exec-")
    wait_for(lambda: not [each for each in folder.iterdir() if each.is_dir()], "the command's cgroup to go", PATIENCE)
    assert crisp.execute(container, *HUNGRY).exit_code == 137
    assert crisp.status(container).state == api.CONTAINER_RUNNING


def test_a_timeout_kills_the_whole_command_and_nothing_else(crisp: Service) -> None:
    container = crisp.start_container("sh", "-c", "sleep 1000 & sleep 1000")
    folder = cgroup_of(container)
    before = processes(folder)
    with pytest.raises(grpc.RpcError) as late:
        crisp.execute(container, "sh", "-c", "setsid sleep 500 & setsid sleep 500 & sleep 500", timeout=2)
    assert late.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    wait_for(lambda: not [each for each in folder.iterdir() if each.is_dir()], "the command's cgroup to go", PATIENCE)
    assert processes(folder) == before


def test_a_stop_kills_all_that_runs_in_the_container(crisp: Service) -> None:
    pod = crisp.pod()
    pod.config.linux.security_context.namespace_options.pid = api.POD
    sandbox = crisp.run_pod(pod)
    forking = "trap '' TERM; while :; do setsid sleep 300 & usleep 200000; done"
    container = crisp.run(sandbox, pod, "sh", "-c", forking)
    folder = cgroup_of(container)
    wait_for(lambda: len(processes(folder)) > 4, "some processes", PATIENCE)
    crisp.runtime.StopContainer(api.StopContainerRequest(container_id=container, timeout=1))
    assert crisp.status(container).exit_code == 137
    wait_for(lambda: not folder.exists() or not processes(folder), "all processes to end", PATIENCE)


def test_a_frozen_container_is_stopped_all_the_same(crisp: Service) -> None:
    container = crisp.start_container()
    (cgroup_of(container) / "cgroup.freeze").write_text("1")
    wait_for(lambda: "frozen 1" in read(container, "cgroup.events"), "the container to be frozen", PATIENCE)
    crisp.runtime.StopContainer(api.StopContainerRequest(container_id=container, timeout=1))
    assert crisp.wait_exit(container).exit_code == 137


def test_figures_of_a_container_have_memory_pressure_and_disk(crisp: Service) -> None:
    write = "dd if=/dev/zero of=/file bs=1M count=8 2>/dev/null; sync; echo written; while :; do :; done"
    container = crisp.start_container("sh", "-c", write, memory_limit_in_bytes=64 * MIB, cpu_quota=50_000)
    crisp.says(container, "written")
    stats = crisp.runtime.ContainerStats(api.ContainerStatsRequest(container_id=container)).stats
    assert stats.cpu.usage_core_nano_seconds.value > 0 and stats.cpu.psi.HasField("Some")
    assert 0 < stats.memory.working_set_bytes.value < 64 * MIB
    assert stats.memory.available_bytes.value > 0 and stats.memory.psi.HasField("Full")
    assert stats.io.psi.HasField("Some")
    wait_for(
        lambda: metric(crisp, "container_blkio_device_usage_total") >= 8 * MIB, "what was written to disk", PATIENCE
    )
    waited = "container_pressure_cpu_waiting_seconds_total"
    wait_for(lambda: metric(crisp, waited) > 0, "a second of waiting for a processor", PATIENCE)
    assert metric(crisp, "container_memory_max_usage_bytes") > MIB
    assert metric(crisp, "container_spec_memory_limit_bytes") == 64 * MIB
    assert metric(crisp, "container_cpu_cfs_throttled_periods_total") > 0


def metric(crisp: Service, name: str) -> int:
    """The sum of the values of the one container's metric."""
    (pod,) = crisp.runtime.ListPodSandboxMetrics(api.ListPodSandboxMetricsRequest()).pod_metrics
    (container,) = pod.container_metrics
    return sum(each.value.value for each in container.metrics if each.name == name)


def test_the_monitors_counter_of_kills_is_that_of_the_container(crisp: Service) -> None:
    container = crisp.start_container(memory_limit_in_bytes=32 * MIB)
    crisp.execute(container, *HUNGRY)
    assert "oom_kill 0" not in read(container, "memory.events")
    assert metric(crisp, "container_oom_events_total") >= 1
    assert Path(f"/proc/{processes(cgroup_of(container))[0]}/oom_score_adj").read_text() == "0\n"
