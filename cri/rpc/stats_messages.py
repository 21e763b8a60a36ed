"""From readings to the statistics of the API, encoded: ``ContainerStats`` and ``PodSandboxStats``.

``container_stats`` and ``sandbox_stats`` make their answers of them. A message is the
concatenation of its fields, so what has not changed since the last reading is not encoded
again: the attributes (``cri.rpc.encoded``), and of most pods most of the time all figures but
the time of the reading.

Invariant: a figure that the kernel does not give is left unset, but for those that kubelet
takes for granted, which are 0.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import lru_cache

from google.protobuf.message import Message

from cri.layers import LayerUsage
from cri.rpc.encoded import EncodedList, element, varint
from cri.rpc.messages import container_attributes, sandbox_attributes
from cri.state.records import ContainerRecord, SandboxRecord
from cri.sweep import ContainerReading, PodReading
from network.interfaces import Interface
from proto import api_pb2 as api
from runtime.cgroups.sampler import Sample, lifetime_nanocores
from runtime.cgroups.usage import Pressure, Stall, Usage

CONTAINER, POD = api.ContainerStats, api.LinuxPodSandboxStats
LINUX = api.PodSandboxStats.LINUX_FIELD_NUMBER
TIMESTAMP = varint(api.CpuUsage.TIMESTAMP_FIELD_NUMBER << 3)
"""Where a time goes in each of the messages of figures, which have it in the same field."""

Timed = tuple[tuple[int, Message], ...]
"""Messages of figures without their time, and the fields that they are for."""


class StatsMessages:
    """Encodes readings; keeps the attributes of each object, and the figures that its last reading had."""

    def __init__(self) -> None:
        self._containers: EncodedList[ContainerRecord] = EncodedList(container_attributes)
        self._sandboxes: EncodedList[SandboxRecord] = EncodedList(sandbox_attributes)
        self._figures: dict[str, tuple[object, list[bytes]]] = {}

    def container(self, reading: ContainerReading, mountpoint: str) -> bytes:
        """A ``ContainerStats``; ``mountpoint`` names the file system of the writable layer."""
        usage, record = usage_of(reading.sample), reading.record
        rate = rate_of(reading.sample, usage, record.started_at)
        figures = self._timed(record.id, usage, rate, lambda: container_figures(usage, rate))
        layer = element(CONTAINER.WRITABLE_LAYER_FIELD_NUMBER, layer_usage(reading.layer, mountpoint))
        return self._containers.join([record]) + figures + layer

    def pod(self, reading: PodReading, mountpoint: str) -> bytes:
        """A ``PodSandboxStats`` with its containers."""
        usage, record = usage_of(reading.sample), reading.record
        rate = rate_of(reading.sample, usage, record.created_at)
        network = TIMESTAMP + varint(reading.network_time) + network_usage(reading.interfaces)
        linux = [
            self._timed(record.id, usage, rate, lambda: pod_figures(usage, rate)),
            element(POD.NETWORK_FIELD_NUMBER, network),
            *(element(POD.CONTAINERS_FIELD_NUMBER, self.container(each, mountpoint)) for each in reading.containers),
        ]
        return self._sandboxes.join([record]) + element(LINUX, b"".join(linux))

    def _timed(self, id: str, usage: Usage, rate: int | None, build: Callable[[], Timed]) -> bytes:
        """What ``build`` makes, encoded, with the time of ``usage``; built if ``rate`` or another figure of
        ``usage`` is not what it was."""
        time = varint(usage.time)
        shown = (len(time), usage[2:], rate)
        kept = self._figures.get(id)
        if kept is None or kept[0] != shown:
            kept = self._figures[id] = shown, around(build(), len(time))
        return time.join(kept[1])

    def forget(self, id: str) -> None:
        self._containers.forget(id)
        self._sandboxes.forget(id)
        self._figures.pop(id, None)


def around(messages: Timed, size: int) -> list[bytes]:
    """The encoding of ``messages`` in pieces, between which their time goes, of ``size`` bytes."""
    pieces = [b""]
    for number, message in messages:
        body = message.SerializeToString()
        pieces[-1] += varint(number << 3 | 2) + varint(len(TIMESTAMP) + size + len(body)) + TIMESTAMP
        pieces.append(body)
    return pieces


def container_figures(usage: Usage, rate: int | None) -> Timed:
    swap = api.SwapUsage()
    swap.swap_usage_bytes.value = usage.swap_usage or 0
    swap.swap_available_bytes.value = usage.swap_available or 0
    return (
        (CONTAINER.CPU_FIELD_NUMBER, cpu_usage(usage, rate)),
        (CONTAINER.MEMORY_FIELD_NUMBER, memory_usage(usage)),
        (CONTAINER.SWAP_FIELD_NUMBER, swap),
        (CONTAINER.IO_FIELD_NUMBER, io_usage(usage)),
    )


def pod_figures(usage: Usage, rate: int | None) -> Timed:
    process = api.ProcessUsage()
    process.process_count.value = usage.pids or 0
    return (
        (POD.CPU_FIELD_NUMBER, cpu_usage(usage, rate)),
        (POD.MEMORY_FIELD_NUMBER, memory_usage(usage)),
        (POD.PROCESS_FIELD_NUMBER, process),
        (POD.IO_FIELD_NUMBER, io_usage(usage)),
    )


def usage_of(sample: Sample | None) -> Usage:
    """Nothing used, now, by what has no cgroup any more."""
    return sample.usage if sample else Usage(time=time.time_ns(), clock=time.monotonic_ns())


def rate_of(sample: Sample | None, usage: Usage, began: int) -> int | None:
    """Nanocores: between two readings, of a first one since ``began``."""
    found = sample.nanocores if sample else None
    return lifetime_nanocores(usage, began) if found is None else found


def cpu_usage(usage: Usage, rate: int | None) -> api.CpuUsage:
    cpu = api.CpuUsage()
    cpu.usage_core_nano_seconds.value = usage.cpu or 0
    if rate is not None:
        cpu.usage_nano_cores.value = rate
    set_pressure(cpu.psi, usage.cpu_pressure)
    return cpu


def memory_usage(usage: Usage) -> api.MemoryUsage:
    memory = api.MemoryUsage()
    memory.working_set_bytes.value = usage.memory_working_set or 0
    memory.usage_bytes.value = usage.memory_usage or 0
    memory.rss_bytes.value = usage.memory_rss or 0
    memory.page_faults.value = usage.page_faults or 0
    memory.major_page_faults.value = usage.major_page_faults or 0
    if usage.memory_available is not None:
        memory.available_bytes.value = usage.memory_available
    set_pressure(memory.psi, usage.memory_pressure)
    return memory


def io_usage(usage: Usage) -> api.IoUsage:
    io = api.IoUsage()
    set_pressure(io.psi, usage.io_pressure)
    return io


@lru_cache(maxsize=1024)
def layer_usage(layer: LayerUsage, mountpoint: str) -> bytes:
    """A ``FilesystemUsage``; it has the time at which the layer was measured."""
    usage = api.FilesystemUsage(timestamp=layer.time, fs_id=api.FilesystemIdentifier(mountpoint=mountpoint))
    usage.used_bytes.value = layer.used_bytes
    usage.inodes_used.value = layer.inodes
    return usage.SerializeToString()


@lru_cache(maxsize=1024)
def network_usage(interfaces: tuple[Interface, ...]) -> bytes:
    """A ``NetworkUsage`` without its time."""
    network = api.NetworkUsage()
    for number, interface in enumerate(interfaces):
        set_interface(network.interfaces.add() if number else network.default_interface, interface)
    return network.SerializeToString()


def set_interface(target: api.NetworkInterfaceUsage, interface: Interface) -> None:
    target.name = interface.name
    target.rx_bytes.value, target.rx_errors.value = interface.rx_bytes, interface.rx_errors
    target.tx_bytes.value, target.tx_errors.value = interface.tx_bytes, interface.tx_errors


def set_pressure(target: api.PsiStats, pressure: Pressure | None) -> None:
    """Left unset where the kernel has no pressure stall information."""
    if pressure is not None:
        target.CopyFrom(psi_stats(pressure))


@lru_cache(maxsize=4096)
def psi_stats(pressure: Pressure) -> api.PsiStats:
    """Not to be changed: idle cgroups share them."""
    stats = api.PsiStats()
    for part, stall in ((stats.Full, pressure.full), (stats.Some, pressure.some)):
        if stall is not None:
            set_stall(part, stall)
    return stats


def set_stall(target: api.PsiData, stall: Stall) -> None:
    """Total in nanoseconds, where the kernel counts microseconds."""
    target.Total = stall.total * 1000
    target.Avg10, target.Avg60, target.Avg300 = stall.avg10, stall.avg60, stall.avg300
