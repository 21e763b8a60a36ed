"""What a cgroup uses, read out of the text of its files; pure.

``stats`` reads the files, ``sampler`` makes rates of two readings.

Definitions follow cAdvisor and kubelet, so that figures agree whoever reports them:
working set = usage - inactive file pages, not below 0; available = limit - working
set; on v1 the ``total_`` counters, which include the cgroups below.

Invariant: a figure that the kernel does not give is None, never 0.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

_V1_UNLIMITED = 1 << 62


class Stall(NamedTuple):
    """One line of a pressure file: averages in percent, ``total`` in microseconds."""

    avg10: float
    avg60: float
    avg300: float
    total: int


class Pressure(NamedTuple):
    """Pressure stall information (the kernel's Documentation/accounting/psi.rst)."""

    some: Stall | None
    full: Stall | None


class Usage(NamedTuple):
    """One reading of one cgroup. ``time`` is ns since the epoch, ``clock`` ns of the
    monotonic clock, ``cpu`` ns of CPU time since the cgroup was made, memory in bytes.
    ``memory_limit`` None: not limited. ``oom_kills``: processes killed for memory."""

    time: int
    clock: int
    cpu: int | None = None
    memory_usage: int | None = None
    memory_working_set: int | None = None
    memory_rss: int | None = None
    memory_limit: int | None = None
    page_faults: int | None = None
    major_page_faults: int | None = None
    swap_usage: int | None = None
    swap_limit: int | None = None
    pids: int | None = None
    oom_kills: int | None = None
    cpu_pressure: Pressure | None = None
    memory_pressure: Pressure | None = None
    io_pressure: Pressure | None = None

    @property
    def memory_available(self) -> int | None:
        """Bytes until the limit, None where there is no limit."""
        if self.memory_limit is None or self.memory_working_set is None:
            return None
        return max(0, self.memory_limit - self.memory_working_set)

    @property
    def swap_available(self) -> int | None:
        """Bytes of swap until the limit, None where there is no limit."""
        if self.swap_limit is None or self.swap_usage is None:
            return None
        return max(0, self.swap_limit - self.swap_usage)


def parse_usage(files: dict[str, bytes], time: int, clock: int) -> Usage:
    """The reading that ``files`` (by name, only those that exist) hold."""
    memory = _memory_v2(files) if "memory.current" in files else _memory_v1(files)
    usage, inactive, rss, limit, faults, major, swap, swap_limit, kills = memory
    return Usage(
        time,
        clock,
        _cpu(files),
        usage,
        None if usage is None or inactive is None else max(0, usage - inactive),
        rss,
        limit,
        faults,
        major,
        swap,
        swap_limit,
        _number(files.get("pids.current")),
        kills,
        parse_pressure(files.get("cpu.pressure")),
        parse_pressure(files.get("memory.pressure")),
        parse_pressure(files.get("io.pressure")),
    )


@lru_cache(maxsize=4096)
def parse_pressure(text: bytes | None) -> Pressure | None:
    """A pressure file; None where there is none or it is empty (switched off at boot).

    What was parsed is kept: a cgroup that is idle says the same at the next sweep.
    """
    if not text:
        return None
    lines = {}
    for line in text.splitlines():
        kind, *fields = line.split()
        values = [field.partition(b"=")[2] for field in fields]
        lines[kind] = Stall(float(values[0]), float(values[1]), float(values[2]), int(values[3]))
    return Pressure(lines.get(b"some"), lines.get(b"full"))


_Memory = tuple[
    int | None, int | None, int | None, int | None, int | None, int | None, int | None, int | None, int | None
]


def _memory_v1(files: dict[str, bytes]) -> _Memory:
    stat = _table(files.get("memory.stat"))
    limit = _v1_limit(stat.get(b"hierarchical_memory_limit"))
    total = _v1_limit(stat.get(b"hierarchical_memsw_limit"))
    return (
        _number(files.get("memory.usage_in_bytes")),
        _number(stat.get(b"total_inactive_file")),
        _number(stat.get(b"total_rss")),
        limit,
        _number(stat.get(b"total_pgfault")),
        _number(stat.get(b"total_pgmajfault")),
        _number(stat.get(b"total_swap")),
        None if limit is None or total is None else max(0, total - limit),
        _number(_table(files.get("memory.oom_control")).get(b"oom_kill")),
    )


def _memory_v2(files: dict[str, bytes]) -> _Memory:
    stat = _table(files.get("memory.stat"))
    return (
        _number(files.get("memory.current")),
        _number(stat.get(b"inactive_file")),
        _number(stat.get(b"anon")),
        _number(files.get("memory.max")),
        _number(stat.get(b"pgfault")),
        _number(stat.get(b"pgmajfault")),
        _number(files.get("memory.swap.current")),
        _number(files.get("memory.swap.max")),
        _number(_table(files.get("memory.events")).get(b"oom_kill")),
    )


def _cpu(files: dict[str, bytes]) -> int | None:
    nanoseconds = _number(files.get("cpuacct.usage"))
    if nanoseconds is not None:
        return nanoseconds
    microseconds = _number(_table(files.get("cpu.stat")).get(b"usage_usec"))
    return None if microseconds is None else microseconds * 1000


def _table(text: bytes | None) -> dict[bytes, bytes]:
    """A flat keyed file: one key and one value a line."""
    words = (text or b"").split()
    return dict(zip(words[::2], words[1::2], strict=False))


def _number(text: bytes | None) -> int | None:
    """None for nothing and for ``max``."""
    return int(text) if text and not text.startswith(b"max") else None


def _v1_limit(text: bytes | None) -> int | None:
    """v1 says "not limited" with the largest multiple of a page below 2^63."""
    limit = _number(text)
    return None if limit is None or limit >= _V1_UNLIMITED else limit
