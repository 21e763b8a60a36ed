"""What a container can make the daemon hold: bytes, tasks, descriptors, time (R6)."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
import msgspec
import pytest

from proto import api_pb2 as api
from proto import api_pb2_grpc as rpc
from tests.cri.harness import settings_in, start
from tests.descriptors import open_descriptors
from tests.security.attacks import Attacked, Code, refused

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

LIMIT = 16 << 20


def resident() -> int:
    """Bytes of this process, which the daemon is a part of."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def run_one(crisp: Attacked) -> str:
    return await crisp.run(await crisp.run_pod(), crisp.attacker("sleep", "1000"))


async def test_output_without_end_is_cut_off_and_not_kept(crisp: Attacked) -> None:
    """CVE-2022-1708, CVE-2022-31030: a command that writes for ever, ended by its timeout; what it wrote beyond
    the limit was dropped. A reader without a limit, the weak variant, holds all of it."""
    id = await run_one(crisp)
    held = bytearray()
    with subprocess.Popen(["yes"], stdout=subprocess.PIPE) as weak:
        assert weak.stdout is not None
        while len(held) < 96 << 20:
            held += weak.stdout.read(1 << 20)
        weak.kill()
    assert len(held) > 64 << 20
    del held
    before = resident()
    written = 0

    async def watch() -> None:
        nonlocal written
        while True:
            written = max(written, resident() - before)
            await asyncio.sleep(0.02)

    watching = asyncio.create_task(watch())
    call = api.ExecSyncRequest(container_id=id, cmd=["yes"], timeout=2)
    await refused(crisp.runtime.ExecSync(call), Code.DEADLINE_EXCEEDED)
    watching.cancel()
    assert written < 64 << 20
    said = await crisp.say(id, "sh", "-c", "ps | grep -c '[y]es'")
    assert said == "0"


async def test_output_up_to_the_limit_arrives(crisp: Attacked) -> None:
    """CVE-2022-1708: however much there was, a client gets as much as one message of 16 MiB holds."""
    id = await run_one(crisp)
    options = [("grpc.max_receive_message_length", LIMIT)]
    async with grpc.aio.insecure_channel(crisp.host.settings.listen, options=options) as channel:
        stub: rpc.RuntimeServiceAsyncStub = rpc.RuntimeServiceStub(channel)
        for script, out, err in (
            ("head -c 40000000 /dev/zero; head -c 40000000 /dev/zero >&2; exit 3", LIMIT // 2, LIMIT // 2),
            ("head -c 40000000 /dev/zero; echo >&2; exit 3", LIMIT, 1),
        ):
            answer = await stub.ExecSync(api.ExecSyncRequest(container_id=id, cmd=["sh", "-c", script]))
            assert answer.exit_code == 3
            assert out - 2048 <= len(answer.stdout) <= out
            assert err - 2048 <= len(answer.stderr) <= err


async def test_clients_that_leave_leave_nothing(crisp: Attacked) -> None:
    """CVE-2022-23471, CVE-2025-64329: aborted commands; tasks and descriptors are as before. A task that waits for the
    next word of its client, the weak variant, stays when that has left."""
    sizes: asyncio.Queue[int] = asyncio.Queue()
    weak = [asyncio.create_task(sizes.get()) for _ in range(10)]
    await asyncio.sleep(0)
    assert not any(task.done() for task in weak)
    for task in weak:
        task.cancel()
    id = await run_one(crisp)
    await crisp.exec(id, "true")
    await asyncio.sleep(0.2)
    tasks, fds = len(asyncio.all_tasks()), len(open_descriptors())
    for _ in range(10):
        calls = [crisp.runtime.ExecSync(api.ExecSyncRequest(container_id=id, cmd=["sleep", "0.05"])) for _ in range(10)]
        await asyncio.sleep(0.01)
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)
    await crisp.until(lambda: len(asyncio.all_tasks()) <= tasks and len(open_descriptors()) <= fds + 1, 20)


HOLD = """
for one in /proc/[0-9]*; do
    if tr '\\0' ' ' < $one/cmdline | grep -q 'sleep 1234'; then exec 7>$one/fd/1 && echo held; break; fi
done
sleep 1000
"""


async def test_a_neighbour_that_holds_a_pipe_does_not_hold_up_an_end(crisp: Attacked) -> None:
    """CVE-2022-23471's neighbours: a container of the same pod keeps the other's output open. Who waits for the
    output's end, the weak variant, waits for the neighbour; here the exit is told, and the container removed."""
    near, far = os.pipe()
    with subprocess.Popen(["sleep", "100"], stdout=far) as neighbour:
        os.close(far)
        os.set_blocking(near, False)
        with pytest.raises(BlockingIOError):
            os.read(near, 1)
        neighbour.kill()
    os.close(near)
    config = crisp.pod()
    config.linux.security_context.namespace_options.pid = api.POD
    pod, ids = await crisp.run_pod(config), []
    for script in ("sleep 1234", HOLD):
        container = crisp.attacker("sh", "-c", script)
        container.linux.security_context.namespace_options.pid = api.POD
        ids.append(await crisp.run(pod, container))
    await crisp.until(lambda: crisp.log(ids[1]) == "held")
    async with asyncio.timeout(10):
        await crisp.runtime.StopContainer(api.StopContainerRequest(container_id=ids[0], timeout=0))
        assert (await crisp.wait_exit(ids[0])).exit_code == 137
        await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=ids[0]))


async def test_a_pod_of_thousands_of_ports_is_removed_again(crisp: Attacked) -> None:
    """CVE-2021-43784: the list of a pod's ports is longer than a netlink attribute. Packed into one, the weak variant,
    its length is another one; here the pod comes and goes in pieces."""
    assert (72_000 & 0xFFFF) < 72_000
    ports = [api.PortMapping(container_port=port, host_port=port) for port in range(20_000, 23_000)]
    pod = await crisp.run_pod(crisp.pod(port_mappings=ports))
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod))
    await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=pod))
    await crisp.run_pod(crisp.pod(port_mappings=ports[:1]))


MANY: dict[str, Callable[[api.ContainerConfig], object]] = {
    "mounts": lambda it: it.mounts.extend(api.Mount(container_path=f"/m/{n}", host_path="/tmp") for n in range(500)),
    "groups": lambda it: it.linux.security_context.supplemental_groups.extend(range(1, 4096)),
    "masked paths": lambda it: it.linux.security_context.masked_paths.extend(f"/m/{n}" for n in range(1000)),
    "variables": lambda it: it.envs.extend(api.KeyValue(key=f"A{n}", value=b"x") for n in range(10_000)),
    "labels": lambda it: it.labels.update({f"a{n}": "x" * 1000 for n in range(900)}),
    "a deep directory": lambda it: setattr(it, "working_dir", "/a" * 500),
}


@pytest.mark.parametrize("what", sorted(MANY))
async def test_much_of_one_thing_is_a_container_or_refused(what: str, crisp: Attacked) -> None:
    """R6: long lists, up to what is allowed, become a container that runs, and one that is removed again."""
    config = crisp.attacker("sleep", "1000")
    MANY[what](config)
    id = await crisp.run(await crisp.run_pod(), config)
    assert (await crisp.status(id)).state == api.CONTAINER_RUNNING
    if what == "groups":
        config.linux.security_context.supplemental_groups.extend(range(4096, 70_000))
        config.metadata.attempt = 1
        pod = crisp.host.store.containers.get(id).sandbox_id
        await refused(crisp.create(pod, config), Code.INVALID_ARGUMENT, "more than 4096")
    await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))


async def test_a_flood_of_lines_is_bounded_by_its_log(crisp: Attacked) -> None:
    """CVE-2022-1708 by way of the log: a line without an end, and bytes that are no text; the monitor stays small."""
    pod = await crisp.run_pod()
    id = await crisp.run(pod, crisp.attacker("sh", "-c", "head -c 50000000 /dev/zero; printf 'x\\377\\n'"))
    await crisp.wait_exit(id)
    status = Path(f"/proc/{crisp.monitor_pid(pod)}/status").read_text()
    peak = int(next(line.split()[1] for line in status.splitlines() if line.startswith("VmHWM")))
    assert peak < 64 << 10  # KiB
    path = crisp.log_path(id)
    assert path.stat().st_size > 50_000_000
    with open(path, "rb") as log:
        longest = max(len(log.readline()) for _ in range(1000))
    assert longest < 17 << 10
    path.unlink()


async def test_a_fork_bomb_hits_the_limit_of_its_pod(crisp: Attacked) -> None:
    """Kubelet limits the tasks of the pod's cgroup: neighbours and the monitor, which is not in it, go on."""
    layout = crisp.host.layout
    roots = [hierarchy.mount for hierarchy in layout.v1 if "pids" in hierarchy.controllers] or [layout.v2 or ""]
    pod, other = await crisp.run_pod(), await run_one(crisp)
    Path(f"{roots[0]}/crisp-{crisp.host.instance}/{pod}/pids.max").write_text("20")
    # A shell that cannot fork ends: the bomb is a child's, and the last task is taken by who survives it.
    config = crisp.attacker("sh", "-c", "(while :; do sleep 100 & done) 2>/dev/null; sleep 100 & echo full; wait")
    id = await crisp.run(pod, config)
    tasks = Path(f"{roots[0]}/crisp-{crisp.host.instance}/{pod}/pids.current")
    await crisp.until(lambda: "full" in crisp.log(id))
    assert int(tasks.read_text()) == 20
    assert await crisp.say(other, "echo", "alive") == "alive"
    with contextlib.suppress(grpc.aio.AioRpcError):  # v2 refuses the exec itself, v1 what it forks
        assert (await crisp.exec(id, "sh", "-c", "sleep 0 & wait")).exit_code != 0
    await crisp.runtime.StopContainer(api.StopContainerRequest(container_id=id, timeout=0))
    await crisp.until(lambda: int(tasks.read_text()) == 1)  # pause


async def test_what_is_written_to_files_of_the_pod_is_counted(tmp_path: Path) -> None:
    """CVE-2020-8557: /etc/hosts lies in the state directory, in operation a tmpfs: its pages are the container's
    memory, and a gigabyte ends the container instead of filling the host. On a disk, the weak variant, it all fits."""
    if os.stat("/dev/shm").st_dev == os.stat(tmp_path).st_dev:
        pytest.skip("/dev/shm is no tmpfs of its own here")
    with tempfile.TemporaryDirectory(prefix="s-", dir="/dev/shm") as state:
        settings = msgspec.structs.replace(settings_in(tmp_path, os.getpid() % 200 + 21), state=f"{state}/state")
        async with contextlib.AsyncExitStack() as undo:
            started = await start(settings, undo)
            crisp = Attacked(started.host, started.channel)
            await crisp.image()
            pod = await crisp.run_pod()
            config = crisp.attacker("sh", "-c", "exec dd if=/dev/zero of=/etc/hosts bs=1M count=1000")
            config.linux.resources.memory_limit_in_bytes = 64 << 20
            id = await crisp.run(pod, config)
            status = await crisp.wait_exit(id)
            size = os.stat(f"{crisp.host.pod_directory(pod)}/files/hosts").st_size
            await crisp.remove_all()
    assert (status.reason, status.exit_code) == ("OOMKilled", 137)
    assert size <= 64 << 20
