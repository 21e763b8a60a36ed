"""From readings to the statistics of the API, encoded: ``ContainerStats`` and ``PodSandboxStats``.

``container_stats`` and ``sandbox_stats`` make their answers of them. Attributes never
change with the figures, so their encoding is kept (``cri.rpc.encoded``) and the figures
are appended: a message is the concatenation of its fields.

Invariant: a figure that the kernel does not give is left unset, but for those that kubelet
takes for granted, which are 0.
"""

from __future__ import annotations

import time
from functools import lru_cache

from cri.rpc.encoded import EncodedList, element
from cri.rpc.messages import container_attributes, sandbox_attributes
from cri.state.records import ContainerRecord, SandboxRecord
from cri.sweep import ContainerReading, PodReading
from network.interfaces import Interface
from proto import api_pb2 as api
from runtime.cgroups.sampler import Sample, lifetime_nanocores
from runtime.cgroups.usage import Pressure, Stall, Usage

LINUX = api.PodSandboxStats.LINUX_FIELD_NUMBER
CONTAINERS = api.LinuxPodSandboxStats.CONTAINERS_FIELD_NUMBER


class StatsMessages:
    """Encodes readings; keeps the attributes of each object."""

    def __init__(self) -> None:
        self._containers: EncodedList[ContainerRecord] = EncodedList(container_attributes)
        self._sandboxes: EncodedList[SandboxRecord] = EncodedList(sandbox_attributes)

    def container(self, reading: ContainerReading, mountpoint: str) -> bytes:
        """A ``ContainerStats``; ``mountpoint`` names the file system of the writable layer."""
        figures = container_figures(reading, mountpoint).SerializeToString()
        return self._containers.join([reading.record]) + figures

    def pod(self, reading: PodReading, mountpoint: str) -> bytes:
        """A ``PodSandboxStats`` with its containers."""
        linux = [pod_figures(reading).SerializeToString()]
        linux += [element(CONTAINERS, self.container(each, mountpoint)) for each in reading.containers]
        return self._sandboxes.join([reading.record]) + element(LINUX, b"".join(linux))

    def forget(self, id: str) -> None:
        self._containers.forget(id)
        self._sandboxes.forget(id)


def container_figures(reading: ContainerReading, mountpoint: str) -> api.ContainerStats:
    """All but the attributes."""
    usage = usage_of(reading.sample)
    stats = api.ContainerStats()
    set_cpu(stats.cpu, reading.sample, usage, reading.record.started_at)
    set_memory(stats.memory, usage)
    stats.swap.timestamp = usage.time
    stats.swap.swap_usage_bytes.value = usage.swap_usage or 0
    stats.swap.swap_available_bytes.value = usage.swap_available or 0
    set_io(stats.io, usage)
    layer, target = reading.layer, stats.writable_layer
    target.timestamp = layer.time
    target.fs_id.mountpoint = mountpoint
    target.used_bytes.value = layer.used_bytes
    target.inodes_used.value = layer.inodes
    return stats


def pod_figures(reading: PodReading) -> api.LinuxPodSandboxStats:
    """All but the containers."""
    usage = usage_of(reading.sample)
    linux = api.LinuxPodSandboxStats()
    set_cpu(linux.cpu, reading.sample, usage, reading.record.created_at)
    set_memory(linux.memory, usage)
    set_io(linux.io, usage)
    linux.process.timestamp = usage.time
    linux.process.process_count.value = usage.pids or 0
    linux.network.timestamp = reading.network_time
    for number, interface in enumerate(reading.interfaces):
        set_interface(linux.network.interfaces.add() if number else linux.network.default_interface, interface)
    return linux


def usage_of(sample: Sample | None) -> Usage:
    """Nothing used, now, by what has no cgroup any more."""
    return sample.usage if sample else Usage(time=time.time_ns(), clock=time.monotonic_ns())


def set_cpu(cpu: api.CpuUsage, sample: Sample | None, usage: Usage, began: int) -> None:
    cpu.timestamp = usage.time
    cpu.usage_core_nano_seconds.value = usage.cpu or 0
    rate = sample.nanocores if sample else None
    if rate is None:
        rate = lifetime_nanocores(usage, began)
    if rate is not None:
        cpu.usage_nano_cores.value = rate
    set_pressure(cpu.psi, usage.cpu_pressure)


def set_memory(memory: api.MemoryUsage, usage: Usage) -> None:
    memory.timestamp = usage.time
    memory.working_set_bytes.value = usage.memory_working_set or 0
    memory.usage_bytes.value = usage.memory_usage or 0
    memory.rss_bytes.value = usage.memory_rss or 0
    memory.page_faults.value = usage.page_faults or 0
    memory.major_page_faults.value = usage.major_page_faults or 0
    if usage.memory_available is not None:
        memory.available_bytes.value = usage.memory_available
    set_pressure(memory.psi, usage.memory_pressure)


def set_io(io: api.IoUsage, usage: Usage) -> None:
    io.timestamp = usage.time
    set_pressure(io.psi, usage.io_pressure)


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
