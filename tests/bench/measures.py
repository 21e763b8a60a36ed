"""What is measured: one function a group of rows, each in turns between the endpoints.

A busy machine is then busy for all, and what one leaves to the kernel to do does not
always fall on the same other.

Invariant: each function leaves the endpoints without pods of ours.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from proto import api_pb2 as api
from tests.bench import processes
from tests.bench.endpoint import Endpoint
from tests.bench.report import Samples
from tests.bench.workload import Workload

READY = ("/bin/sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 1000 & wait; done")
IDLE = 0.5
"""Seconds that let a warm pool fill again and the kernel take old namespaces away."""
DRAIN = 8
"""Pods one after another that no pool of the default size has."""
WIDTHS = (1, 4, 16)
LINE = b"x" * 99 + b"\n"
LOG_BYTES = 256 << 20


def turns(ends: Sequence[Endpoint], rounds: int) -> Iterator[tuple[int, Endpoint]]:
    """Every endpoint once a round; the other one begins in the next."""
    for number in range(rounds):
        for end in ends if number % 2 == 0 else reversed(ends):
            yield number, end


def wait_log(path: Path, seconds: float = 20) -> None:
    """Until the container has said something: a signal before that finds no handler."""
    until = time.monotonic() + seconds
    while not (path.exists() and path.stat().st_size):
        if time.monotonic() > until:
            raise TimeoutError(f"nothing in {path}")
        time.sleep(0.002)


def cycle(end: Endpoint, work: Workload, name: str, run: str) -> None:
    """A pod's whole life, each call timed; ``run`` is the row of its RunPodSandbox."""
    with work.prepared([name]):
        began = time.perf_counter()
        sandbox = work.pod(name)
        pod = end.run_pod(sandbox, run)
        container = end.start(pod, sandbox, work.container(*READY))
        wait_log(work.log(name))
        end.exec(container)
        end.stop(container)
        end.remove_pod(pod)
        end.add_time("whole pod cycle", began)


def calls(ends: Sequence[Endpoint], work: Workload, rounds: int) -> None:
    """Each call by itself, after a rest: what a node sees most of the time."""
    for _number, end in turns(ends, 1):
        cycle(end, work, "first", "(first)")
        end.samples.clear()
    for number, end in turns(ends, rounds):
        time.sleep(IDLE)
        cycle(end, work, f"warm-{number}", "RunPodSandbox, bridge, warm pool")
        host_network(end, work, f"host-{number}")
    for number, end in turns(ends, max(3, rounds // 5)):
        time.sleep(IDLE)
        drained(end, work, f"drained-{number}")


def host_network(end: Endpoint, work: Workload, name: str) -> None:
    with work.prepared([name]):
        end.discard(end.run_pod(work.pod(name, host_network=True), "RunPodSandbox, host network"))


def drained(end: Endpoint, work: Workload, name: str) -> None:
    """RunPodSandbox right behind others that took what a pool had."""
    names = [f"{name}-{n}" for n in range(DRAIN + 1)]
    with work.prepared(names):
        pods = [end.run_pod(work.pod(each), "(drain)") for each in names[:-1]]
        pods.append(end.run_pod(work.pod(names[-1]), "RunPodSandbox, bridge, pool drained"))
        for pod in pods:
            end.discard(pod)


def parallel(ends: Sequence[Endpoint], work: Workload, rounds: int) -> None:
    """Whole cycles a second with 1, 4 and 16 clients at once."""
    for width in WIDTHS:
        for number, end in turns(ends, rounds):
            time.sleep(IDLE)
            at_once(end, work, width, f"parallel-{width}-{number}")


def at_once(end: Endpoint, work: Workload, width: int, name: str) -> None:
    kept, end.samples = end.samples, Samples()  # the rows of single calls are of calls that are alone
    count = max(8, 2 * width)
    began = time.perf_counter()
    with ThreadPoolExecutor(width) as pool:
        list(pool.map(lambda n: cycle(end, work, f"{name}-{n}", "(parallel)"), range(count)))
    took = time.perf_counter() - began
    end.samples = kept
    end.samples.add(f"whole pod cycles, {width} at once", count / took, "pods/s")


def burst(ends: Sequence[Endpoint], work: Workload, count: int, rounds: int) -> None:
    """``count`` pods up, 16 at once; lists and statistics with all of them; then down."""
    names = [f"burst-{n}" for n in range(count)]
    for number in range(rounds):
        with work.prepared(names), contextlib.ExitStack() as stack:
            ids: dict[str, list[str]] = {}
            for _number, end in turns(ends[:: 1 if number % 2 == 0 else -1], 1):
                ids[end.address] = pods = burst_up(end, work, names)
                stack.callback(burst_down, end, pods)
            listing(ends, ids, count)


def burst_up(end: Endpoint, work: Workload, names: list[str]) -> list[str]:
    """The ids of these pods, each with a container."""
    began = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        run = f"RunPodSandbox, bridge, burst of {len(names)}"
        pods = list(pool.map(lambda name: end.run_pod(work.pod(name), run), names))
    end.samples.add(f"burst of {len(names)}, up", len(names) / (time.perf_counter() - began), "pods/s")
    for pod, name in zip(pods, names, strict=True):
        request = api.CreateContainerRequest(pod_sandbox_id=pod, config=work.container(*READY))
        request.sandbox_config.CopyFrom(work.pod(name))
        container = end.runtime.CreateContainer(request).container_id
        end.runtime.StartContainer(api.StartContainerRequest(container_id=container))
    return pods


def burst_down(end: Endpoint, pods: list[str]) -> None:
    began = time.perf_counter()
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(end.discard, pods))
    end.samples.add(f"burst of {len(pods)}, down", len(pods) / (time.perf_counter() - began), "pods/s")


def listing(ends: Sequence[Endpoint], ids: dict[str, list[str]], count: int) -> None:
    """The lists, and what a sweep costs the daemon and whoever it asks."""
    root = processes.cgroup_root()
    asked = {
        end.address: {end.server_pid()} | processes.keepers(set(processes.members(ids[end.address], root)))
        for end in ends
    }
    for _number, end in turns(ends, 20):
        end.timed(f"ListContainers, {count} pods", end.runtime.ListContainers, api.ListContainersRequest())
    for _number, end in turns(ends, 20):
        before = processes.cpu_seconds(asked[end.address])
        request = api.ListContainerStatsRequest()
        answer = end.timed(f"ListContainerStats, {count} pods", end.runtime.ListContainerStats, request)
        if len(answer.stats) < count:
            raise AssertionError(f"{end.name}: {len(answer.stats)} statistics of {count} containers")
        spent = (processes.cpu_seconds(asked[end.address]) - before) * 1e3
        end.samples.add(f"CPU time of one cgroup sweep, {count} pods", spent, "ms")
    for name, of_pods in (
        ("ListPodSandboxStats", api.ListPodSandboxStatsRequest()),
        ("ListPodSandboxMetrics", api.ListPodSandboxMetricsRequest()),
    ):
        for _number, end in turns(ends, 20):
            before = processes.cpu_seconds(asked[end.address])
            end.timed(f"{name}, {count} pods", getattr(end.runtime, name), of_pods)
            spent = (processes.cpu_seconds(asked[end.address]) - before) * 1e3
            end.samples.add(f"CPU time of one {name}, {count} pods", spent, "ms")


def log_speed(ends: Sequence[Endpoint], work: Workload, rounds: int) -> None:
    """100-byte lines from the container's pipe to its log file, container start included."""
    with (work.folder / "lines").open("wb") as file:
        for _ in range(LOG_BYTES // len(LINE) // 4096):
            file.write(LINE * 4096)
    size = (work.folder / "lines").stat().st_size
    for number, end in turns(ends, rounds):
        log_once(end, work, f"log-{number}", size)


def log_once(end: Endpoint, work: Workload, name: str, size: int) -> None:
    config = work.container("/bin/cat", "/lines")
    config.mounts.append(api.Mount(host_path=str(work.folder / "lines"), container_path="/lines", readonly=True))
    with work.prepared([name]):
        sandbox = work.pod(name)
        pod = end.run_pod(sandbox, "(log)")
        create = api.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=sandbox)
        container = end.runtime.CreateContainer(create).container_id
        began = time.perf_counter()
        end.runtime.StartContainer(api.StartContainerRequest(container_id=container))
        wait_exit(end, container)
        took = time.perf_counter() - began
        written = work.log(name).stat().st_size
        end.discard(pod)
    if written < size:
        raise AssertionError(f"{end.name}: {written} bytes in the log of {size}")
    end.samples.add("log, 100-byte lines", size / 1e6 / took, "MB/s")


def wait_exit(end: Endpoint, container: str) -> None:
    request = api.ContainerStatusRequest(container_id=container)
    while end.runtime.ContainerStatus(request).status.state != api.CONTAINER_EXITED:
        time.sleep(0.01)


def memory(ends: Sequence[Endpoint], work: Workload, count: int = 20) -> None:
    """Private memory a pod, after its container has started, logged 1 MB and served one exec."""
    names = [f"memory-{number}" for number in range(count)]
    for _number, end in turns(ends, 1):
        with work.prepared(names):
            time.sleep(IDLE)
            before = processes.private_bytes(end.server_pid())
            pods = [memory_pod(end, work, name) for name in names]
            time.sleep(IDLE)
            for pod, container in pods:
                end.samples.add("private memory a pod, monitor or shim and pause", pod_memory(pod, container), "MB")
            grown = processes.private_bytes(end.server_pid()) - before
            end.samples.add("daemon growth a pod", grown / count / 1e6, "MB")
            for pod, _container in pods:
                end.discard(pod)


def memory_pod(end: Endpoint, work: Workload, name: str) -> tuple[str, str]:
    """Sandbox and container."""
    sandbox = work.pod(name)
    pod = end.run_pod(sandbox, "(memory)")
    script = "yes 123456789 | head -c 1000000; while :; do sleep 1000 & wait; done"
    config = work.container("/bin/sh", "-c", script)
    create = api.CreateContainerRequest(pod_sandbox_id=pod, config=config, sandbox_config=sandbox)
    container = end.runtime.CreateContainer(create).container_id
    end.runtime.StartContainer(api.StartContainerRequest(container_id=container))
    until = time.monotonic() + 20
    while not work.log(name).exists() or work.log(name).stat().st_size < 1_000_000:
        if time.monotonic() > until:
            raise TimeoutError(f"less than 1 MB in {work.log(name)}")
        time.sleep(0.01)
    end.runtime.ExecSync(api.ExecSyncRequest(container_id=container, cmd=["/bin/true"], timeout=10))
    return pod, container


def pod_memory(pod: str, container: str) -> float:
    """Megabytes of pause and of the process that keeps the pod; not those of the workload."""
    root = processes.cgroup_root()
    pause, workload = (set(processes.members([id], root)) for id in (pod, container))
    pids = (pause - workload) | processes.keepers(pause | workload)
    return sum(map(processes.private_bytes, pids)) / 1e6
