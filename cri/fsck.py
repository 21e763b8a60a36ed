"""Whether the records and the host fit together: objects of nobody, records of nothing.

``crisp fsck`` asks through ``cri.admin`` or, offline, with the root's lock. Every
object that crisp makes carries the instance's name or lies in its directories, so
what belongs to no record can be found and, with repair, removed.

Invariant: only objects of this instance are looked at, and a pod that is being
made or removed at the moment is left alone.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, replace

from cri import intent
from cri.host import Host
from cri.plan.sandbox import CNI
from cri.state.records import OperationRecord, SandboxState
from cri.steps.cgroups import remove_cgroup
from cri.steps.files import unmount_all, unmount_and_unlink
from cri.steps.sandbox import MakePodDirectory
from network.provider import Orphan, Provider
from runtime.errors import FailedPrecondition, Fault, Unavailable
from runtime.systemd.keeper import end_stray, strays
from runtime.systemd.names import id_of


@dataclass(frozen=True, slots=True)
class Finding:
    """``kind`` and ``object`` name it, ``message`` says what is wrong."""

    kind: str
    object: str
    message: str
    repaired: bool = False
    error: str = ""


Repair = Callable[[], Awaitable[None]]
Probe = Callable[[Host], AsyncIterator[tuple[Finding, Repair]]]


async def fsck(host: Host, *, repair: bool, checking: bool = False) -> list[Finding]:
    """All findings; with ``repair`` each was removed or says why not. ``checking``: CNI plugins are
    asked about each pod, too, which takes a process for each."""
    probes = (unfinished, *UNKNOWN, attachments, lost_pods, *((networks,) if checking else ()))
    return await look(host, probes, repair=repair)


async def remove_unknown(host: Host) -> list[Finding]:
    """Remove what belongs to no record; what was found, and whether it is gone."""
    return await look(host, UNKNOWN, repair=True)


async def look(host: Host, probes: Sequence[Probe], *, repair: bool) -> list[Finding]:
    findings = []
    for probe in probes:
        async for finding, mend in probe(host):
            if not repair:
                findings.append(finding)
                continue
            try:
                await mend()
                findings.append(replace(finding, repaired=True))
            except (Fault, OSError) as error:
                findings.append(replace(finding, error=str(error)))
    host.metrics.leaks(Counter(finding.kind for finding in findings if not finding.repaired))
    return findings


def is_known(host: Host, id: str) -> bool:
    """Whether somebody answers for it: a record, a request that makes it, the pool, or a debt in the journal."""
    known = id in host.store.sandboxes or id in host.store.containers or host.operations.in_flight(id)
    return (
        known or id in host.pods or host.pool.makes(id) or any(id == owed.object_id for owed in host.store.unfinished())
    )


async def unfinished(host: Host) -> AsyncIterator[tuple[Finding, Repair]]:
    """Operations whose effects may exist."""
    for record in host.operations.unfinished():

        async def mend(record: OperationRecord = record) -> None:
            await intent.settle_debt(host, record.key, only=record)

        yield Finding("operation", record.object_id, f"an unfinished {record.kind} is owed its undo"), mend


async def pod_directories(host: Host) -> AsyncIterator[tuple[Finding, Repair]]:
    for id in entries(host.state / "pods"):
        if not is_known(host, id):
            path = os.fspath(host.state / "pods" / id)

            async def mend(id: str = id, path: str = path) -> None:
                await remove_pod_directory(host, id, path)

            yield Finding("directory", path, "belongs to no pod"), mend


async def remove_pod_directory(host: Host, id: str, path: str) -> None:
    """Whoever lives there goes first, then pins and shm: a directory is never deleted through a mount."""
    with contextlib.suppress(Unavailable):  # the usual case: nobody does
        monitor = await host.supervisor.find_monitor(path)
        try:
            await monitor.shutdown()
        finally:
            monitor.close()
    for pin in entries(f"{path}/ns"):
        unmount_and_unlink(f"{path}/ns/{pin}")
    unmount_all(f"{path}/shm")
    await MakePodDirectory(id, path).undo(host)


async def container_directories(host: Host) -> AsyncIterator[tuple[Finding, Repair]]:
    for id in entries(host.root / "containers"):
        if not is_known(host, id):
            path = os.fspath(host.root / "containers" / id)

            async def mend(path: str = path) -> None:
                await host.trash.throw(path)

            yield Finding("directory", path, "belongs to no container"), mend


async def layers(host: Host) -> AsyncIterator[tuple[Finding, Repair]]:
    """What is neither a whole layer nor one that is being made."""
    for path in sorted(host.images.strays()):

        async def mend(path: str = path) -> None:
            await host.images.throw_stray(path)

        yield Finding("layer", path, "belongs to no image and to no pull"), mend


async def mountpoints(host: Host) -> AsyncIterator[tuple[Finding, Repair]]:
    """Layers of mountpoints, and what is left of the making of one."""
    for path in host.mountpoints.strays():

        async def mend(path: str = path) -> None:
            await host.mountpoints.throw_stray(path)

        yield Finding("mountpoints", path, "belongs to no image and to no container"), mend


async def cgroups(host: Host) -> AsyncIterator[tuple[Finding, Repair]]:
    """Below ``/crisp-<instance>``: pods that kubelet gave no parent for."""
    parent = f"/crisp-{host.instance}"
    for id in sorted(children(host, parent)):
        if not is_known(host, id):
            path = f"{parent}/{id}"

            async def mend(path: str = path) -> None:
                await remove_cgroup(host, path)

            yield Finding("cgroup", path, "belongs to no pod"), mend


async def scopes(host: Host) -> AsyncIterator[tuple[Finding, Repair]]:
    """What systemd has made for this instance, and keepers that did not come into a scope. Not where it is
    not the driver: pods of before have records."""
    if not host.facts.systemd:
        return
    for name in await host.scopes.find(host.instance):
        if not is_known(host, id_of(name)):

            async def mend(name: str = name) -> None:
                await host.scopes.units.stop(name)

            yield Finding("unit", name, "belongs to no pod"), mend
    for pid, scope in strays(f"{host.layout.v2}{host.layout.own_v2}", host.instance):
        if not is_known(host, id_of(scope)):

            async def end(pid: int = pid, scope: str = scope) -> None:
                end_stray(pid, scope)

            yield Finding("process", str(pid), f"was to keep {scope}, and is not in it"), end


def children(host: Host, path: str) -> set[str]:
    mounts = [hierarchy.mount for hierarchy in host.layout.v1] + ([host.layout.v2] if host.layout.v2 else [])
    return {name for mount in mounts for name in entries(mount + path) if os.path.isdir(f"{mount}{path}/{name}")}


async def network_orphans(host: Host) -> AsyncIterator[tuple[Finding, Repair]]:
    for name, provider in host.network.items():
        if name != CNI:
            async for each in orphans_of(host, provider):
                yield each


async def attachments(host: Host) -> AsyncIterator[tuple[Finding, Repair]]:
    """Of CNI plugins, which may take their time: ``cri.networks.settle`` removes them when a daemon starts."""
    async for each in orphans_of(host, host.cni):
        yield each


async def networks(host: Host) -> AsyncIterator[tuple[Finding, Repair]]:
    """Pods whose network is not as the CNI plugins made it."""

    async def mend() -> None:
        raise FailedPrecondition("only a new pod mends it")

    for record in host.store.sandboxes:
        if record.state is SandboxState.READY and (words := await host.cni.check(record.id)):
            yield Finding("network", record.id, words), mend


async def orphans_of(host: Host, provider: Provider) -> AsyncIterator[tuple[Finding, Repair]]:
    """Who is known is asked once more after the look at the host: a pod that came meanwhile is no orphan."""
    known = [record.id for record in host.store.sandboxes if not record.stopped]
    known += [*host.pods, *(operation.object_id for operation in host.store.unfinished())]
    for orphan in await provider.orphans(known):
        if orphan.owner not in known and holds_network(host, orphan.owner):
            continue

        async def mend(orphan: Orphan = orphan) -> None:
            await provider.remove_orphan(orphan)

        yield Finding(orphan.kind.value, orphan.name, "belongs to no pod"), mend


def holds_network(host: Host, id: str) -> bool:
    record = host.store.sandbox(id)
    return is_known(host, id) if record is None else not record.stopped


async def lost_pods(host: Host) -> AsyncIterator[tuple[Finding, Repair]]:
    """The reverse: records that say READY and have nothing behind them."""
    for record in host.store.sandboxes:
        if record.state is SandboxState.READY and record.id not in host.pods:

            async def mend(id: str = record.id) -> None:
                from cri.exits import end_sandbox

                await end_sandbox(host, id, "fsck found nothing behind it")

            yield Finding("record", record.id, "is READY and has no monitor"), mend


def entries(path: object) -> list[str]:
    try:
        return sorted(os.listdir(path))  # type: ignore[call-overload]
    except (FileNotFoundError, NotADirectoryError):
        return []


UNKNOWN: Sequence[Probe] = (
    pod_directories,
    container_directories,
    layers,
    mountpoints,
    cgroups,
    scopes,
    network_orphans,
)
"""The probes for what belongs to no record."""
