"""What happens when something ends by itself: a container, pause, a monitor."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest
from msgspec.structs import replace

from cri import exits
from cri.exits import end_attach, end_monitor, plan_exited, record_exit, settle_container
from cri.host import Attached
from cri.state import rows
from cri.state.database import Database
from cri.state.records import ContainerRecord, ContainerState, MonitorRecord
from cri.state.store import Store
from proto import api_pb2 as api
from runtime.errors import NotFound, ResourceExhausted, Unavailable
from runtime.requests import ExitRecord
from tests.cri.harness import Crisp


def end(id: str, code: int, *, oom: bool = False) -> ExitRecord:
    return {"container": id, "pid": 1, "code": code, "signal": 0, "oom": oom, "finished_at": 7}


async def test_reasons_are_those_that_kubelet_knows(crisp: Crisp) -> None:
    record = crisp.host.store.containers.get(await crisp.create(await crisp.run_pod()))
    assert plan_exited(record, end(record.id, 0)).reason == "Completed"
    assert plan_exited(record, end(record.id, 3)).reason == "Error"
    assert plan_exited(record, end(record.id, 137, oom=True)).reason == "OOMKilled"


async def test_an_exit_that_was_reported_never_changes(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod(), crisp.container("sh", "-c", "exit 5"))
    before = await crisp.wait_exit(id)
    await record_exit(crisp.host, end(id, 9))
    assert await crisp.status(id) == before and before.exit_code == 5
    await record_exit(crisp.host, end("unknown", 9))


async def test_a_killed_monitor_ends_its_pod_and_no_other(crisp: Crisp) -> None:
    lost, other = await crisp.run_pod(), await crisp.run_pod()
    victim, witness = await crisp.run(lost), await crisp.run(other)
    pid = crisp.host.store.containers.get(victim).pid
    os.kill(crisp.host.pods[lost].monitor.pid, signal.SIGKILL)
    status = await crisp.wait_exit(victim)
    assert (status.exit_code, status.reason) == (255, "ContainerStatusUnknown") and "monitor" in status.message
    await crisp.until(lambda: not os.path.exists(f"/proc/{pid}"))
    await crisp.until(lambda: crisp.host.store.sandboxes.get(lost).state.value == "notready")
    assert (await crisp.status(witness)).state == api.CONTAINER_RUNNING


async def test_a_monitor_that_cannot_be_asked_any_more_is_ended_and_nobody_else(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    pod, record = crisp.host.pods[sandbox], crisp.host.store.sandboxes.get(sandbox)
    assert record.monitor is not None
    pid, began = record.monitor.pid, record.monitor.start_time
    for other in (None, MonitorRecord(pid, began + 1), MonitorRecord(2**22 - 1, began)):
        end_monitor(replace(record, monitor=other))
    assert (await pod.monitor.hello())["pid"] == pid
    pod.monitor.close()
    await crisp.until(lambda: not os.path.exists(f"/proc/{pid}"))
    end_monitor(record)


async def test_a_container_whose_monitor_died_while_it_started_is_not_said_to_run(crisp: Crisp) -> None:
    id = await crisp.create(await crisp.run_pod())
    crisp.host.failpoints.set("StartContainer:store", "kill-monitors", 1)
    await crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    status = await crisp.wait_exit(id)
    assert (status.exit_code, status.reason) == (255, "ContainerStatusUnknown")


async def test_an_exec_in_a_pod_whose_monitor_dies_is_told(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    call = crisp.runtime.ExecSync(api.ExecSyncRequest(container_id=id, cmd=["sleep", "1000"]))
    pod = crisp.host.pods[sandbox]
    await crisp.until(lambda: bool(pod.execs))
    os.kill(pod.monitor.pid, signal.SIGKILL)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await call
    assert failed.value.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_pause_that_ends_before_its_pod_is_ready_makes_it_notready(crisp: Crisp) -> None:
    crisp.host.failpoints.set("RunPodSandbox:store", "hang")
    call = asyncio.ensure_future(crisp.run_pod())
    await crisp.until(lambda: bool(crisp.host.failpoints.waiting.get("RunPodSandbox:store")))
    ((id, pod),) = crisp.host.pods.items()
    os.kill(pod.pause_pid, signal.SIGKILL)
    await crisp.until(lambda: not os.path.exists(f"/proc/{pod.pause_pid}"))
    crisp.host.failpoints.set("*", "off")
    assert await call == id
    await crisp.until(lambda: crisp.host.store.sandboxes.get(id).state.value == "notready")


async def test_a_pause_that_ends_makes_the_pod_notready(crisp: Crisp) -> None:
    id = await crisp.run_pod()
    os.kill(crisp.host.store.sandboxes.get(id).pause_pid, signal.SIGKILL)
    await crisp.until(lambda: crisp.host.store.sandboxes.get(id).state.value == "notready")
    assert "pause" in crisp.host.store.sandboxes.get(id).reason


async def test_the_end_of_an_attach_is_told_to_whoever_waits_for_it_and_to_nobody_else(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    pod = crisp.host.pods[sandbox]
    one = pod.attached["one"] = Attached("c", asyncio.get_running_loop().create_future())
    two = pod.attached["two"] = Attached("c", asyncio.get_running_loop().create_future())
    for name in ("one", "one", "unknown"):
        end_attach(crisp.host, sandbox, {"event": "attach_end", "attach": name, "error": "why"})
    end_attach(crisp.host, "unknown", {"event": "attach_end", "attach": "one", "error": "why"})
    assert one.ended.result() == "why" and not two.ended.done()
    os.kill(pod.monitor.pid, signal.SIGKILL)
    with pytest.raises(Unavailable, match="monitor ended"):
        await two.ended


# ---------------------------------------------------------------------------- a full disk


class FullDisk:
    """What the database refuses while ``full``; ``stored`` reads a container's row past it."""

    def __init__(self, database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
        self.full = False
        self._run = database.run
        monkeypatch.setattr(database, "run", self.run)
        monkeypatch.setattr(exits, "AGAIN_FIRST", 0.05)

    async def run(self, work: Callable[..., Any], **options: Any) -> Any:
        if self.full and options.get("urgent"):
            await asyncio.sleep(0)
            raise ResourceExhausted("the disk is full")
        return await self._run(work, **options)

    async def stored(self, id: str) -> ContainerRecord:
        return await self._run(lambda connection: rows.read_container(connection, id))


@pytest.fixture
def disk(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> FullDisk:
    return FullDisk(crisp.host.store.database, monkeypatch)


def owed(crisp: Crisp) -> list[str]:
    return [name for name in crisp.host.tasks.names() if name.startswith("store what happened")]


async def test_an_exit_for_which_the_disk_has_no_room_is_told_at_once_and_stored_later(
    crisp: Crisp, disk: FullDisk
) -> None:
    id = await crisp.run(await crisp.run_pod())
    disk.full = True
    with crisp.host.events.subscribed() as subscriber:
        await crisp.runtime.StopContainer(api.StopContainerRequest(container_id=id, timeout=0))
        status = await crisp.status(id)
        assert (status.state, status.exit_code) == (api.CONTAINER_EXITED, 137)
        await asyncio.sleep(0.2)
        assert owed(crisp) and (await disk.stored(id)).state is ContainerState.RUNNING
        disk.full = False
        await crisp.until(lambda: not owed(crisp))
        assert await disk.stored(id) == crisp.host.store.containers.get(id)
        assert (await disk.stored(id)).exit_code == 137
        assert len(subscriber) == 1  # told once
    assert await crisp.status(id) == status


async def test_what_is_removed_before_its_end_could_be_stored_stays_removed(crisp: Crisp, disk: FullDisk) -> None:
    id = await crisp.run(await crisp.run_pod())
    disk.full = True
    await crisp.runtime.StopContainer(api.StopContainerRequest(container_id=id, timeout=0))
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    disk.full = False
    await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))
    await crisp.until(lambda: not owed(crisp))
    assert crisp.host.store.container(id) is None
    with pytest.raises(NotFound):
        await disk.stored(id)


async def test_a_pod_whose_monitor_dies_while_the_disk_is_full_is_over_for_all_who_ask(
    crisp: Crisp, disk: FullDisk
) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    disk.full = True
    os.kill(crisp.host.pods[sandbox].monitor.pid, signal.SIGKILL)
    status = await crisp.wait_exit(id)
    assert status.reason == "ContainerStatusUnknown"
    await crisp.until(lambda: crisp.host.store.sandboxes.get(sandbox).state.value == "notready")
    await crisp.until(lambda: len(owed(crisp)) == 2)
    disk.full = False
    await crisp.until(lambda: not owed(crisp))
    again = await Store.open(crisp.host.store.database)
    assert again.containers.get(id) == crisp.host.store.containers.get(id)
    assert again.sandboxes.get(sandbox) == crisp.host.store.sandboxes.get(sandbox)


async def test_an_end_is_recorded_also_when_whoever_asked_for_it_leaves(crisp: Crisp, disk: FullDisk) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    record = crisp.host.store.containers.get(id)
    async with crisp.host.lock(id):
        asking = asyncio.ensure_future(settle_container(crisp.host, record, crisp.host.pod_directory(sandbox), "why"))
        await asyncio.sleep(0)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        assert crisp.host.store.containers.get(id).state is ContainerState.RUNNING
    status = await crisp.wait_exit(id)
    assert status.message == "why"
    await crisp.until(lambda: not any(name.startswith("end ") for name in crisp.host.tasks.names()))
