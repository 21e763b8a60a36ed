"""Through a real zygote: monitors, containers and workers, found again, accounted for, and small."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from runtime import channel, supervisor, zygote
from runtime.cgroups import kill
from runtime.channel import Message
from runtime.errors import Fault, HostFault, Unavailable
from runtime.monitor_client import MonitorClient
from runtime.pause import PAUSE
from runtime.procfs import start_time
from runtime.requests import CgroupDirs, ExecRequest
from runtime.supervisor import Supervisor
from tests.descriptors import open_descriptors
from tests.kernel.runtime.containers import Image, needs_busybox
from tests.kernel.runtime.driven import SANDBOX, below, cgroups
from tests.zygotes import leave_out_the_rehearsal

pytestmark = [
    pytest.mark.skipif(not os.path.exists(PAUSE), reason="needs runtime/pause: run `make install`"),
    needs_busybox,
]


@pytest.fixture(autouse=True)
def no_rehearsal(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the measured tests need the zygote to be warm; the others start sooner without."""
    if "warm" not in request.fixturenames:
        leave_out_the_rehearsal(monkeypatch)


@pytest.fixture
def warm() -> None:
    """Asks for a zygote as it is in life."""


@pytest.fixture
async def crew() -> AsyncIterator[Supervisor]:
    made = Supervisor()
    await made.start_zygote()
    yield made
    await made.close()


class Pod:
    """A monitor and the events that it has sent."""

    def __init__(self, monitor: MonitorClient, directory: Path) -> None:
        self.monitor, self.directory = monitor, directory
        self.events: list[Message] = []
        monitor.on_event(self.events.append)

    async def event(self, name: str) -> Message:
        async with asyncio.timeout(30):
            while True:
                for event in self.events:
                    if event["event"] == name:
                        self.events.remove(event)
                        return event
                await asyncio.sleep(0.005)


@asynccontextmanager
async def a_pod(crew: Supervisor, directory: Path) -> AsyncIterator[Pod]:
    directory.mkdir(exist_ok=True)
    pod = Pod(await crew.fork_monitor("sandbox-one", str(directory)), directory)
    try:
        yield pod
    finally:
        if not pod.monitor.closed:
            await pod.monitor.shutdown()
        await pod.monitor.wait_closed()


async def wait_until(true: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not true():
            await asyncio.sleep(0.005)


def start(image: Image, *args: str, joined: bool = False, **changes: Any) -> Any:
    """``joined``: the container is in the namespaces of its pod, which has them; else in the host's."""
    made: Any = image.request(*args)
    if not joined:
        made["spec"]["linux"]["namespaces"] = [{"type": kind} for kind in ("pid", "mount", "cgroup")]
    return {**made, "container": "one", "log_path": str(image.path / "log/one.log"), **changes}


def exec_request(command: Any, cgroup: CgroupDirs) -> ExecRequest:
    made: Any = {"container": "one", "exec": "e", "process": command, "cgroup": cgroup}
    made.update({"seccomp": None, "stdin": False, "timeout": 10})
    request: ExecRequest = made
    return request


def new_image(path: Path) -> Image:
    path.mkdir()
    return Image(path)


def gone(pid: int) -> bool:
    return not os.path.exists(f"/proc/{pid}/exe")


async def test_a_pod_lives_and_ends(crew: Supervisor, tmp_path: Path) -> None:
    image = new_image(tmp_path / "image")
    with cgroups("pod") as dirs:
        async with a_pod(crew, tmp_path / "pod") as pod:
            made = await pod.monitor.sandbox({**SANDBOX, "namespaces": ["network", "ipc", "uts", "pid"]})  # type: ignore[typeddict-item]
            assert made.netlink is not None
            channel.close_all([*made.namespaces.values(), made.netlink])
            pid, _ = await pod.monitor.start(
                start(image, "sh", "-c", "echo hello; sleep 100", joined=True, cgroup=dirs)
            )
            command = {**image.request()["spec"]["process"], "args": ["sh", "-c", "echo from; exit 7"]}
            cgroup = below(dirs, "exec-1")
            _, (stdout, stderr) = await pod.monitor.exec(exec_request(command, cgroup))
            end = await pod.event("exec_exit")
            assert (os.read(stdout, 100), os.read(stderr, 100), end["code"]) == (b"from\n", b"", 7)
            channel.close_all([stdout, stderr])
            await wait_until(lambda: "stdout F hello\n" in (image.path / "log/one.log").read_text())
            await pod.monitor.signal("one", signal.SIGKILL)
            record = (await pod.event("exit"))["record"]
            assert (record["pid"], record["code"]) == (pid, 137)
            hello = await pod.monitor.hello()
            assert hello["pid"] == pod.monitor.pid
            assert hello["start_time"] == pod.monitor.start_time
        assert gone(made.pause_pid)


async def test_a_refused_start_is_refused_across_all_processes(crew: Supervisor, tmp_path: Path) -> None:
    async with a_pod(crew, tmp_path / "pod") as pod:
        with pytest.raises(Fault, match="nonesuch"):
            await pod.monitor.start(start(new_image(tmp_path / "image"), "nonesuch"))


async def test_containers_outlive_the_daemon_and_are_found_again(crew: Supervisor, tmp_path: Path) -> None:
    image = new_image(tmp_path / "image")
    directory = tmp_path / ("long-" * 30)
    directory.mkdir()
    first = await crew.fork_monitor("sandbox-one", str(directory))
    await first.sandbox({**SANDBOX, "namespaces": []})  # type: ignore[typeddict-item]
    lines = "i=0; while [ $i -lt 200 ]; do echo line $i; i=$((i+1)); sleep 0.001; done; exit 5"
    await first.start(start(image, "sh", "-c", lines))
    first.close()  # what the kernel does when a daemon is killed
    await crew.close()
    other = Supervisor()
    monitor = await other.connect_monitor(str(directory), first.pid, first.start_time)
    exits: list[Message] = []
    monitor.on_event(exits.append)
    await wait_until(lambda: (directory / "exits/one.json").exists())
    assert (await monitor.hello())["containers"]["one"]["exit"]["code"] == 5
    logged = (image.path / "log/one.log").read_text().splitlines()
    assert [line.split(" F ")[1] for line in logged] == [f"line {number}" for number in range(200)]
    await monitor.shutdown()
    await monitor.wait_closed()
    await other.close()


async def test_another_process_is_never_taken_for_the_monitor(crew: Supervisor, tmp_path: Path) -> None:
    async with a_pod(crew, tmp_path / "pod") as pod:
        await pod.monitor.sandbox({**SANDBOX, "namespaces": []})  # type: ignore[typeddict-item]
        pid, began = pod.monitor.pid, pod.monitor.start_time
        with pytest.raises(Unavailable, match="another process has its pid"):
            await crew.connect_monitor(str(pod.directory), pid, began + 1)
        with pytest.raises(Unavailable, match="has ended"):
            await crew.connect_monitor(str(pod.directory), 2**22 - 1, began)
        with pytest.raises(Unavailable, match=f"process {pid} listens in its place"):
            await crew.connect_monitor(str(pod.directory), os.getpid(), start_time(os.getpid()))
        with pytest.raises(Unavailable, match="no such file"):
            await crew.connect_monitor(str(tmp_path), pid, began)


async def test_a_monitor_that_was_not_recorded_is_found_by_its_directory(crew: Supervisor, tmp_path: Path) -> None:
    async with a_pod(crew, tmp_path / "pod") as pod:
        await pod.monitor.hello()  # by now it listens
        found = await crew.find_monitor(str(pod.directory))
        assert (found.pid, found.start_time) == (pod.monitor.pid, pod.monitor.start_time)
        assert (await found.hello())["pid"] == pod.monitor.pid
        found.close()
        with pytest.raises(Unavailable, match="no such file"):
            await crew.find_monitor(str(tmp_path))


async def test_garbage_on_the_socket_harms_nobody(crew: Supervisor, tmp_path: Path) -> None:
    async with a_pod(crew, tmp_path / "pod") as pod:
        await pod.monitor.hello()  # by now it listens
        for garbage in (b"\0" * 1000, b"{", b'{"v":1,"id":1,"op":"start","args":{}}'):
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(str(pod.directory / "monitor.sock"))
                sock.send(garbage)
        assert (await pod.monitor.hello())["containers"] == {}


async def test_the_end_of_a_monitor_is_told_and_kills_what_it_held(crew: Supervisor, tmp_path: Path) -> None:
    image = new_image(tmp_path / "image")
    with cgroups("orphan") as dirs:
        async with a_pod(crew, tmp_path / "pod") as pod:
            pid, _ = await pod.monitor.start(start(image, "sleep", "100", cgroup=dirs))
            ended = asyncio.Event()
            pod.monitor.on_close(ended.set)
            os.kill(pod.monitor.pid, signal.SIGKILL)
            await asyncio.wait_for(ended.wait(), 30)
            kill.kill(dirs)  # as the daemon does
            await wait_until(lambda: gone(pid))
            with pytest.raises(Unavailable):
                await pod.monitor.hello()


async def test_a_dead_zygote_is_replaced_when_it_is_needed(crew: Supervisor, tmp_path: Path) -> None:
    first = crew.zygote_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    async with a_pod(crew, tmp_path / "pod") as pod:
        assert (await pod.monitor.hello())["pid"] == pod.monitor.pid
    assert crew.zygote_pid not in (None, first)


async def test_a_dead_zygote_is_replaced_at_once_where_tasks_can_be_started() -> None:
    tasks: list[asyncio.Task[None]] = []
    named: list[str] = []

    def spawn(name: str, work: Coroutine[Any, Any, None]) -> None:
        named.append(name)
        tasks.append(asyncio.get_running_loop().create_task(work))

    crew = Supervisor(spawn)
    await crew.start_zygote()
    first = crew.zygote_pid
    assert first is not None
    os.kill(first, signal.SIGKILL)
    await wait_until(lambda: bool(tasks))
    await asyncio.gather(*tasks)
    assert named == ["restart the zygote"]
    assert crew.zygote_pid not in (None, first)
    await crew.close()
    await asyncio.sleep(0)
    assert len(named) == 1  # its end was wanted
    with pytest.raises(Unavailable, match="stopping"):
        await crew.fork_monitor("s", "/tmp")


async def test_starting_twice_starts_one_zygote() -> None:
    crew = Supervisor()
    await asyncio.gather(crew.start_zygote(), crew.start_zygote())
    first = crew.zygote_pid
    await crew.start_zygote()
    assert crew.zygote_pid == first
    await crew.close()
    await crew.close()


async def test_a_zygote_that_does_not_start_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor, "_BOOT", "raise SystemExit(3)")
    crew = Supervisor()
    with pytest.raises(Unavailable):
        await crew.start_zygote()
    await crew.close()


async def test_an_interpreter_that_is_missing_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys._base_executable", "/nonexistent/python")
    crew = Supervisor()
    with pytest.raises(HostFault, match="/nonexistent/python"):
        await crew.start_zygote()
    await crew.close()


async def test_the_zygote_runs_from_a_copy_that_cannot_be_written(crew: Supervisor) -> None:
    # Opening it for writing fails in any case while this very interpreter runs; what counts is the mount.
    assert not os.statvfs("/proc/self/exe").f_flag & os.ST_RDONLY
    assert os.statvfs(f"/proc/{crew.zygote_pid}/exe").f_flag & os.ST_RDONLY


async def test_a_monitor_ignores_what_a_host_sends_to_all_when_it_shuts_down(crew: Supervisor, tmp_path: Path) -> None:
    async with a_pod(crew, tmp_path / "pod") as pod:
        await pod.monitor.hello()
        for number in zygote.IGNORED:
            os.kill(pod.monitor.pid, number)
        assert (await pod.monitor.hello())["pid"] == pod.monitor.pid


async def test_the_zygote_imports_nothing_but_the_standard_library(crew: Supervisor) -> None:
    maps = Path(f"/proc/{crew.zygote_pid}/maps").read_text()
    assert "site-packages" not in maps
    assert "asyncio" not in maps


async def test_a_worker_deletes_a_tree(crew: Supervisor, tmp_path: Path) -> None:
    (tmp_path / "doomed/deep").mkdir(parents=True)
    directory = os.open(tmp_path, os.O_RDONLY)
    result = await crew.run_worker("runtime.images.worker:delete_tree", {"name": "doomed"}, [directory])
    os.close(directory)
    assert result["entries"] >= 1
    assert not (tmp_path / "doomed").exists()


async def test_what_a_worker_raises_is_raised_here(crew: Supervisor, tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_RDONLY)
    with pytest.raises(Fault, match="not a name"):
        await crew.run_worker("runtime.images.worker:delete_tree", {"name": ".."}, [directory])
    os.close(directory)


async def test_a_worker_that_takes_too_long_is_killed(crew: Supervisor) -> None:
    with pytest.raises(TimeoutError):
        await crew.run_worker("runtime.linux.process:prctl", {}, [], timeout=0)
    children = Path(f"/proc/{crew.zygote_pid}/task/{crew.zygote_pid}/children")
    await wait_until(lambda: children.read_text() == "")


async def test_a_worker_that_dies_silently_is_told(
    crew: Supervisor, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    task = asyncio.get_running_loop().create_task(crew.run_worker("runtime.zygote:Zygote.serve", {}))
    with pytest.raises(Fault, match="no entry"):
        await task
    kills: list[int] = []
    real = supervisor._Reply

    class Killed(real):  # type: ignore[misc, valid-type]
        """The worker is killed while it waits for the layer's first byte."""

        async def wait(self) -> Message:
            children = Path(f"/proc/{crew.zygote_pid}/task/{crew.zygote_pid}/children").read_text().split()
            for pid in map(int, children):
                kills.append(pid)
                os.kill(pid, signal.SIGKILL)
            return await super().wait()  # type: ignore[no-any-return]

    monkeypatch.setattr(supervisor, "_Reply", Killed)
    (read, write), directory = os.pipe(), os.open(tmp_path, os.O_RDONLY)
    args = {"disk_bytes": 1 << 20, "entries": 10, "stream_bytes": 1 << 20}
    with pytest.raises(Unavailable, match="ended without an answer"):
        await crew.run_worker("runtime.images.worker:unpack", args, [directory, read])
    assert kills
    channel.close_all([read, write, directory])


async def test_no_descriptor_is_left_after_a_hundred_forks(crew: Supervisor, tmp_path: Path) -> None:
    before = len(open_descriptors())
    for number in range(20):
        async with a_pod(crew, tmp_path / f"pod{number}"):
            pass
    assert len(open_descriptors()) == before
    children = Path(f"/proc/{crew.zygote_pid}/task/{crew.zygote_pid}/children")
    await wait_until(lambda: children.read_text() == "")
    assert len(os.listdir(f"/proc/{crew.zygote_pid}/fd")) <= 7


def private(pid: int) -> int:
    """Private memory of a process, in KiB."""
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return sum(
        int(line.split()[1]) for line in rollup.splitlines() if line.startswith(("Private_Clean", "Private_Dirty"))
    )


async def test_a_pod_costs_a_megabyte_and_a_half_at_most(crew: Supervisor, tmp_path: Path, warm: None) -> None:
    # The line of the bench: monitor and pause, after a start, 1 MB of log and one exec. Of two pods
    # one is measured, for with one alone nothing of the zygote's would be shared between monitors.
    async with a_pod(crew, tmp_path / "other") as other, a_pod(crew, tmp_path / "pod") as pod:
        costs = []
        for number, each in enumerate((other, pod)):
            with cgroups(f"cost-{number}", "memory", "pids") as dirs:
                costs.append(await cost(each, new_image(tmp_path / f"image{number}"), dirs))
                await each.monitor.shutdown()
                await each.monitor.wait_closed()
        assert costs[1] * 1024 <= 1_500_000, f"{costs} KiB"


async def cost(pod: Pod, image: Image, dirs: CgroupDirs) -> int:
    made = await pod.monitor.sandbox(SANDBOX)  # type: ignore[arg-type]
    assert made.netlink is not None
    channel.close_all([*made.namespaces.values(), made.netlink])
    (image.layer / "lines").write_bytes((b"y" * 99 + b"\n") * 10_486)
    (image.path / "log").mkdir()
    counter = next((f"{path}/memory.oom_control" for path in dirs["v1"] if "/memory/" in path), None)
    request = start(image, "sh", "-c", "cat /lines; sleep 100", cgroup=dirs, memory_events=counter)
    await pod.monitor.start(request)
    log = image.path / "log/one.log"
    await wait_until(lambda: log.exists() and log.stat().st_size == 10_486 * 140)
    command = {**image.request()["spec"]["process"], "args": ["true"]}
    _, streams = await pod.monitor.exec(exec_request(command, below(dirs, "exec-1")))
    channel.close_all(streams)
    await pod.event("exec_exit")
    return private(pod.monitor.pid) + private(made.pause_pid)


async def test_a_burst_of_pods_is_served(crew: Supervisor, tmp_path: Path) -> None:
    async def one(number: int) -> float:
        began = time.monotonic()
        async with a_pod(crew, tmp_path / f"pod{number}") as pod:
            made = await pod.monitor.sandbox(SANDBOX)  # type: ignore[arg-type]
            assert made.netlink is not None
            channel.close_all([*made.namespaces.values(), made.netlink])
        return time.monotonic() - began

    assert len(await asyncio.gather(*map(one, range(20)))) == 20
