"""What the daemon does with the state of an earlier run: believe the kernel, finish or undo.

In this order: a changed boot ends everything; each pod, in parallel and with a
deadline, is connected to its monitor again or reported lost; operations that did
not end are undone; what belongs to no record goes.

Assumptions: while no daemon ran, monitors went on and wrote exit records; nobody
else changed our directories. A pod whose recovery fails is quarantined (UNKNOWN),
which can still be stopped and removed.

Invariant: one pod never keeps another from being recovered, nor the daemon from serving.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from cri import intent
from cri.exits import end_container, end_monitor, end_sandbox, lose_pod, record_change, settle_container, watch_monitor
from cri.fsck import remove_unknown
from cri.host import Host, LivePod
from cri.networks import settle
from cri.plan.sandbox import BRIDGE
from cri.state.meta import BOOT_ID
from cri.state.records import ContainerState, SandboxRecord, SandboxState
from runtime.errors import Fault

LOG = logging.getLogger("crisp.recovery")

POD_DEADLINE = 10.0
"""Seconds for one pod; then it is quarantined and the rest goes on."""


async def recover(host: Host) -> None:
    """Bring records and kernel into agreement, then open the gate (``Host.ready``)."""
    began = time.monotonic()
    try:
        await end_earlier_boots(host)
        pods = [record for record in host.store.sandboxes if not record.stopped]
        await asyncio.gather(*(recover_guarded(host, record) for record in pods))
        await undo_unfinished(host)
        await remove_orphans(host)
        if host.meta.get(BOOT_ID) != host.boot_id:
            await host.meta.set(BOOT_ID, host.boot_id)
    finally:
        host.ready.set()
    host.tasks.spawn("settle the CNI network", settle(host))
    took = time.monotonic() - began
    LOG.info("recovered %d pods, %d of them live, in %.3f s", len(host.store.sandboxes), len(host.pods), took)


async def end_earlier_boots(host: Host) -> None:
    """Pods of another boot are over: reported exited, their addresses released, records kept."""
    for record in host.store.sandboxes:
        if record.boot_id != host.boot_id and not record.stopped:
            try:
                await end_with_boot(host, record, "the node was restarted")
            except (Fault, OSError) as error:
                LOG.error("cannot end a pod of another boot: %s", error, extra={"sandbox_id": record.id})


async def end_with_boot(host: Host, record: SandboxRecord, why: str) -> None:
    directory = host.pod_directory(record.id)
    await end_sandbox(host, record.id, why)
    for container in host.store.containers_of(record.id):
        if container.state is not ContainerState.EXITED:
            await end_container(host, container.id, directory, why)
    await host.network[BRIDGE].detach(record.id)  # CNI plugins may take their time: ``cri.networks.settle``


async def undo_unfinished(host: Host) -> None:
    """What a killed daemon had begun and not ended; what cannot be undone now is tried again later."""
    for record in host.operations.unfinished():
        try:
            async with asyncio.timeout(POD_DEADLINE):
                await intent.undo_operation(host, record)
        except Exception as error:  # one that cannot be undone, or not even read, must not keep the others
            words = str(error) or f"an unfinished {record.kind} is not undone yet"
            known = isinstance(error, Fault | TimeoutError)
            LOG.error("%s", words, exc_info=not known, extra={"object_id": record.object_id})
            intent.keep_settling(host, record.key)


async def remove_orphans(host: Host) -> None:
    """What belongs to no record: blank pods, and whatever a lost database knew of."""
    for found in await remove_unknown(host):
        extra = {"object_id": found.object}
        if found.repaired:
            LOG.info("removed the %s %s, which %s", found.kind, found.object, found.message, extra=extra)
        else:
            LOG.error("cannot remove the %s %s: %s", found.kind, found.object, found.error, extra=extra)


async def recover_guarded(host: Host, record: SandboxRecord) -> None:
    try:
        async with asyncio.timeout(POD_DEADLINE):
            await recover_pod(host, record)
    except Exception as error:
        why = f"recovery failed: {str(error) or type(error).__name__}"
        LOG.error("%s", why, exc_info=not isinstance(error, Fault), extra={"sandbox_id": record.id})
        await record_change(host, host.store.update_sandbox, record.id, lambda now: quarantined(now, why))


def quarantined(record: SandboxRecord, why: str) -> SandboxRecord:
    return record if record.stopped else msgspec.structs.replace(record, state=SandboxState.UNKNOWN, reason=why)


async def recover_pod(host: Host, record: SandboxRecord) -> None:
    """Connect the pod's monitor and settle what ended meanwhile, or report the pod lost."""
    directory = host.pod_directory(record.id)
    try:
        if record.monitor is None:
            raise Fault("it has none", step="connect the monitor", object=record.id)
        monitor = await host.supervisor.connect_monitor(directory, record.monitor.pid, record.monitor.start_time)
    except (Fault, OSError) as error:
        LOG.warning("the monitor is gone: %s", error, extra={"sandbox_id": record.id})
        if record.boot_id == host.boot_id:  # else its pid and start time name another process, if any
            end_monitor(record)
        await lose_pod(host, record, "the pod's monitor ended while no daemon ran")
        return
    if record.boot_id != host.boot_id:  # reported ended, so it has to be
        try:
            return await monitor.shutdown()
        finally:
            monitor.close()
    host.pods[record.id] = LivePod(monitor, pause_pid=record.pause_pid)
    watch_monitor(host, record.id, monitor)
    hello = await monitor.hello()
    for container in host.store.containers_of(record.id):
        known = hello["containers"].get(container.id)
        if known is not None:
            host.dropped.found(container.id, known["log_dropped"])
        if container.state is ContainerState.RUNNING and (known is None or known["state"] != "running"):
            await settle_container(host, container, directory, "its end was not seen")
    if hello["pause"] is None and record.pause_pid:
        await lose_pod(host, record, "pause ended while no daemon ran")
