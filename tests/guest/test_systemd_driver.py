"""The systemd cgroup driver: pods in slices, containers in scopes, over the bus and over systemd's own socket."""

from __future__ import annotations

import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from cri.settings import instance
from proto import api_pb2 as api
from runtime.systemd.names import scope_name
from runtime.systemd.presence import BUS
from tests.failpoints.serving import wait_for
from tests.guest.service import CGROUPS, PATIENCE, Service, cgroup_of, keyed, processes, read, systemctl
from tests.guest.test_limits import HUNGRY, MIB

SETTINGS = Path("/etc/crisp/config.toml")
SLICE = "kubepods-burstable-pod77_1.slice"
PLACE = CGROUPS / "kubepods.slice/kubepods-burstable.slice" / SLICE
NAME = instance("/var/lib/crisp")


@pytest.fixture(autouse=True, scope="module")
def driver(service: Service) -> Iterator[None]:
    """The service with the driver that these tests are about, and at last without a bus; they are the last of its."""
    SETTINGS.parent.mkdir(exist_ok=True)
    SETTINGS.write_text('[cgroup]\ndriver = "systemd"\n')
    service.restart()
    yield
    SETTINGS.unlink()
    systemctl("start", "dbus.socket")


@pytest.fixture
def kubepods(crisp: Service) -> Iterator[str]:
    """A pod's slice as kubelet has it."""
    systemctl("set-property", "--runtime", SLICE, f"MemoryMax={256 * MIB}")
    systemctl("start", SLICE)
    yield SLICE
    crisp.remove_pods()
    systemctl("stop", "kubepods.slice")
    systemctl("revert", SLICE)


def scope_of(id: str) -> str:
    return scope_name(NAME, id)


def shown(unit: str, *names: str) -> dict[str, str]:
    found = systemctl("show", f"--property={','.join(names)}", unit)
    return dict(line.split("=", 1) for line in found.splitlines())


def in_slice(crisp: Service, slice: str) -> tuple[str, api.RunPodSandboxRequest]:
    """A pod's id and what was asked for."""
    pod = crisp.pod(linux={"cgroup_parent": slice})
    return crisp.run_pod(pod), pod


def test_kubelet_is_told_and_only_slices_are_taken(crisp: Service) -> None:
    answer = crisp.runtime.RuntimeConfig(api.RuntimeConfigRequest())
    assert answer.linux.cgroup_driver == api.SYSTEMD
    with pytest.raises(grpc.RpcError) as refused:
        crisp.run_pod(crisp.pod(linux={"cgroup_parent": "/kubepods/pod1"}))
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "no slice" in str(refused.value.details())
    assert subprocess.run(["crisp", "check"], stdout=subprocess.DEVNULL).returncode == 0


def test_a_container_is_a_scope_in_its_pods_slice_with_its_limits_as_properties(crisp: Service, kubepods: str) -> None:
    sandbox, pod = in_slice(crisp, kubepods)
    resources = {
        "memory_limit_in_bytes": 64 * MIB,
        "cpu_shares": 512,
        "cpu_quota": 20_000,
        "cpu_period": 50_000,
        "cpuset_cpus": "1",
        "unified": {"pids.max": "50", "memory.high": str(48 * MIB)},
    }
    container = crisp.run(sandbox, pod, linux={"resources": resources})
    assert cgroup_of(container) == PLACE / scope_of(container) / "container"
    files = ("memory.max", "memory.high", "cpu.weight", "cpu.max", "cpuset.cpus", "pids.max")
    assert [read(container, file) for file in files] == [
        *(str(64 * MIB), str(48 * MIB), "59", "20000 50000", "1", "50")
    ]
    told = shown(
        scope_of(container),
        *("MemoryMax", "MemoryHigh", "CPUWeight", "CPUQuotaPerSecUSec", "CPUQuotaPeriodUSec", "AllowedCPUs"),
        *("TasksMax", "Slice", "Delegate", "ActiveState"),
    )
    assert told == {
        **{"MemoryMax": str(64 * MIB), "MemoryHigh": str(48 * MIB), "CPUWeight": "59", "AllowedCPUs": "1"},
        **{"CPUQuotaPerSecUSec": "400ms", "CPUQuotaPeriodUSec": "50ms", "TasksMax": "51"},
        **{"Slice": kubepods, "Delegate": "yes", "ActiveState": "active"},
    }
    assert shown(scope_of(sandbox), "ActiveState", "TasksMax") == {"ActiveState": "active", "TasksMax": "infinity"}
    assert crisp.execute(container, "cat", "/proc/1/cgroup").stdout == b"0::/\n"
    assert crisp.execute(container, "cat", "/proc/self/cgroup").stdout.startswith(b"0::/exec-")
    crisp.remove_pod(sandbox)
    assert [path.name for path in PLACE.iterdir() if path.is_dir()] == []
    assert not systemctl("list-units", "--all", "--no-legend", f"crisp-{NAME}-*")
    assert (PLACE / "memory.max").read_text() == f"{256 * MIB}\n"


def test_an_update_outlasts_a_reload_of_systemd_and_a_refused_one_changes_no_property(
    crisp: Service, kubepods: str
) -> None:
    sandbox, pod = in_slice(crisp, kubepods)
    container = crisp.run(sandbox, pod, linux={"resources": {"memory_limit_in_bytes": 64 * MIB, "cpu_shares": 512}})
    crisp.update(container, memory_limit_in_bytes=96 * MIB, cpu_quota=50_000, cpu_period=100_000, cpuset_cpus="0")
    systemctl("daemon-reload")
    scope, names = PLACE / scope_of(container), ("memory.max", "cpu.max", "cpu.weight", "cpuset.cpus")
    expected = [str(96 * MIB), "50000 100000", "59", "0"]
    assert [read(container, name) for name in names] == expected
    assert [(scope / name).read_text().strip() for name in names] == expected
    with pytest.raises(grpc.RpcError):
        crisp.update(container, memory_limit_in_bytes=1, cpu_shares=99)
    told = shown(scope_of(container), "MemoryMax", "CPUWeight", "CPUQuotaPerSecUSec")
    assert told == {"MemoryMax": str(96 * MIB), "CPUWeight": "59", "CPUQuotaPerSecUSec": "500ms"}
    assert [read(container, name) for name in names] == expected


def test_a_container_that_outgrows_its_limit_is_killed_for_memory_and_its_counters_stay(
    crisp: Service, kubepods: str
) -> None:
    sandbox, pod = in_slice(crisp, kubepods)
    group = {"unified": {"memory.oom.group": "1"}}
    container = crisp.run(sandbox, pod, *HUNGRY, linux={"resources": {"memory_limit_in_bytes": 16 * MIB, **group}})
    status = crisp.wait_exit(container)
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)
    assert keyed(container, "memory.events")["oom_kill"] > 0
    assert shown(scope_of(container), "ActiveState") == {"ActiveState": "active"}
    assert processes(PLACE / scope_of(container) / "keeper")


def test_a_pod_that_names_no_slice_has_one_of_its_own_with_its_limits(crisp: Service) -> None:
    limits = {"memory_limit_in_bytes": 128 * MIB}
    pod = crisp.pod(linux={"resources": limits})
    sandbox = crisp.run_pod(pod)
    container = crisp.run(sandbox, pod)
    slice = f"system-crisp_{NAME}_{sandbox}.slice"
    folder = CGROUPS / "system.slice" / slice
    assert cgroup_of(container).is_relative_to(folder)
    assert (folder / "memory.max").read_text() == f"{128 * MIB}\n"
    resources = api.LinuxContainerResources(memory_limit_in_bytes=192 * MIB, cpu_quota=80_000, cpu_period=100_000)
    crisp.runtime.UpdatePodSandboxResources(
        api.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox, resources=resources)
    )
    systemctl("daemon-reload")
    assert (folder / "memory.max").read_text() == f"{192 * MIB}\n"
    assert shown(slice, "MemoryMax", "CPUQuotaPerSecUSec") == {
        "MemoryMax": str(192 * MIB),
        "CPUQuotaPerSecUSec": "800ms",
    }
    crisp.remove_pod(sandbox)
    assert not folder.exists() and not systemctl("list-units", "--all", "--no-legend", slice)


def test_a_scope_of_nobody_is_found_and_a_failed_start_leaves_none(crisp: Service) -> None:
    stray = scope_name(NAME, "dead")
    with subprocess.Popen(["systemd-run", "--quiet", "--scope", f"--unit={stray}", "sleep", "1000"]) as process:
        wait_for(lambda: shown(stray, "ActiveState") == {"ActiveState": "active"}, "the scope", PATIENCE)
        assert [finding for finding in crisp.fsck() if stray in finding]
        systemctl("stop", stray)
        process.wait(PATIENCE)
    pod = crisp.pod()
    with pytest.raises(grpc.RpcError, match="no such file"):
        crisp.run(crisp.run_pod(pod), pod, "/no/such/program")
    crisp.remove_pods()
    assert not systemctl("list-units", "--all", "--no-legend", f"crisp-{NAME}-*", f"system-crisp_{NAME}_*")


def test_scopes_survive_a_killed_daemon_and_the_next_needs_no_bus(crisp: Service, kubepods: str) -> None:
    sandbox, pod = in_slice(crisp, kubepods)
    container = crisp.run(sandbox, pod, "sh", "-c", "trap '' TERM; while :; do setsid sleep 300 & usleep 300000; done")
    before = processes(cgroup_of(container))[0]
    systemctl("stop", "dbus.socket", "dbus.service")
    with socket.socket(socket.AF_UNIX) as client, pytest.raises(ConnectionRefusedError):
        client.connect(BUS)
    crisp.kill()
    crisp.connect()
    assert processes(cgroup_of(container))[0] == before
    assert crisp.execute(container, "echo", "hello").stdout == b"hello\n"
    crisp.update(container, memory_limit_in_bytes=96 * MIB)
    assert shown(scope_of(container), "MemoryMax") == {"MemoryMax": str(96 * MIB)}
    crisp.runtime.StopContainer(api.StopContainerRequest(container_id=container, timeout=1))
    assert crisp.status(container).exit_code == 137
    wait_for(lambda: not processes(cgroup_of(container)), "all processes to end", PATIENCE)
    assert shown(scope_of(container), "ActiveState") == {"ActiveState": "active"}
    second = crisp.run(sandbox, pod, name="second")
    assert shown(scope_of(second), "Slice") == {"Slice": kubepods}
    crisp.remove_pod(sandbox)
    assert [path.name for path in PLACE.iterdir() if path.is_dir()] == []
