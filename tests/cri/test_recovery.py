"""What a daemon makes of an earlier one's pods: one is closed, another starts on the same root."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import sqlite3
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from msgspec.structs import replace

from cri import assembly, daemon, recovery
from cri.execs import start_exec
from cri.fsck import fsck
from cri.host import Host
from cri.recovery import recover
from cri.settings import Settings
from cri.state.database import Database
from cri.state.meta import BOOT_ID
from cri.state.records import ContainerState, OperationPhase, OperationRecord, SandboxRecord, SandboxState
from cri.steps.codec import encode
from cri.steps.sandbox import MakePodDirectory
from proto import api_pb2 as api
from proto import api_pb2_grpc as rpc
from runtime.errors import ResourceExhausted
from runtime.linux import mount
from tests.cri.harness import Crisp, start
from tests.cri.sessions import attach_to

ENDS_WHEN_TOLD = ("sh", "-c", "trap 'exit 7' TERM; echo ready; while :; do sleep 0.01; done")


@pytest.fixture(scope="module")
def settings(new_settings: Callable[[], Settings]) -> Settings:
    """One root for all tests; each leaves it empty."""
    return new_settings()


@contextlib.asynccontextmanager
async def serving(settings: Settings) -> AsyncIterator[Crisp]:
    """A daemon for a while; its pods go on."""
    async with contextlib.AsyncExitStack() as undo:
        crisp = await start(settings, undo)
        crisp.host.failpoints.enabled = True
        if not (await crisp.images.ListImages(api.ListImagesRequest())).images:
            await crisp.import_demo_image()
        yield crisp
    # In a process that has ended nobody would listen to its monitors any more.
    left = list(crisp.host.pods.values())
    crisp.host.pods.clear()
    for pod in left:
        pod.monitor.close()


async def wait_for(path: str) -> None:
    async with asyncio.timeout(20):
        while not os.path.exists(path):
            await asyncio.sleep(0.005)


async def end_process(pid: int) -> None:
    """Kill it and wait until it runs no more."""
    with pidfd(pid) as descriptor:
        os.kill(pid, signal.SIGKILL)
        await wait_ended(descriptor)


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int]:
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


async def wait_ended(descriptor: int) -> None:
    """A pidfd is readable once its process has ended."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(descriptor, ended.set)
    try:
        await asyncio.wait_for(ended.wait(), 20)
    finally:
        loop.remove_reader(descriptor)


def monitor_of(record: SandboxRecord) -> int:
    assert record.monitor is not None
    return record.monitor.pid


async def test_log_entries_lost_before_a_restart_are_told_after_it_and_not_counted_again(settings: Settings) -> None:
    async with serving(settings) as first:
        pod = first.pod()
        folder = Path(pod.log_directory)
        folder.mkdir(parents=True)
        mount.mount("small", str(folder), "tmpfs", 0, "size=16k")
        script = "i=0; while [ $i -lt 1000 ]; do echo $i; i=$((i+1)); done; exec sleep 1000"
        id = await first.run(await first.run_pod(pod), first.container("sh", "-c", script))
        await first.until(lambda: first.host.dropped.of(id) + len(first.log_path(id).read_bytes().splitlines()) == 1000)
        lost = first.host.dropped.of(id)
    async with serving(settings) as second:
        try:
            assert 0 < second.host.dropped.of(id) == lost
            assert b"crisp_log_entries_dropped_total 0.0" in second.host.metrics.render()
            await second.remove_all()
        finally:
            mount.umount2(str(folder), mount.MNT_DETACH)


async def test_a_running_container_is_found_again_and_obeys(settings: Settings) -> None:
    async with serving(settings) as first:
        sandbox = await first.run_pod()
        id = await first.run(sandbox)
        before = first.host.store.sandboxes.get(sandbox), await first.status(id)
    async with serving(settings) as second:
        assert (second.host.store.sandboxes.get(sandbox), await second.status(id)) == before
        assert second.host.ready.is_set() and list(second.host.pods) == [sandbox]
        assert (await second.exec(id, "echo", "hi")).stdout == b"hi\n"
        os.kill(second.host.store.containers.get(id).pid, signal.SIGKILL)
        assert (await second.wait_exit(id)).exit_code == 137
        await second.remove_all()


async def test_how_a_container_ended_while_no_daemon_ran_is_told_exactly(settings: Settings) -> None:
    async with serving(settings) as first:
        sandbox = await first.run_pod()
        id = await first.run(sandbox, first.container(*ENDS_WHEN_TOLD))
        await first.until(lambda: first.log(id) == "ready")
        pid, directory = first.host.store.containers.get(id).pid, first.host.pod_directory(sandbox)
    before = time.time_ns()
    os.kill(pid, signal.SIGTERM)
    await wait_for(f"{directory}/exits/{id}.json")
    after = time.time_ns()
    async with serving(settings) as second:
        status = await second.status(id)
        assert (status.state, status.exit_code, status.reason) == (api.CONTAINER_EXITED, 7, "Error")
        assert before <= status.finished_at <= after
        assert second.host.exited(id).is_set()
        assert second.host.store.sandboxes.get(sandbox).state is SandboxState.READY
        await second.remove_all()


async def test_a_pod_whose_monitor_was_killed_meanwhile_is_lost_and_nothing_of_it_runs_on(settings: Settings) -> None:
    async with serving(settings) as first:
        sandbox = await first.run_pod()
        id = await first.run(sandbox)
        record, pid = first.host.store.sandboxes.get(sandbox), first.host.store.containers.get(id).pid
    with pidfd(pid) as container, pidfd(record.pause_pid) as pause:
        await end_process(monitor_of(record))
        async with serving(settings) as second:
            await wait_ended(container)
            await wait_ended(pause)
            lost = second.host.store.sandboxes.get(sandbox)
            assert (lost.state, lost.reason) == (SandboxState.NOTREADY, "the pod's monitor ended while no daemon ran")
            status = await second.status(id)
            assert (status.state, status.exit_code) == (api.CONTAINER_EXITED, 255)
            assert (status.reason, status.message) == ("ContainerStatusUnknown", lost.reason)
            assert sandbox not in second.host.pods
            await second.remove_all()


async def test_a_ready_pod_without_a_recorded_monitor_is_lost(settings: Settings) -> None:
    async with serving(settings) as first:
        sandbox = await first.run_pod()
        record = first.host.store.sandboxes.get(sandbox)

        await first.host.store.update_sandbox(sandbox, lambda old: replace(old, monitor=None))
    await end_process(monitor_of(record))
    async with serving(settings) as second:
        assert second.host.store.sandboxes.get(sandbox).state is SandboxState.NOTREADY
        await second.remove_all()


async def test_a_pod_whose_pause_was_killed_meanwhile_is_not_ready(settings: Settings) -> None:
    async with serving(settings) as first:
        sandbox = await first.run_pod()
        pause = first.host.store.sandboxes.get(sandbox).pause_pid
    await end_process(pause)
    async with serving(settings) as second:
        await second.until(lambda: second.host.store.sandboxes.get(sandbox).state is SandboxState.NOTREADY)
        # The monitor ends as well, for nothing of the pod is left and nobody asks it; which of the two was seen varies.
        reason = second.host.store.sandboxes.get(sandbox).reason
        assert reason.removeprefix("the pod's monitor").removeprefix("pause").strip().startswith("ended")
        await second.remove_all()


async def test_another_boot_ends_everything_and_frees_the_addresses(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings) as first:
        sandbox = await first.run_pod()
        seen = await first.run(sandbox, first.container(*ENDS_WHEN_TOLD, name="seen"))
        created = await first.create(sandbox, first.container(name="created"))
        unseen = await first.run(sandbox, first.container(name="unseen"))
        await first.until(lambda: first.log(seen) == "ready")
        record, directory = first.host.store.sandboxes.get(sandbox), first.host.pod_directory(sandbox)
        pid = first.host.store.containers.get(seen).pid
    os.kill(pid, signal.SIGTERM)
    await wait_for(f"{directory}/exits/{seen}.json")
    await end_process(monitor_of(record))
    monkeypatch.setattr(assembly, "read_boot_id", lambda: "another-boot")
    async with serving(settings) as second:
        over = second.host.store.sandboxes.get(sandbox)
        assert (over.state, over.reason) == (SandboxState.NOTREADY, "the node was restarted")
        status = await second.status(seen)
        assert (status.exit_code, status.reason) == (7, "Error")
        for id in (created, unseen):
            status = await second.status(id)
            assert (status.state, status.exit_code) == (api.CONTAINER_EXITED, 255)
            assert (status.reason, status.message) == ("ContainerStatusUnknown", "the node was restarted")
        kinds = {orphan.kind for orphan in await second.host.network["bridge"].orphans([])}
        assert "lease" not in kinds
        assert second.host.meta.get(BOOT_ID) == "another-boot"
        await second.remove_all()


async def test_an_operation_that_did_not_end_is_undone(settings: Settings) -> None:
    id = "d" * 64
    async with serving(settings) as first:
        path = first.host.pod_directory(id)
        await MakePodDirectory(id, path).apply(first.host)
        await first.host.store.commit(begin=owed(id, path))
    async with serving(settings) as second:
        assert second.host.operations.unfinished() == []
        assert not os.path.exists(path)


async def test_what_belongs_to_no_record_is_gone_after_a_start(settings: Settings) -> None:
    async with serving(settings) as first:
        blank = await first.host.pool._make()
        monitor = first.host.pods[blank].monitor.pid
        sandbox = await first.run_pod()
        id = await first.run(sandbox)
        pid = first.host.store.containers.get(id).pid
    with contextlib.closing(sqlite3.connect(f"{settings.root}/state.db")) as database:
        database.executescript("DELETE FROM operations; DELETE FROM containers; DELETE FROM sandboxes;")
    with pidfd(pid) as orphan:
        async with serving(settings) as second:
            await wait_ended(orphan)
            assert await fsck(second.host, repair=False) == []
            assert not os.listdir(second.host.state / "pods") and not os.listdir(second.host.root / "containers")
            assert not second.host.pods
            await second.until(lambda: not os.path.exists(f"/proc/{monitor}"))


async def test_what_cannot_be_undone_stays_in_the_journal_and_the_rest_is_recovered(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    id = "e" * 64
    async with serving(settings) as first:
        sandbox = await first.run_pod()
        path = first.host.pod_directory(id)
        await MakePodDirectory(id, path).apply(first.host)
        await first.host.store.commit(begin=owed(id, path))
    mount.mount("busy", f"{path}/files", "tmpfs", 0)
    try:
        async with serving(settings) as second:
            assert [record.object_id for record in second.host.operations.unfinished()] == [id]
            assert "roll back" in caplog.text
            assert list(second.host.pods) == [sandbox]
            await second.remove_all()
    finally:
        mount.umount2(f"{path}/files", mount.MNT_DETACH)
    async with serving(settings) as third:
        assert third.host.operations.unfinished() == []


async def test_a_pod_that_cannot_be_recovered_is_quarantined_alone(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings) as first:
        broken, sound = await first.run_pod(), await first.run_pod()
    recover_pod: Callable[[Host, SandboxRecord], Awaitable[None]] = recovery.recover_pod

    async def recover_but_one(host: Host, record: SandboxRecord) -> None:
        if record.id == broken:
            raise RuntimeError("made to fail")
        await recover_pod(host, record)

    with monkeypatch.context() as patch:
        patch.setattr(recovery, "recover_pod", recover_but_one)
        async with serving(settings) as second:
            record = second.host.store.sandboxes.get(broken)
            assert (record.state, record.reason) == (SandboxState.UNKNOWN, "recovery failed: made to fail")
            assert second.host.store.sandboxes.get(sound).state is SandboxState.READY
            assert list(second.host.pods) == [sound]
    async with serving(settings) as third:
        await third.remove_all()
        assert not os.listdir(third.host.state / "pods")


async def test_on_a_full_disk_what_ended_meanwhile_is_told_and_each_pod_is_recovered(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings) as first:
        pods = [await first.run_pod() for _ in range(3)]
        ids = [await first.run(pod) for pod in pods]
        pids = [first.host.store.containers.get(id).pid for id in ids]
        monitor = monitor_of(first.host.store.sandboxes.get(pods[1]))
    await end_process(pids[0])
    await wait_for(f"{settings.state}/pods/{pods[0]}/exits/{ids[0]}.json")
    await end_process(monitor)
    run, recover_pod = Database.run, recovery.recover_pod

    async def full(self: Database, work: Callable[..., Any], **options: Any) -> Any:
        if options.get("urgent"):
            raise ResourceExhausted("the disk is full")
        return await run(self, work, **options)

    async def recover_but_one(host: Host, record: SandboxRecord) -> None:
        if record.id == pods[2]:
            raise RuntimeError("made to fail")
        await recover_pod(host, record)

    with monkeypatch.context() as patch:
        patch.setattr(Database, "run", full)
        patch.setattr(recovery, "recover_pod", recover_but_one)
        async with serving(settings) as second:
            assert [(await second.status(id)).exit_code for id in ids] == [137, 255, 0]
            states = [second.host.store.sandboxes.get(pod).state for pod in pods]
            assert states == [SandboxState.READY, SandboxState.NOTREADY, SandboxState.UNKNOWN]
            assert second.host.meta.get(BOOT_ID) == second.host.boot_id
    async with serving(settings) as third:
        assert [(await third.status(id)).exit_code for id in ids] == [137, 255, 0]
        await third.remove_all()


async def test_a_pod_that_takes_too_long_is_quarantined_and_the_daemon_serves(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with serving(settings) as first:
        sandbox = await first.run_pod()

    async def never(host: Host, record: SandboxRecord) -> None:
        await asyncio.Event().wait()

    with monkeypatch.context() as patch:
        patch.setattr(recovery, "recover_pod", never)
        patch.setattr(recovery, "POD_DEADLINE", 0.0)
        async with serving(settings) as second:
            record = second.host.store.sandboxes.get(sandbox)
            assert (record.state, record.reason) == (SandboxState.UNKNOWN, "recovery failed: TimeoutError")
            assert second.host.ready.is_set()
    async with serving(settings) as third:
        await third.remove_all()


async def test_a_recovery_that_fails_opens_the_gate_all_the_same(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(host: Host) -> None:
        raise RuntimeError("made to fail")

    async with serving(settings) as crisp:
        crisp.host.ready.clear()
        monkeypatch.setattr(recovery, "undo_unfinished", fail)
        with pytest.raises(RuntimeError, match="made to fail"):
            await recover(crisp.host)
        assert crisp.host.ready.is_set()


async def test_what_has_ended_before_is_not_touched(settings: Settings) -> None:
    async with serving(settings) as first:
        sandbox = await first.run_pod()
        id = await first.run(sandbox, first.container("true"))
        status = await first.wait_exit(id)
        await first.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=sandbox))
        record = first.host.store.sandboxes.get(sandbox)
        assert first.host.store.containers.get(id).state is ContainerState.EXITED
    async with serving(settings) as second:
        assert second.host.store.sandboxes.get(sandbox) == record
        assert await second.status(id) == status
        await second.remove_all()
        assert not Path(second.host.pod_directory(sandbox)).exists()


def owed(id: str, path: str) -> OperationRecord:
    """The intent of a daemon that was killed."""
    steps = encode([MakePodDirectory(id, path)])
    return OperationRecord(
        key=f"sandbox/{id}",
        digest="",
        kind="RunPodSandbox",
        object_id=id,
        steps=steps,
        phase=OperationPhase.RUNNING,
        began_at=time.time_ns(),
    )


async def test_commands_and_sessions_of_the_next_daemon_are_apart_from_those_of_the_last(settings: Settings) -> None:
    async with serving(settings) as crisp:
        sandbox = await crisp.run_pod()
        container = crisp.container("sh", "-c", "while read x; do echo got $x; done", stdin=True)
        id = await crisp.run(sandbox, container)
        for descriptor in (await start_exec(crisp.host, id, ["sleep", "1000"])).descriptors:
            os.close(descriptor)
    async with serving(settings) as crisp:
        assert (await crisp.exec(id, "echo", "again")).stdout == b"again\n"
        async with attach_to(crisp, id, stdin=True) as session:
            await session.type(b"hello\n")
            await session.expect(b"got hello\n")
        assert (await crisp.exec(id, "pidof", "sleep")).exit_code == 0  # what the last daemon began goes on
        await crisp.remove_all()


async def test_a_command_goes_on_when_the_daemon_stops_that_its_client_waits_for(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(daemon, "GRACE", 0.1)
    async with grpc.aio.insecure_channel(settings.listen) as channel:
        runtime: Any = rpc.RuntimeServiceStub(channel)
        async with serving(settings) as crisp:
            id = await crisp.run(await crisp.run_pod(), crisp.container("cat", stdin=True))
            call = asyncio.gather(runtime.ExecSync(api.ExecSyncRequest(container_id=id, cmd=["sleep", "1000"])))
            while (await crisp.exec(id, "pidof", "sleep")).exit_code:
                assert not call.done()
        with pytest.raises(grpc.aio.AioRpcError):
            await call
    async with serving(settings) as crisp:
        assert (await crisp.exec(id, "pidof", "sleep")).exit_code == 0
        await crisp.remove_all()
