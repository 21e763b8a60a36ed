"""One sweep of the cgroup tree: what pods and containers use, for statistics and metrics alike.

``cri.rpc.container_stats``, ``sandbox_stats`` and ``sandbox_metrics`` ask and make their
messages of the readings. Figures come from the kernel at the moment of the request;
those that cost a walk (writable layers, open descriptors) are kept for a while (``cri.aged``).
``cri.usage_metrics`` takes what somebody else has asked for a moment ago.

Invariant: a sweep reads each cgroup once, and an object whose cgroup is gone has a
reading without a sample: it never fails the others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from cri.aged import Aged
from cri.layers import Layers, LayerUsage
from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.plan.sandbox import NODE, SandboxPlan
from cri.state.records import ContainerRecord, ContainerState, SandboxRecord, SandboxState
from cri.tasks import Tasks
from network.interfaces import Interface, PodInterfaces, read_node
from runtime.cgroups.detail import Detail
from runtime.cgroups.layout import Layout
from runtime.cgroups.processes import Processes, measure_processes
from runtime.cgroups.sampler import Sample, advance
from runtime.cgroups.stats import Sweeper
from runtime.cgroups.usage import Usage

PATIENCE = 0.5
"""Seconds that the first figures of a container wait for what is measured in the background."""

NO_DETAIL = Detail()
NEVER = -(1 << 63)


@dataclass(frozen=True, slots=True)
class ContainerReading:
    """``sample`` is None when the cgroup is gone. ``processes`` is None before it was measured
    and in a reading without detail."""

    record: ContainerRecord
    cgroup: str
    sample: Sample | None
    detail: Detail
    layer: LayerUsage
    processes: Processes | None = None


@dataclass(frozen=True, slots=True)
class PodReading:
    """A pod's cgroup, pause included and without detail; ``interfaces`` were read at ``network_time`` (ns since the
    epoch), the default one first; ``containers`` are those that run."""

    record: SandboxRecord
    cgroup: str
    sample: Sample | None
    interfaces: tuple[Interface, ...]
    network_time: int
    containers: tuple[ContainerReading, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where an object's figures are: its cgroup, and for a pod the pin of its own network
    namespace (None in the node's network)."""

    cgroup: str
    namespace: str | None = None


class Readings:
    """Sweeps, and what one of them has to know of those before."""

    def __init__(self, layout: Layout, sweeper: Sweeper, layers: Layers, tasks: Tasks) -> None:
        self._sweeper = sweeper
        self._layers = layers
        self._processes = Aged(lambda cgroup: measure_processes(layout, cgroup), tasks)
        self._samples: dict[str, Sample] = {}
        self._places: dict[str, Place] = {}
        self._interfaces = PodInterfaces()
        self._networks: dict[str, tuple[int, tuple[Interface, ...]]] = {}
        self._ended: dict[str, Usage | None] = {}

    def containers(self, records: Sequence[ContainerRecord]) -> list[ContainerReading]:
        """A reading of each container now."""
        fresh = self._sweep([self._place(record).cgroup for record in records], detailed=False)
        return [self._container(record, fresh, detailed=False) for record in records]

    def pods(
        self,
        records: Sequence[SandboxRecord],
        containers_of: Callable[[str], Iterable[ContainerRecord]],
        *,
        detailed: bool = False,
    ) -> list[PodReading]:
        """A reading of each pod and of its running containers, which may have detail, now."""
        running = {record.id: running_of(containers_of(record.id)) for record in records}
        inside = [self._place(each).cgroup for containers in running.values() for each in containers]
        fresh = self._sweep(inside, detailed=detailed)
        # A pod after its containers: what it has used is never less than what they have.
        fresh |= self._sweep([self._place(record).cgroup for record in records], detailed=False)
        node: list[tuple[Interface, ...]] = []
        return [self._pod(record, running[record.id], fresh, node, detailed=detailed) for record in records]

    def recent(self, records: Iterable[SandboxRecord | ContainerRecord], age: int) -> dict[str, Usage]:
        """What each uses, by id, at most ``age`` ns ago: whoever has asked since then has paid for it. What has
        no cgroup any more is left out."""
        since = time.monotonic_ns() - age
        cgroups = {record.id: self._place(record).cgroup for record in records}
        self._sweep([each for each in cgroups.values() if self._sampled(each) < since], detailed=False)
        return {id: self._samples[each].usage for id, each in cgroups.items() if self._sampled(each) >= since}

    def recent_interfaces(self, record: SandboxRecord, age: int) -> tuple[Interface, ...]:
        """As ``recent``: a pod's own; none of one in the node's network."""
        place, known = self._place(record), self._networks.get(record.id)
        if place.namespace is None:
            return ()
        if known is None or known[0] < time.monotonic_ns() - age:
            return self._network(record, place, [])
        return known[1]

    def last(self, records: Sequence[ContainerRecord]) -> dict[str, Usage]:
        """What each of these containers, which have ended, had used in the end, by id: read once. What has no
        cgroup any more is left out."""
        new = {record.id: self._place(record).cgroup for record in records if record.id not in self._ended}
        found = self._sweep(list(new.values()), detailed=False)
        for id, cgroup in new.items():
            self._ended[id] = found[cgroup][0].usage if cgroup in found else None
            self._sweeper.forget(cgroup)  # nobody reads it again
        return {record.id: usage for record in records if (usage := self._ended[record.id]) is not None}

    async def measured(self, records: Iterable[ContainerRecord]) -> None:
        """Wait a moment for what is measured in the background and never was for these containers."""
        known = list(records)
        await self._processes.first([self._place(record).cgroup for record in known], PATIENCE)
        await self.layers_measured(known)

    async def layers_measured(self, records: Iterable[ContainerRecord]) -> None:
        """As ``measured``, for what they have written alone."""
        await self._layers.first([record.id for record in records], PATIENCE)

    def forget(self, id: str) -> None:
        """The object is removed."""
        self._interfaces.forget(id)
        self._networks.pop(id, None)
        self._ended.pop(id, None)
        place = self._places.pop(id, None)
        if place is not None:
            self._samples.pop(place.cgroup, None)
            self._sweeper.forget(place.cgroup)
            self._processes.forget(place.cgroup)

    def _sampled(self, cgroup: str) -> int:
        """When on the monotonic clock, before all times if never."""
        found = self._samples.get(cgroup)
        return NEVER if found is None else found.usage.clock

    def _sweep(self, cgroups: list[str], *, detailed: bool) -> dict[str, tuple[Sample, Detail]]:
        if detailed:
            both = self._sweeper.sweep_detailed(cgroups)
            usages, details = {path: each[0] for path, each in both.items()}, {p: each[1] for p, each in both.items()}
        else:
            usages, details = self._sweeper.sweep(cgroups), {}
        self._samples = advance(self._samples, usages)
        return {path: (self._samples[path], details.get(path, NO_DETAIL)) for path in usages}

    def _container(
        self, record: ContainerRecord, fresh: dict[str, tuple[Sample, Detail]], *, detailed: bool
    ) -> ContainerReading:
        cgroup = self._place(record).cgroup
        sample, detail = fresh.get(cgroup, (None, NO_DETAIL))
        processes = self._processes.get(cgroup) if detailed else None
        return ContainerReading(record, cgroup, sample, detail, self._layers.usage(record.id), processes)

    def _pod(
        self,
        record: SandboxRecord,
        running: Sequence[ContainerRecord],
        fresh: dict[str, tuple[Sample, Detail]],
        node: list[tuple[Interface, ...]],
        *,
        detailed: bool,
    ) -> PodReading:
        place = self._place(record)
        sample, _ = fresh.get(place.cgroup, (None, NO_DETAIL))
        containers = tuple(self._container(each, fresh, detailed=detailed) for each in running)
        interfaces = self._network(record, place, node)
        return PodReading(record, place.cgroup, sample, interfaces, time.time_ns(), containers)

    def _network(self, record: SandboxRecord, place: Place, node: list[tuple[Interface, ...]]) -> tuple[Interface, ...]:
        """``node`` holds the node's own, once they were read in this sweep."""
        if record.state is not SandboxState.READY:
            return ()
        if place.namespace is not None:
            found = self._interfaces.read(record.id, record.pause_pid, place.namespace)
            self._networks[record.id] = time.monotonic_ns(), found
            return found
        if not node:
            node.append(read_node())
        return node[0]

    def _place(self, record: SandboxRecord | ContainerRecord) -> Place:
        """Plans are large and never change; they are looked into once."""
        found = self._places.get(record.id)
        if found is None:
            found = self._places[record.id] = place_of(record)
        return found


def place_of(record: SandboxRecord | ContainerRecord) -> Place:
    if isinstance(record, ContainerRecord):
        return Place(decode(record.plan, ContainerPlan).cgroup)
    plan = decode(record.plan, SandboxPlan)
    # All of the node is not the pod: one that asks for the root as its parent shows pause alone.
    cgroup = plan.pause_cgroup if plan.cgroup_parent == "/" else plan.cgroup_parent
    return Place(cgroup, None if plan.network == NODE else plan.namespace_path("network"))


def running_of(records: Iterable[ContainerRecord]) -> list[ContainerRecord]:
    return [record for record in records if record.state is ContainerState.RUNNING]
