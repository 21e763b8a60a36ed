"""What the daemon does when something ends by itself: a container, a pause, a monitor.

``cri.rpc.sandbox_run`` and ``cri.recovery`` register ``watch_monitor``; waiting RPCs
look at ``Host.exited``.

Invariant: an exit is told by the store before anybody who waits for it is woken, and an
exit that was once recorded is never changed. What has happened is never lost for want of
room on the disk: it is told at once and stored as soon as it can be.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from cri.host import Host
from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.plan.sandbox import SandboxPlan
from cri.state.records import ContainerRecord, ContainerState, SandboxRecord, SandboxState
from runtime.cgroups import kill as cgroup_kill
from runtime.cgroups import layout as cgroup_layout
from runtime.errors import HostFault, NotFound, ResourceExhausted
from runtime.exits import read_exit
from runtime.monitor_client import MonitorClient
from runtime.procfs import start_time
from runtime.requests import ExitRecord

LOG = logging.getLogger("crisp.exits")
RecordT = TypeVar("RecordT", SandboxRecord, ContainerRecord)

AGAIN_FIRST, AGAIN_AT_LEAST = 0.5, 10.0
"""Seconds before the first try to store what could not be stored, and between tries in the end."""

UNKNOWN_EXIT = 255
"""The code of a container whose end nobody saw, as the field reports it."""


def plan_exited(record: ContainerRecord, end: ExitRecord) -> ContainerRecord:
    """The record of a container that ended as ``end`` says, reasons as kubelet knows them."""
    reason = "OOMKilled" if end["oom"] else "Completed" if end["code"] == 0 else "Error"
    return msgspec.structs.replace(
        record,
        state=ContainerState.EXITED,
        exit_code=end["code"],
        finished_at=end["finished_at"],
        reason=end.get("reason") or reason,
        message=end.get("message") or "",
        pid=0,
        log_dropped=end.get("log_dropped", 0),
    )


def plan_lost(record: ContainerRecord, why: str, now: int) -> ContainerRecord:
    """The record of a container whose end was not seen."""
    return msgspec.structs.replace(
        record,
        state=ContainerState.EXITED,
        exit_code=UNKNOWN_EXIT,
        finished_at=now,
        started_at=record.started_at or now,
        reason="ContainerStatusUnknown",
        message=why,
        pid=0,
    )


def watch_monitor(host: Host, sandbox_id: str, monitor: MonitorClient) -> None:
    """From now on the monitor's events and its end are acted upon."""

    def on_event(event: dict[str, Any]) -> None:
        if event["event"] == "exit":
            record: ExitRecord = event["record"]
            host.dropped.note(record["container"], record.get("log_dropped", 0))
            host.tasks.spawn(f"exit {record['container'][:12]}", record_exit(host, record))
        elif event["event"] == "exec_exit":
            end_exec(host, sandbox_id, event)
        elif event["event"] == "attach_end":
            end_attach(host, sandbox_id, event)
        elif event["event"] == "log_dropped":
            host.dropped.note(event["container"], event["dropped"])
        elif event["event"] == "pause_exit":
            pod = host.pods.get(sandbox_id)
            if pod is not None and not pod.stopping:
                host.tasks.spawn(f"pause exit {sandbox_id[:12]}", end_sandbox(host, sandbox_id, "pause ended"))

    def on_closed() -> None:
        host.tasks.spawn(f"monitor end {sandbox_id[:12]}", bury_monitor(host, sandbox_id, monitor))

    monitor.on_event(on_event)
    monitor.on_close(on_closed)


def end_exec(host: Host, sandbox_id: str, event: dict[str, Any]) -> None:
    pod = host.pods.get(sandbox_id)
    waiting = pod.execs.get(event["exec"]) if pod else None
    if waiting is not None and not waiting.done():
        waiting.set_result((event["code"], event["timed_out"]))


def end_attach(host: Host, sandbox_id: str, event: dict[str, Any]) -> None:
    pod = host.pods.get(sandbox_id)
    attached = pod.attached.get(event["attach"]) if pod else None
    if attached is not None and not attached.ended.done():
        attached.ended.set_result(event["error"])


async def record_change(
    host: Host,
    update: Callable[[str, Callable[[RecordT], RecordT]], Awaitable[RecordT]],
    id: str,
    change: Callable[[RecordT], RecordT],
) -> None:
    """Store what has happened by an ``update`` of the store. ``change`` is idempotent.

    What cannot be stored now is told to readers all the same when this returns, and stored
    later: nobody will say it a second time. What is removed already needs no record.
    """
    try:
        await update(id, change)
    except NotFound:
        return
    except (ResourceExhausted, HostFault) as fault:
        LOG.error("what has happened is stored later: %s", fault, extra={"object_id": id})
        host.store.owe(id, change)
        host.tasks.spawn(f"store what happened to {id[:12]}", record_change_later(host, update, id, change))


async def record_change_later(
    host: Host,
    update: Callable[[str, Callable[[RecordT], RecordT]], Awaitable[RecordT]],
    id: str,
    change: Callable[[RecordT], RecordT],
) -> None:
    """Until it succeeds or the daemon ends; the next one finds out by itself (``cri.recovery``)."""
    pause = AGAIN_FIRST
    while True:
        await asyncio.sleep(pause)
        pause = min(pause * 2, AGAIN_AT_LEAST)
        try:
            await update(id, change)
        except (ResourceExhausted, HostFault) as fault:
            LOG.debug("%s", fault, extra={"object_id": id})
        except NotFound:
            return
        else:
            host.store.settle(id, change)
            LOG.info("what has happened is stored by now", extra={"object_id": id})
            return


async def record_exit(host: Host, end: ExitRecord) -> None:
    """Record how a container ended and wake whoever waits; a second report is ignored."""
    id = end["container"]
    async with host.lock(id):
        running = host.store.container(id)
        if running is None or running.state is not ContainerState.RUNNING:
            return
        await record_end(host, id, lambda now: plan_exited(now, end))
    LOG.info("container ended with code %d", end["code"], extra={"container_id": id, "sandbox_id": running.sandbox_id})


async def record_end(host: Host, id: str, plan: Callable[[ContainerRecord], ContainerRecord]) -> None:
    """With the container's lock held, or before RPCs are served. ``plan`` makes the record of its end."""

    def change(now: ContainerRecord) -> ContainerRecord:
        return now if now.state is ContainerState.EXITED else plan(now)

    await record_change(host, host.store.update_container, id, change)
    host.exited(id).set()


async def end_sandbox(host: Host, sandbox_id: str, why: str) -> None:
    """Its namespaces have lost their holder: the sandbox turns NotReady."""

    def change(now: SandboxRecord) -> SandboxRecord:
        if now.state is not SandboxState.READY:
            return now
        return msgspec.structs.replace(now, state=SandboxState.NOTREADY, reason=why)

    found = host.store.sandbox(sandbox_id)
    if found is not None and found.state is SandboxState.READY:
        await record_change(host, host.store.update_sandbox, sandbox_id, change)
        LOG.warning("sandbox is not ready any more: %s", why, extra={"sandbox_id": sandbox_id})


async def bury_monitor(host: Host, sandbox_id: str, monitor: MonitorClient) -> None:
    """A monitor is gone. What it held is killed by cgroup and reported, the pod turns NotReady."""
    pod = host.pods.get(sandbox_id)
    if pod is None or pod.monitor is not monitor:
        return
    host.pods.pop(sandbox_id).close_descriptors()
    pod.end_sessions("the pod's monitor ended")
    record = host.store.sandbox(sandbox_id)
    if record is not None:
        end_monitor(record)
        await lose_pod(host, record, "the pod's monitor ended")


def end_monitor(record: SandboxRecord) -> None:
    """SIGKILL to the recorded monitor if it runs still: nobody can talk to it any more."""
    if record.monitor is not None:
        end_process(record.monitor.pid, record.monitor.start_time)


def end_process(pid: int, began: int) -> None:
    """SIGKILL to ``pid`` if it is the process that began then (``runtime.procfs``), in this boot."""
    try:
        pidfd = os.pidfd_open(pid)
    except OSError:
        return  # ESRCH: gone; EINVAL: the number is a thread's by now
    try:
        if start_time(pid) == began:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except (NotFound, ProcessLookupError):
        return
    finally:
        os.close(pidfd)


async def lose_pod(host: Host, record: SandboxRecord, why: str) -> None:
    """Kill everything of a pod that has no monitor any more and report it ended."""
    plan = decode(record.plan, SandboxPlan)
    directory = host.pod_directory(record.id)
    for container in host.store.containers_of(record.id):
        container_plan = decode(container.plan, ContainerPlan)
        cgroup_kill.kill(cgroup_layout.dirs(host.layout, container_plan.cgroup))
        if container.state is ContainerState.RUNNING:
            await settle_container(host, container, directory, why)
    cgroup_kill.kill(cgroup_layout.dirs(host.layout, plan.pause_cgroup))
    await end_sandbox(host, record.id, why)


async def settle_container(host: Host, record: ContainerRecord, directory: str, why: str) -> None:
    """A container that is not running any more gets its exit record, or an unknown end; also
    when whoever asks for it leaves meanwhile."""
    task = host.tasks.spawn(f"end {record.id[:12]}", settle_running(host, record.id, directory, why), watched=True)
    await asyncio.shield(task)


async def settle_running(host: Host, id: str, directory: str, why: str) -> None:
    async with host.lock(id):
        current = host.store.container(id)
        if current is not None and current.state is ContainerState.RUNNING:
            await end_container(host, id, directory, why)


async def end_container(host: Host, id: str, directory: str, why: str) -> None:
    """As its exit record says, or as lost."""
    end, now = read_exit(f"{directory}/exits/{id}.json"), time.time_ns()
    await record_end(host, id, lambda known: plan_exited(known, end) if end else plan_lost(known, why, now))
