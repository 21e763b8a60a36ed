"""Thousands of clients of attach and exec that break off: of none anything is left."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import sys
import threading
import time
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.streaming.server import StreamingServer
from proto import api_pb2 as api
from runtime.cgroups import tree
from tests.cri import wired
from tests.cri.harness import Crisp
from tests.cri.test_execs import cgroups
from tests.descriptors import open_descriptors

TREE = Path(__file__).resolve().parents[2]
COUNT = 1000
KINDS = 14
"""Of requests and moments."""
ROOM, MONITORS_ROOM = 8 * 1024, 1024
"""KiB by which memory may differ, 4 for each client; of ten thousand more both keep within half of it."""
OF_GRPC = 4
"""Threads by which gRPC may have more."""


def private(pid: int) -> int:
    """KiB of memory that a process shares with nobody."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Clean", "Private_Dirty")))


def count_things(monitor: int) -> dict[str, int]:
    """What the daemon, which is this process, and a pod's monitor have."""
    return {
        "descriptors": len(open_descriptors()),
        "threads": threading.active_count(),
        "tasks": len(asyncio.all_tasks()),
        "parts of sessions": sum("cri.streaming" in str(type(each).__module__) for each in gc.get_objects()),
        "the monitor's descriptors": len(os.listdir(f"/proc/{monitor}/fd")),
        "the monitor's threads": len(os.listdir(f"/proc/{monitor}/task")),
    }


def more_than(before: dict[str, int], monitor: int) -> dict[str, tuple[int, int]]:
    """What there is more of now."""
    return {name: (before[name], now) for name, now in count_things(monitor).items() if now > before[name]}


def measure(monitor: int) -> tuple[int, int, int]:
    """Threads, those of gRPC too, and the memory of the two."""
    gc.collect()
    return len(os.listdir("/proc/self/task")), private(os.getpid()), private(monitor)


async def abort(crisp: Crisp, id: str, count: int) -> None:
    command = [sys.executable, "-m", "tests.cri.aborts", crisp.host.settings.listen, id, str(count)]
    process = await asyncio.create_subprocess_exec(*command, stdout=PIPE, cwd=TREE)
    out, _ = await process.communicate()
    assert process.returncode == 0
    ended = json.loads(out)
    assert sum(ended.values()) == 2 * count and len(ended) == KINDS, ended


async def settle(crisp: Crisp, id: str, server: StreamingServer) -> None:
    """Until all that the sessions began has ended."""
    plan = decode(crisp.host.store.containers.get(id).plan, ContainerPlan)
    (pod,) = crisp.host.pods.values()
    await crisp.until(lambda: not len(server), 30)
    await crisp.until(lambda: pod.attached == {} and pod.execs == {} and cgroups(crisp, id) == [], 30)
    assert len(tree.procs(crisp.host.layout, plan.cgroup)) == 1
    await crisp.settle()
    server._tokens._clock = lambda: time.monotonic() + 61  # those who have not come: their minute is over
    assert len(server._tokens) == 0
    server._tokens._clock = time.monotonic


async def fill_executor() -> None:
    """As many threads as the loop's executor ever has, so that none comes in the meantime."""
    together = threading.Barrier(min(32, (os.cpu_count() or 1) + 4))
    await asyncio.gather(*(asyncio.to_thread(together.wait, 30) for _ in range(together.parties)))


@pytest.mark.timeout(180)
async def test_a_thousand_aborted_attaches_and_execs_leave_all_as_it_was(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox, crisp.container("cat", stdin=True))
    monitor = crisp.host.pods[sandbox].monitor.pid
    async with wired.listening(crisp) as server:
        await fill_executor()
        await abort(crisp, id, COUNT // 5)
        await settle(crisp, id, server)
        things, (threads, memory, monitors) = count_things(monitor), measure(monitor)
        await abort(crisp, id, COUNT)
        await settle(crisp, id, server)
        with contextlib.suppress(TimeoutError):
            await crisp.until(lambda: more_than(things, monitor) == {})
        assert more_than(things, monitor) == {}
        threads_now, memory_now, monitors_now = measure(monitor)
    assert threads_now <= threads + OF_GRPC
    assert memory_now < memory + ROOM
    assert monitors_now < monitors + MONITORS_ROOM
    assert (await crisp.status(id)).state == api.CONTAINER_RUNNING
    assert (await crisp.exec(id, "echo", "here")).stdout == b"here\n"
