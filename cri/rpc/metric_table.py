"""The metrics of ListPodSandboxMetrics: names, labels and units as cAdvisor has them; pure.

kubelet passes them on at /metrics/cadvisor, so that dashboards see the same whoever counts.
``metric_messages`` encodes them, ``cri.sweep`` takes the readings.

Invariant: every value belongs to one of ``DEFINITIONS`` and has one extra label value for
each of its extra label keys. What the kernel does not give is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from network.interfaces import Interface
from proto import api_pb2 as api
from runtime.cgroups.detail import Detail
from runtime.cgroups.processes import Processes
from runtime.cgroups.usage import Pressure, Usage

COUNTER, GAUGE = api.COUNTER, api.GAUGE
SECOND = 1_000_000_000
BASE_LABELS = ("container", "id", "image", "name", "namespace", "pod")
"""What kubelet gives cAdvisor's metrics. ``id`` is the cgroup, ``name`` the object's id; ``container`` and
``image`` are empty for a pod."""

DEFAULT_SHARES, DEFAULT_PERIOD = 1024, 100_000
"""The kernel's own, in force where nothing was asked for."""


class FileSystem(NamedTuple):
    """Where the writable layers are: bytes, and inodes of it."""

    device: str
    size: int
    inodes: int
    inodes_free: int


class Subject(NamedTuple):
    """A container or a pod at one moment. ``began`` and ``now`` in ns since the epoch; ``resources`` is
    None for a pod, as are ``processes`` and ``layer`` (bytes, and when they were counted)."""

    usage: Usage
    detail: Detail
    began: int
    now: int
    resources: api.LinuxContainerResources | None = None
    processes: Processes | None = None
    layer: tuple[int, int] | None = None
    file_system: FileSystem | None = None
    interfaces: tuple[Interface, ...] = ()
    device: Callable[[int, int], str] = lambda major, minor: f"{major}:{minor}"


class Value(NamedTuple):
    """``extra``: the values of the extra labels; ``at``: when it was measured, 0 for just now."""

    value: int
    extra: tuple[str, ...] = ()
    at: int = 0


class Definition(NamedTuple):
    """One metric; ``read`` gives its values of a subject: none, one or one for each extra label."""

    name: str
    kind: api.MetricType.ValueType
    help: str
    read: Callable[[Subject], int | Iterable[Value] | None]
    extra: tuple[str, ...] = ()

    @property
    def label_keys(self) -> tuple[str, ...]:
        return BASE_LABELS + self.extra


class Group(NamedTuple):
    """Metrics that depend on the same ``inputs``: as long as those are equal, so are the values."""

    inputs: Callable[[Subject], object]
    definitions: tuple[Definition, ...]


def seconds(nanoseconds: int | None) -> int | None:
    return None if nanoseconds is None else nanoseconds // SECOND


def cfs(value: Callable[[Detail], int | None]) -> Callable[[Subject], int | None]:
    """Of containers with a quota; the others have no periods."""

    def read(subject: Subject) -> int | None:
        limited = subject.resources is not None and subject.resources.cpu_quota > 0
        return value(subject.detail) if limited else None

    return read


def spec(value: Callable[[api.LinuxContainerResources], int | None]) -> Callable[[Subject], int | None]:
    """What a container may use; 0 is no limit, as cAdvisor has it."""
    return lambda subject: None if subject.resources is None else value(subject.resources)


def reservation(resources: api.LinuxContainerResources) -> int:
    asked = resources.unified.get("memory.low", "")
    return int(asked) if asked.isascii() and asked.isdigit() else 0


def stalled(pressure: Callable[[Usage], Pressure | None], line: str) -> Callable[[Subject], int | None]:
    """Seconds out of a line of a pressure file, which has microseconds."""

    def read(subject: Subject) -> int | None:
        found = pressure(subject.usage)
        stall = None if found is None else getattr(found, line)
        return None if stall is None else int(stall.total // 1_000_000)

    return read


def each_interface(counter: Callable[[Interface], int]) -> Callable[[Subject], list[Value]]:
    return lambda subject: [Value(counter(each), (each.name,)) for each in subject.interfaces]


def of_processes(value: Callable[[Processes], int]) -> Callable[[Subject], list[Value]]:
    def read(subject: Subject) -> list[Value]:
        found = subject.processes
        return [] if found is None else [Value(value(found), (), found.time)]

    return read


def open_files(subject: Subject) -> list[Value]:
    found = subject.processes
    if found is None or found.open_files is None or found.open_files < 0:
        return []
    return [Value(found.open_files, ("max_open_files",), found.time)]


def of_file_system(value: Callable[[FileSystem], int]) -> Callable[[Subject], list[Value]]:
    def read(subject: Subject) -> list[Value]:
        found = subject.file_system
        return [] if found is None else [Value(value(found), (found.device,))]

    return read


def layer_usage(subject: Subject) -> list[Value]:
    if subject.layer is None or subject.file_system is None:
        return []
    return [Value(subject.layer[0], (subject.file_system.device,), subject.layer[1])]


def device_io(what: str, operation: str) -> Callable[[Subject], list[Value]]:
    def read(subject: Subject) -> list[Value]:
        found = []
        for each in subject.detail.io:
            value = getattr(each, what).get(operation)
            if value is not None:
                found.append(Value(value, (subject.device(each.major, each.minor),)))
        return found

    return read


def device_usage(subject: Subject) -> list[Value]:
    return [
        Value(value, (subject.device(each.major, each.minor), str(each.major), str(each.minor), operation))
        for each in subject.detail.io
        for operation, value in each.bytes.items()
    ]


def memory_failures(subject: Subject) -> list[Value]:
    usage, detail = subject.usage, subject.detail
    figures = (
        (detail.own_faults, ("pgfault", "container")),
        (usage.page_faults, ("pgfault", "hierarchy")),
        (detail.own_major_faults, ("pgmajfault", "container")),
        (usage.major_page_faults, ("pgmajfault", "hierarchy")),
    )
    return [Value(value, extra) for value, extra in figures if value is not None]


def cpu_usage(subject: Subject) -> list[Value]:
    return [] if subject.usage.cpu is None else [Value(subject.usage.cpu // SECOND, ("total",))]


def huge_pages(subject: Subject) -> list[Value]:
    return [Value(each.usage, (each.page_size,)) for each in subject.detail.huge_pages]


def huge_pages_peak(subject: Subject) -> list[Value]:
    return [Value(each.peak, (each.page_size,)) for each in subject.detail.huge_pages if each.peak is not None]
