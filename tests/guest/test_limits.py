"""Limits of containers in the one tree of cgroup v2: as asked, changed, refused, and what they do."""

from __future__ import annotations

import os

import grpc
import pytest

from proto import api_pb2 as api
from tests.failpoints.serving import wait_for
from tests.guest.service import PATIENCE, Service, cgroup_of, keyed, read

MIB = 1 << 20
DISK = "/dev/vda"
"""One that is only read from: the sources'."""

HOLD = "dd if=/dev/zero of=/dev/shm/held bs=1M count=%d 2>/dev/null; echo held; while :; do sleep 1000; done"
"""Memory that the kernel cannot give back without swap: a file in a tmpfs."""


HUNGRY = ("tail", "-c", "99000000", "/dev/zero")
"""Keeps the last 99 MB of what never ends."""


def test_a_container_has_the_limits_that_were_asked_for(crisp: Service) -> None:
    container = crisp.start_container(
        cpu_shares=512,
        cpu_quota=20_000,
        cpu_period=50_000,
        cpuset_cpus="1",
        cpuset_mems="0",
        memory_limit_in_bytes=64 * MIB,
        unified={"memory.high": str(48 * MIB), "pids.max": "50"},
        hugepage_limits=[api.HugepageLimit(page_size="2MB", limit=4 * MIB)],
    )
    files = ("cpu.weight", "cpu.max", "cpuset.cpus", "cpuset.cpus.effective", "memory.max", "memory.high", "pids.max")
    assert [read(container, file) for file in files] == [
        *("59", "20000 50000", "1", "1", str(64 * MIB), str(48 * MIB), "50")
    ]
    assert [read(container, f"hugetlb.2MB.{file}") for file in ("max", "rsvd.max")] == [str(4 * MIB)] * 2
    assert crisp.execute(container, "grep", "Cpus_allowed_list", "/proc/self/status").stdout.split()[-1] == b"1"
    linux = crisp.status(container).resources.linux
    assert (linux.cpu_shares, linux.cpu_quota, linux.cpu_period) == (512, 20_000, 50_000)
    assert (linux.memory_limit_in_bytes, linux.cpuset_cpus) == (64 * MIB, "1")


def test_a_container_sees_its_own_cgroup_and_cannot_change_it(crisp: Service) -> None:
    container = crisp.start_container(memory_limit_in_bytes=64 * MIB)
    assert crisp.execute(container, "cat", "/proc/1/cgroup").stdout == b"0::/\n"
    assert crisp.execute(container, "cat", "/sys/fs/cgroup/memory.max").stdout.strip() == b"%d" % (64 * MIB)
    refused = crisp.execute(container, "sh", "-c", "echo max >/sys/fs/cgroup/memory.max")
    assert refused.exit_code != 0 and b"Read-only" in refused.stderr


def test_an_update_changes_what_it_gives_and_nothing_else(crisp: Service) -> None:
    container = crisp.start_container(memory_limit_in_bytes=64 * MIB, cpu_shares=1024, cpu_quota=50_000)
    crisp.update(container, memory_limit_in_bytes=256 * MIB, cpu_shares=2048)
    assert [read(container, file) for file in ("memory.max", "cpu.weight")] == [str(256 * MIB), "174"]
    assert read(container, "cpu.max") == "50000 100000"
    crisp.update(container, memory_limit_in_bytes=32 * MIB, cpu_quota=10_000, cpu_period=20_000, cpuset_cpus="0-1")
    files = ("memory.max", "cpu.max", "cpuset.cpus.effective")
    assert [read(container, file) for file in files] == [str(32 * MIB), "10000 20000", "0-1"]
    crisp.update(container, cpu_quota=-1, unified={"pids.max": "40"})
    assert [read(container, file) for file in ("cpu.max", "pids.max")] == ["max 20000", "40"]


def test_a_limit_below_what_is_used_is_refused_and_nobody_is_killed(crisp: Service) -> None:
    container = crisp.start_container("sh", "-c", HOLD % 30, memory_limit_in_bytes=96 * MIB, cpu_shares=512)
    crisp.says(container, "held")
    with pytest.raises(grpc.RpcError) as refused:
        crisp.update(container, memory_limit_in_bytes=20 * MIB, cpu_shares=99)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "below the" in str(refused.value.details())
    assert [read(container, file) for file in ("memory.max", "cpu.weight")] == [str(96 * MIB), "59"]
    assert keyed(container, "memory.events")["oom_kill"] == 0
    status = crisp.status(container)
    assert status.state == api.CONTAINER_RUNNING
    assert status.resources.linux.memory_limit_in_bytes == 96 * MIB
    crisp.update(container, memory_limit_in_bytes=64 * MIB)
    assert read(container, "memory.max") == str(64 * MIB)


def test_of_a_cpu_set_that_the_pod_has_but_a_part_that_part_is_told(crisp: Service) -> None:
    container = crisp.start_container(cpuset_cpus="0")
    (cgroup_of(container).parent / "cpuset.cpus").write_text("1")
    crisp.update(container, cpuset_cpus="0-1")
    assert crisp.status(container).resources.linux.cpuset_cpus == read(container, "cpuset.cpus.effective") == "1"
    assert crisp.execute(container, "grep", "Cpus_allowed_list", "/proc/self/status").stdout.split()[-1] == b"1"


def test_a_container_that_outgrows_its_limit_is_reported_as_killed_for_memory(crisp: Service) -> None:
    pod = crisp.pod()
    sandbox = crisp.run_pod(pod)
    linux = {"resources": {"memory_limit_in_bytes": 16 * MIB}}
    container = crisp.run(sandbox, pod, *HUNGRY, linux=linux)
    neighbour = crisp.run(sandbox, pod, name="neighbour")
    status = crisp.wait_exit(container)
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)
    assert crisp.status(neighbour).state == api.CONTAINER_RUNNING


def test_processes_are_bounded_in_the_container_and_in_what_is_executed_in_it(crisp: Service) -> None:
    container = crisp.start_container(unified={"pids.max": "10"})
    bomb = "i=0; while [ $i -lt 20 ]; do sleep 5 & i=$((i+1)); done; wait"
    assert b"fork" in crisp.execute(container, "sh", "-c", bomb).stderr
    assert keyed(container, "pids.events")["max"] > 0
    assert crisp.status(container).state == api.CONTAINER_RUNNING


def test_devices_that_were_not_asked_for_cannot_be_opened_whatever_is_made(crisp: Service) -> None:
    container = crisp.start_container()
    number = os.stat(DISK).st_rdev
    disk = f"b {os.major(number)} {os.minor(number)}"
    script = f"mknod /d {disk} && mknod /z c 1 5 && head -c1 /z >/dev/null && echo zero; head -c1 /d"
    answer = crisp.execute(container, "sh", "-c", script)
    assert answer.stdout == b"zero\n" and b"not permitted" in answer.stderr
    pod = crisp.pod()
    device = api.Device(host_path=DISK, container_path="/dev/disk", permissions="r")
    asked = crisp.run(crisp.run_pod(pod), pod, devices=[device])
    assert crisp.execute(asked, "head", "-c1", "/dev/disk").exit_code == 0
    for refused in ("true >>/dev/disk", f"mknod /d {disk} && true >>/d"):
        assert b"not permitted" in crisp.execute(asked, "sh", "-c", refused).stderr


def test_a_privileged_container_may_open_every_device(crisp: Service) -> None:
    pod = crisp.pod(linux={"security_context": {"privileged": True}})
    container = crisp.run(crisp.run_pod(pod), pod, linux={"security_context": {"privileged": True}})
    assert crisp.execute(container, "head", "-c1", DISK).exit_code == 0


def test_a_pods_own_cgroup_holds_for_all_its_containers(crisp: Service) -> None:
    container = crisp.start_container("sh", "-c", HOLD % 20)
    crisp.says(container, "held")
    sandbox = crisp.pods()[0].id
    resources = api.LinuxContainerResources(memory_limit_in_bytes=128 * MIB, cpu_quota=80_000, cpu_period=100_000)
    crisp.runtime.UpdatePodSandboxResources(
        api.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox, resources=resources)
    )
    pod = cgroup_of(container).parent
    assert (pod / "memory.max").read_text() == f"{128 * MIB}\n" and (pod / "cpu.max").read_text() == "80000 100000\n"
    assert not (pod / "cgroup.procs").read_text(), "no process is in an inner cgroup"
    low = api.LinuxContainerResources(memory_limit_in_bytes=8 * MIB)
    with pytest.raises(grpc.RpcError, match="below the"):
        crisp.runtime.UpdatePodSandboxResources(
            api.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox, resources=low)
        )
    assert keyed(container, "memory.events")["oom_kill"] == 0


def test_a_throttled_container_is_slowed_down_and_says_so(crisp: Service) -> None:
    container = crisp.start_container("sh", "-c", "while :; do :; done", cpu_quota=10_000, cpu_period=100_000)
    wait_for(lambda: keyed(container, "cpu.stat")["nr_throttled"] > 3, "the container to be throttled", PATIENCE)
