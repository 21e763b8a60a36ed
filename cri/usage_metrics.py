"""What pods and containers use, as Prometheus scrapes it: ``crisp_pod_*`` and ``crisp_container_*``.

``cri.metrics`` serves it beside what crisp counts of itself. The readings are those of the sweep that
the CRI's statistics come from (``cri.sweep``). The text is written here, for it costs a tenth of what
samples of the Prometheus library do.

Invariant: the names are a short list, a series goes with its object, and however often somebody
scrapes, no cgroup is read for it more than once in ``MAX_AGE``.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple, Protocol

from cri.state.index import Index
from cri.state.records import ContainerRecord, ContainerState, SandboxRecord, SandboxState
from cri.sweep import running_of
from network.interfaces import Interface
from runtime.cgroups.usage import Usage
from runtime.errors import HostFault

LOG = logging.getLogger("crisp.metrics")

MAX_AGE = 1_000_000_000
"""Nanoseconds. What kubelet or another scrape has asked for within it is served again."""


class RecentReadings(Protocol):
    """What is asked of ``cri.sweep``."""

    def recent(self, records: Iterable[SandboxRecord | ContainerRecord], age: int) -> dict[str, Usage]: ...
    def recent_interfaces(self, record: SandboxRecord, age: int) -> tuple[Interface, ...]: ...
    def last(self, records: Sequence[ContainerRecord]) -> dict[str, Usage]: ...


class Family(NamedTuple):
    """One metric; ``kind`` as Prometheus has it."""

    name: str
    kind: str
    help: str


class OfUsage(NamedTuple):
    """A metric that pods and containers have, and its value, None where the kernel does not give it."""

    family: Family
    value: Callable[[Usage], float | None]


class Labelled(NamedTuple):
    """An object's labels, written, and what it uses; ``interface`` of a pod that has its own."""

    labels: str
    usage: Usage
    interface: Interface | None = None


USAGE = (
    OfUsage(
        Family("cpu_usage_seconds_total", "counter", "CPU time used, in seconds."),
        lambda usage: None if usage.cpu is None else usage.cpu / 1e9,
    ),
    OfUsage(
        Family("memory_working_set_bytes", "gauge", "Memory used without inactive page cache, in bytes."),
        lambda usage: usage.memory_working_set,
    ),
    OfUsage(
        Family("processes", "gauge", "Processes and threads, as the kernel's pids controller counts them."),
        lambda usage: usage.pids,
    ),
)
NETWORK: tuple[tuple[Family, Callable[[Interface], int]], ...] = (
    (
        Family("network_receive_bytes_total", "counter", "Bytes received by the pod's own default interface."),
        lambda interface: interface.rx_bytes,
    ),
    (
        Family("network_transmit_bytes_total", "counter", "Bytes sent by the pod's own default interface."),
        lambda interface: interface.tx_bytes,
    ),
)
"""Of one interface alone: how many others there are, and their names, is up to the pod."""

OOM_KILLS = Family(
    "oom_kills_total", "counter", "Processes killed for want of memory; of what has ended, until it is removed."
)


class UsageMetrics:
    """``render`` is what a scrape gets of them."""

    def __init__(
        self, sandboxes: Index[SandboxRecord], containers: Index[ContainerRecord], readings: RecentReadings
    ) -> None:
        self._sandboxes, self._containers, self._readings = sandboxes, containers, readings

    def render(self) -> bytes:
        """Of ready pods, of running containers, and how many of an ended one's processes were killed for memory."""
        ready = [record for record in self._sandboxes.values() if record.state is SandboxState.READY]
        running = running_of(self._containers.values())
        ended = [record for record in self._containers.values() if record.state is ContainerState.EXITED]
        try:
            found = self._readings.recent([*running, *ready], MAX_AGE)
            killed = {id: usage for id, usage in self._readings.last(ended).items() if usage.oom_kills}
        except HostFault as fault:  # of a cgroup that is there: all else is served
            LOG.warning("no figures of pods: %s", fault)
            return b""
        pods = [self._pod(record, found[record.id]) for record in ready if record.id in found]
        return exposition(pods, self._labelled(running, found), self._labelled(ended, killed))

    def _pod(self, record: SandboxRecord, usage: Usage) -> Labelled:
        default = next(iter(self._readings.recent_interfaces(record, MAX_AGE)), None)
        return Labelled(pod_labels(record), usage, default)

    def _labelled(self, records: Iterable[ContainerRecord], found: Mapping[str, Usage]) -> list[Labelled]:
        shown = [(self._sandboxes.find(record.sandbox_id), record) for record in records if record.id in found]
        return [Labelled(container_labels(pod, each), found[each.id]) for pod, each in shown if pod is not None]


def exposition(pods: Sequence[Labelled], containers: Sequence[Labelled], ended: Sequence[Labelled]) -> bytes:
    """Prometheus's text format, version 0.0.4."""
    lines: list[str] = []
    for noun, objects in (("pod", pods), ("container", containers)):
        for family, value in USAGE:
            figures = ((each.labels, value(each.usage)) for each in objects)
            lines += lines_of(f"crisp_{noun}_{family.name}", family, figures)
    for family, count in NETWORK:
        counters = ((each.labels, count(each.interface)) for each in pods if each.interface)
        lines += lines_of(f"crisp_pod_{family.name}", family, counters)
    kills = ((each.labels, each.usage.oom_kills) for each in (*containers, *ended))
    lines += lines_of(f"crisp_container_{OOM_KILLS.name}", OOM_KILLS, kills)
    return "".join(lines).encode()


def lines_of(name: str, family: Family, figures: Iterable[tuple[str, float | None]]) -> list[str]:
    head = f"# HELP {name} {family.help}\n# TYPE {name} {family.kind}\n"
    return [head, *(f"{name}{{{labels}}} {value}\n" for labels, value in figures if value is not None)]


def pod_labels(record: SandboxRecord) -> str:
    return ",".join(
        (label("sandbox", record.id), label("namespace", record.namespace), label("pod", record.name)),
    )


def container_labels(pod: SandboxRecord, record: ContainerRecord) -> str:
    """``id`` tells one try from the next: both may be there, and each has counters of its own."""
    return f"{pod_labels(pod)},{label('container', record.name)},{label('id', record.id)}"


def label(name: str, value: str) -> str:
    written = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
    return f'{name}="{written}"'
