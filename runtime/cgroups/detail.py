"""What cAdvisor's metrics say of a cgroup beyond ``usage``, read out of the text of its files; pure.

``stats`` reads the files of both in one sweep. Definitions follow cAdvisor.

Invariant: a figure that the kernel does not give is None or left out, never 0.
"""

from __future__ import annotations

from typing import NamedTuple

USER_HZ = 100
"""Ticks a second of cpuacct.stat: the kernel's constant for user space (asm-generic/param.h)."""
_TICK = 1_000_000_000 // USER_HZ

IO_FILES_V1 = ("blkio.throttle.io_service_bytes_recursive", "blkio.throttle.io_serviced_recursive")
_IO_KEYS = (("Read", b"rbytes", b"rios"), ("Write", b"wbytes", b"wios"), ("Discard", b"dbytes", b"dios"))


class DeviceIo(NamedTuple):
    """What went to and from one block device, ``bytes`` and number of ``requests``, each by
    operation (``Read``, ``Write`` and what else the kernel tells apart)."""

    major: int
    minor: int
    bytes: dict[str, int]
    requests: dict[str, int]


class HugePages(NamedTuple):
    """Bytes of huge pages of one size (``2MB``); ``peak`` is None on v2."""

    page_size: str
    usage: int
    peak: int | None


class Detail(NamedTuple):
    """``cpu_user``, ``cpu_system`` and ``throttled`` in ns; memory in bytes; ``limit_hits``: how
    often the memory limit was reached; ``own_faults`` without the cgroups below;
    ``pids_limit`` None: not limited."""

    cpu_user: int | None = None
    cpu_system: int | None = None
    periods: int | None = None
    throttled_periods: int | None = None
    throttled: int | None = None
    cache: int | None = None
    mapped_file: int | None = None
    kernel_memory: int | None = None
    memory_peak: int | None = None
    limit_hits: int | None = None
    own_faults: int | None = None
    own_major_faults: int | None = None
    pids_limit: int | None = None
    io: tuple[DeviceIo, ...] = ()
    huge_pages: tuple[HugePages, ...] = ()


def parse_detail(files: dict[str, bytes]) -> Detail:
    """What ``files`` (by name, only those that exist) say."""
    cpu, stat = table(files.get("cpu.stat")), table(files.get("memory.stat"))
    v1_memory = "memory.usage_in_bytes" in files
    user, system = _cpu_times(files, cpu)
    throttled = _number(cpu.get(b"throttled_time"))
    if throttled is None and b"throttled_usec" in cpu:
        throttled = int(cpu[b"throttled_usec"]) * 1000
    events = table(files.get("memory.events"))
    return Detail(
        user,
        system,
        _number(cpu.get(b"nr_periods")),
        _number(cpu.get(b"nr_throttled")),
        throttled,
        _number(stat.get(b"total_cache" if v1_memory else b"file")),
        _number(stat.get(b"total_mapped_file" if v1_memory else b"file_mapped")),
        _number(files.get("memory.kmem.usage_in_bytes") if v1_memory else stat.get(b"kernel")),
        _number(files.get("memory.max_usage_in_bytes") if v1_memory else files.get("memory.peak")),
        _number(files.get("memory.failcnt") if v1_memory else events.get(b"max")),
        _number(stat.get(b"pgfault")),
        _number(stat.get(b"pgmajfault")),
        _number(files.get("pids.max")),
        parse_io_v2(files["io.stat"]) if "io.stat" in files else parse_io_v1(*map(files.get, IO_FILES_V1)),
        _huge_pages(files),
    )


def parse_io_v1(sizes: bytes | None, counts: bytes | None) -> tuple[DeviceIo, ...]:
    """Two files of the blkio controller (``8:0 Read 4096`` a line, and a ``Total`` at the end)."""
    found: dict[bytes, tuple[dict[str, int], dict[str, int]]] = {}
    for which, text in enumerate((sizes, counts)):
        for line in (text or b"").splitlines():
            words = line.split()
            if len(words) == 3:
                device, operation, value = words
                found.setdefault(device, ({}, {}))[which][operation.decode()] = int(value)
    return tuple(DeviceIo(*_numbers(device), *maps) for device, maps in found.items())


def parse_io_v2(text: bytes) -> tuple[DeviceIo, ...]:
    """``io.stat``: ``8:0 rbytes=4096 wbytes=0 rios=1 wios=0 dbytes=0 dios=0`` a line."""
    found = []
    for line in text.splitlines():
        device, *fields = line.split()
        values = dict(field.split(b"=", 1) for field in fields if b"=" in field)
        sizes = {name: int(values[size]) for name, size, _ in _IO_KEYS if size in values}
        counts = {name: int(values[count]) for name, _, count in _IO_KEYS if count in values}
        if sizes:
            found.append(DeviceIo(*_numbers(device), sizes, counts))
    return tuple(found)


def table(text: bytes | None) -> dict[bytes, bytes]:
    """A flat keyed file: one key and one value a line."""
    words = (text or b"").split()
    return dict(zip(words[::2], words[1::2], strict=False))


def _numbers(device: bytes) -> tuple[int, int]:
    """``8:0`` as major and minor."""
    major, _, minor = device.partition(b":")
    return int(major), int(minor)


def _cpu_times(files: dict[str, bytes], cpu: dict[bytes, bytes]) -> tuple[int | None, int | None]:
    ticks = table(files.get("cpuacct.stat"))
    if ticks:
        return int(ticks[b"user"]) * _TICK, int(ticks[b"system"]) * _TICK
    if b"user_usec" in cpu:
        return int(cpu[b"user_usec"]) * 1000, int(cpu[b"system_usec"]) * 1000
    return None, None


def _huge_pages(files: dict[str, bytes]) -> tuple[HugePages, ...]:
    found = []
    for name, text in files.items():
        if name.startswith("hugetlb.") and name.endswith((".usage_in_bytes", ".current")):
            size = name.split(".", 2)[1]
            found.append(HugePages(size, int(text), _number(files.get(f"hugetlb.{size}.max_usage_in_bytes"))))
    return tuple(found)


def _number(text: bytes | None) -> int | None:
    """None for nothing and for ``max``."""
    return int(text) if text and not text.startswith(b"max") else None
