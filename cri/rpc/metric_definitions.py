"""Which metrics there are: the table of ListMetricDescriptors.

``metric_table`` says how each is read, ``metric_messages`` how it is encoded.

Invariant: the names are those that critest asks for and cAdvisor serves, each once; a metric
that is missing here cannot be sent, for kubelet drops what has no descriptor.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from cri.rpc.metric_table import (
    COUNTER,
    DEFAULT_PERIOD,
    DEFAULT_SHARES,
    GAUGE,
    Definition,
    Group,
    Subject,
    Value,
    cfs,
    cpu_usage,
    device_io,
    device_usage,
    each_interface,
    huge_pages,
    huge_pages_peak,
    layer_usage,
    memory_failures,
    of_file_system,
    of_processes,
    open_files,
    reservation,
    seconds,
    spec,
    stalled,
)
from runtime.cgroups.detail import Detail
from runtime.cgroups.usage import Usage

Read = Callable[[Subject], int | Iterable[Value] | None]
DEVICE, INTERFACE, PAGE_SIZE = ("device",), ("interface",), ("pagesize",)


def counter(name: str, help: str, read: Read, extra: tuple[str, ...] = ()) -> Definition:
    return Definition(f"container_{name}", COUNTER, help, read, extra)


def gauge(name: str, help: str, read: Read, extra: tuple[str, ...] = ()) -> Definition:
    return Definition(f"container_{name}", GAUGE, help, read, extra)


def usage(value: Callable[[Usage], int | None]) -> Read:
    return lambda subject: value(subject.usage)


def detail(value: Callable[[Detail], int | None]) -> Read:
    return lambda subject: value(subject.detail)


def threads_max(subject: Subject) -> int | None:
    return None if subject.resources is None else subject.detail.pids_limit or 0


def times_of(detail: Detail) -> tuple[int | None, ...]:
    """Of the CPU, in seconds, with the periods of the quota."""
    periods = (detail.periods, detail.throttled_periods)
    return (seconds(detail.cpu_user), seconds(detail.cpu_system), seconds(detail.throttled), *periods)


CPU = (
    counter("cpu_user_seconds_total", "CPU time in user mode, in seconds.", detail(lambda d: seconds(d.cpu_user))),
    counter("cpu_system_seconds_total", "CPU time in the kernel, in seconds.", detail(lambda d: seconds(d.cpu_system))),
    counter("cpu_usage_seconds_total", "CPU time of all CPUs, in seconds.", cpu_usage, ("cpu",)),
    counter("cpu_cfs_periods_total", "Periods of the CPU quota that have passed.", cfs(lambda d: d.periods)),
    counter(
        "cpu_cfs_throttled_periods_total", "Periods in which the quota was used up.", cfs(lambda d: d.throttled_periods)
    ),
    counter(
        "cpu_cfs_throttled_seconds_total",
        "Time spent waiting for the next period, in seconds.",
        cfs(lambda d: seconds(d.throttled)),
    ),
)

SPEC = (
    gauge(
        "spec_cpu_period",
        "The period of the CPU quota, in microseconds.",
        spec(lambda r: r.cpu_period or DEFAULT_PERIOD),
    ),
    gauge(
        "spec_cpu_quota",
        "CPU time allowed in each period, in microseconds.",
        spec(lambda r: r.cpu_quota if r.cpu_quota > 0 else None),
    ),
    gauge("spec_cpu_shares", "CPU shares.", spec(lambda r: r.cpu_shares or DEFAULT_SHARES)),
    gauge("spec_memory_limit_bytes", "The memory limit in bytes.", spec(lambda r: max(0, r.memory_limit_in_bytes))),
    gauge("spec_memory_reservation_limit_bytes", "Bytes of memory kept for it.", spec(reservation)),
    gauge(
        "spec_memory_swap_limit_bytes",
        "The limit of memory and swap in bytes.",
        spec(lambda r: max(0, r.memory_swap_limit_in_bytes)),
    ),
)

MEMORY = (
    gauge("memory_cache", "Bytes of page cache.", detail(lambda d: d.cache)),
    gauge("memory_rss", "Bytes of anonymous memory.", usage(lambda u: u.memory_rss)),
    gauge("memory_kernel_usage", "Bytes of memory of the kernel.", detail(lambda d: d.kernel_memory)),
    gauge("memory_mapped_file", "Bytes of files mapped to memory.", detail(lambda d: d.mapped_file)),
    gauge("memory_swap", "Bytes of swap used.", usage(lambda u: u.swap_usage or 0)),
    counter("memory_failcnt", "How often the memory limit was reached.", detail(lambda d: d.limit_hits)),
    gauge("memory_usage_bytes", "Bytes of memory, page cache included.", usage(lambda u: u.memory_usage)),
    gauge("memory_max_usage_bytes", "The most bytes of memory so far.", detail(lambda d: d.memory_peak)),
    gauge(
        "memory_working_set_bytes",
        "Bytes of memory without inactive page cache.",
        usage(lambda u: u.memory_working_set),
    ),
    counter("memory_failures_total", "Page faults.", memory_failures, ("failure_type", "scope")),
    counter("oom_events_total", "Processes killed for want of memory.", usage(lambda u: u.oom_kills)),
    gauge("hugetlb_usage_bytes", "Bytes of huge pages.", huge_pages, PAGE_SIZE),
    gauge("hugetlb_max_usage_bytes", "The most bytes of huge pages so far.", huge_pages_peak, PAGE_SIZE),
)

IO = (
    counter(
        "blkio_device_usage_total",
        "Bytes to and from block devices.",
        device_usage,
        ("device", "major", "minor", "operation"),
    ),
    counter("fs_reads_bytes_total", "Bytes read from block devices.", device_io("bytes", "Read"), DEVICE),
    counter("fs_reads_total", "Reads from block devices.", device_io("requests", "Read"), DEVICE),
    counter("fs_writes_bytes_total", "Bytes written to block devices.", device_io("bytes", "Write"), DEVICE),
    counter("fs_writes_total", "Writes to block devices.", device_io("requests", "Write"), DEVICE),
)

FILE_SYSTEM = (
    gauge("fs_inodes_free", "Free inodes of the file system.", of_file_system(lambda f: f.inodes_free), DEVICE),
    gauge("fs_inodes_total", "Inodes of the file system.", of_file_system(lambda f: f.inodes), DEVICE),
    gauge("fs_limit_bytes", "Bytes of the file system.", of_file_system(lambda f: f.size), DEVICE),
)

LAYER = (gauge("fs_usage_bytes", "Bytes in the writable layer.", layer_usage, DEVICE),)

NETWORK = (
    counter("network_receive_bytes_total", "Bytes received.", each_interface(lambda i: i.rx_bytes), INTERFACE),
    counter(
        "network_receive_errors_total", "Errors while receiving.", each_interface(lambda i: i.rx_errors), INTERFACE
    ),
    counter(
        "network_receive_packets_dropped_total",
        "Packets dropped while receiving.",
        each_interface(lambda i: i.rx_dropped),
        INTERFACE,
    ),
    counter("network_receive_packets_total", "Packets received.", each_interface(lambda i: i.rx_packets), INTERFACE),
    counter("network_transmit_bytes_total", "Bytes sent.", each_interface(lambda i: i.tx_bytes), INTERFACE),
    counter("network_transmit_errors_total", "Errors while sending.", each_interface(lambda i: i.tx_errors), INTERFACE),
    counter(
        "network_transmit_packets_dropped_total",
        "Packets dropped while sending.",
        each_interface(lambda i: i.tx_dropped),
        INTERFACE,
    ),
    counter("network_transmit_packets_total", "Packets sent.", each_interface(lambda i: i.tx_packets), INTERFACE),
)

PROCESSES = (
    gauge("processes", "Processes.", of_processes(lambda p: p.processes)),
    gauge("file_descriptors", "Open file descriptors.", of_processes(lambda p: p.descriptors)),
    gauge("sockets", "Open sockets.", of_processes(lambda p: p.sockets)),
    gauge("ulimits_soft", "Soft limits of the first process.", open_files, ("ulimit",)),
)

THREADS = (
    gauge("threads", "Threads.", usage(lambda u: u.pids)),
    gauge("threads_max", "The most threads allowed, 0 for no limit.", threads_max),
)

LAST_SEEN = gauge("last_seen", "When it was seen last, in seconds since 1970.", lambda s: seconds(s.now))
START_TIME = gauge("start_time_seconds", "When it was started, in seconds since 1970.", lambda s: seconds(s.began))

PRESSURE = tuple(
    counter(
        f"pressure_{what}_{word}_seconds_total",
        f"Seconds in which {who} for want of {want}.",
        stalled(read, line),
    )
    for what, want, read in (
        ("cpu", "CPU", lambda u: u.cpu_pressure),
        ("io", "I/O", lambda u: u.io_pressure),
        ("memory", "memory", lambda u: u.memory_pressure),
    )
    for word, line, who in (("stalled", "full", "no task could run"), ("waiting", "some", "some task had to wait"))
)

OF_CPU = Group(lambda s: (seconds(s.usage.cpu), *times_of(s.detail)), CPU)
OF_MEMORY = Group(lambda s: (s.usage[3:11], s.usage.oom_kills, s.detail[5:12], s.detail.huge_pages), MEMORY)
OF_THREADS = Group(lambda s: (s.usage.pids, s.detail.pids_limit), THREADS)
OF_NOW = Group(lambda s: seconds(s.now), (LAST_SEEN,))
OF_BEGINNING = Group(lambda s: s.began, (START_TIME,))
OF_PRESSURE = Group(lambda s: (s.usage.cpu_pressure, s.usage.io_pressure, s.usage.memory_pressure), PRESSURE)

POD_GROUPS = (OF_CPU, OF_MEMORY, Group(lambda s: s.interfaces, NETWORK), OF_THREADS, OF_NOW, OF_BEGINNING, OF_PRESSURE)
CONTAINER_GROUPS = (
    OF_CPU,
    Group(lambda s: None, SPEC),
    OF_MEMORY,
    Group(lambda s: s.detail.io, IO),
    Group(lambda s: s.file_system, FILE_SYSTEM),
    Group(lambda s: (s.file_system and s.file_system.device, s.layer), LAYER),
    Group(lambda s: s.processes, PROCESSES),
    OF_THREADS,
    OF_NOW,
    OF_BEGINNING,
    OF_PRESSURE,
)
"""What a group is made of is what it shows: CPU time in whole seconds. The limits (``SPEC``)
change with the record only, which has encodings of its own."""

DEFINITIONS: tuple[Definition, ...] = (
    *(each for group in CONTAINER_GROUPS for each in group.definitions),
    *NETWORK,
)
