"""Hundreds of RPCs of all kinds at once, and a clock for one that asks for little, each a process of its own.

``python -m tests.cri.flood SOCKET IMAGE COUNT`` prints how they ended (``{"OK": 500}``) and leaves no pod;
``python -m tests.cri.flood SOCKET PID`` asks for the version until its input ends and prints of each call the
seconds that it took, and for how many of them nobody on its way had a CPU: PID is the daemon's.
"""

from __future__ import annotations

import asyncio
import json
import os
import select
import sys
import time
from collections import Counter
from contextlib import ExitStack
from typing import Any

import grpc
import grpc.aio

from proto import api_pb2 as api
from proto import api_pb2_grpc as rpc

PAUSE = 0.005


def pod(number: int) -> api.PodSandboxConfig:
    name = f"flood-{number}"
    config = api.PodSandboxConfig(
        metadata=api.PodSandboxMetadata(name=name, namespace="default", uid=name), hostname=name
    )
    config.linux.security_context.namespace_options.pid = api.CONTAINER
    return config


async def life(runtime: Any, image: str, number: int) -> None:
    """A pod up, a container with a command in it, and down: nine RPCs."""
    config = pod(number)
    sandbox = (await runtime.RunPodSandbox(api.RunPodSandboxRequest(config=config))).pod_sandbox_id
    main = api.ContainerConfig(
        metadata=api.ContainerMetadata(name="main"), image=api.ImageSpec(image=image), command=["sleep", "1000"]
    )
    main.linux.security_context.namespace_options.pid = api.CONTAINER
    request = api.CreateContainerRequest(pod_sandbox_id=sandbox, config=main, sandbox_config=config)
    id = (await runtime.CreateContainer(request)).container_id
    await runtime.StartContainer(api.StartContainerRequest(container_id=id))
    await runtime.ExecSync(api.ExecSyncRequest(container_id=id, cmd=["true"], timeout=60))
    await runtime.UpdateContainerResources(
        api.UpdateContainerResourcesRequest(container_id=id, linux=api.LinuxContainerResources(cpu_shares=512))
    )
    await runtime.ContainerStats(api.ContainerStatsRequest(container_id=id))
    await runtime.StopContainer(api.StopContainerRequest(container_id=id, timeout=0))
    await runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    await runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=sandbox))


async def look(runtime: Any, number: int) -> None:
    """One of the RPCs that only read."""
    calls = (
        lambda: runtime.ListContainers(api.ListContainersRequest()),
        lambda: runtime.ListPodSandbox(api.ListPodSandboxRequest()),
        lambda: runtime.Status(api.StatusRequest()),
        lambda: runtime.ListContainerStats(api.ListContainerStatsRequest()),
        lambda: runtime.ListPodSandboxStats(api.ListPodSandboxStatsRequest()),
    )
    await calls[number % len(calls)]()


async def flood(socket: str, image: str, count: int) -> Counter[str]:
    ends: Counter[str] = Counter()

    async def counted(work: Any) -> None:
        try:
            await work
            ends["OK"] += 1
        except grpc.aio.AioRpcError as error:
            ends[f"{error.code().name}: {str(error.details())[:200]}"] += 1

    async with grpc.aio.insecure_channel(socket) as channel:
        runtime = rpc.RuntimeServiceStub(channel)
        lives = [life(runtime, image, number) for number in range(count // 5)]
        looks = [look(runtime, number) for number in range(count - len(lives))]
        async with asyncio.timeout(300):
            await asyncio.gather(*map(counted, [*lives, *looks]))
    return ends


class RunQueue:
    """What the kernel says of the loop of process ``pid`` (its first thread) and of the thread that is here."""

    def __init__(self, pid: int, undo: ExitStack) -> None:
        paths = f"/proc/{pid}/task/{pid}/schedstat", "/proc/thread-self/schedstat"
        self._files = [os.open(path, os.O_RDONLY) for path in paths]
        for file in self._files:
            undo.callback(os.close, file)

    def waited(self) -> float:
        """Seconds in which the two could have run, so far, and had no CPU (sched-stats.rst of the kernel)."""
        return sum(int(os.pread(file, 100, 0).split()[1]) for file in self._files) / 1e9


def ask_version(socket: str, pid: int) -> list[tuple[float, float]]:
    """Seconds that each call took, and those of them without a CPU."""
    taken = []
    with ExitStack() as undo:
        runtime: Any = rpc.RuntimeServiceStub(undo.enter_context(grpc.insecure_channel(socket)))
        queue = RunQueue(pid, undo)
        runtime.Version(api.VersionRequest())
        print("asking", flush=True)
        while not select.select([sys.stdin], [], [], PAUSE)[0]:
            before, began = queue.waited(), time.perf_counter()
            runtime.Version(api.VersionRequest())
            spent = time.perf_counter() - began
            taken.append((spent, min(spent, queue.waited() - before)))
    return taken


if __name__ == "__main__":
    if len(sys.argv) > 3:
        print(json.dumps(asyncio.run(flood(sys.argv[1], sys.argv[2], int(sys.argv[3])))))
    else:
        print(json.dumps(ask_version(sys.argv[1], int(sys.argv[2]))))
