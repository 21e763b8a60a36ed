"""What limits a cgroup has, in the kernel's own words.

The kernel rounds what it is given (memory to pages, huge pages to whole ones) or keeps it in
another unit (cpu.weight). ``limits`` writes; whoever has written reads once here and tells that
from then on. An update starts from ``read_current``.

Invariant: what is told as a limit stands in a file of the cgroup; only where the unit differs
and the value is the one that was asked for, it is told as it was asked.
"""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import Any

from runtime.cgroups import files
from runtime.cgroups.layout import Layout, directory
from runtime.cgroups.resources import DEFAULT_PERIOD, UNLIMITED, Current, Hugepage, Resources, shares, weight
from runtime.errors import HostFault

_STEP = "read the limits in force"
_PAGE_COUNTER_MAX = 1 << 62
"""v1 reports "no limit" as the largest multiple of the page size below 2^63."""

_MISSING = (errno.ENOENT, errno.EOPNOTSUPP)


def read_current(layout: Layout, cgroup_path: str) -> Current:
    """The limits that ``cgroup_path`` has; what the host cannot limit reads as unlimited.

    Raises:
        HostFault: the cgroup does not exist.
    """
    memory, swap = _read_memory(layout, cgroup_path)
    quota, period = _read_bandwidth(layout, cgroup_path)
    return Current(memory_limit=memory, memory_swap_limit=swap, cpu_quota=quota, cpu_period=period)


def read_in_force(asked: Resources, layout: Layout, cgroup_path: str) -> Resources:
    """``asked`` with each limit that it gives as ``cgroup_path`` has it; nothing is read for what it does not give.

    With a quota its period is told. Huge pages that the host cannot limit are left out.

    Raises:
        HostFault: the cgroup does not exist.
    """
    found: dict[str, Any] = {}
    if asked.memory_limit or asked.memory_swap_limit:
        memory, total = _read_memory(layout, cgroup_path)
        found["memory_limit"] = _told(asked.memory_limit, memory)
        found["memory_swap_limit"] = _told(asked.memory_swap_limit, total)
    if asked.cpu_quota or asked.cpu_period:
        quota, found["cpu_period"] = _read_bandwidth(layout, cgroup_path)
        found["cpu_quota"] = quota if asked.cpu_quota else 0
    if asked.cpu_shares:
        found["cpu_shares"] = _read_shares(asked.cpu_shares, layout, cgroup_path)
    for kind in ("cpus", "mems"):
        if getattr(asked, f"cpuset_{kind}"):
            found[f"cpuset_{kind}"] = _read_cpuset(kind, layout, cgroup_path)
    if asked.hugepages:
        found["hugepages"] = _read_hugepages(asked.hugepages, layout, cgroup_path)
    if asked.unified:
        found["unified"] = {key: _read_unified(key, text, layout, cgroup_path) for key, text in asked.unified.items()}
    return replace(asked, **found) if found else asked


def _told(asked: int, limit: int) -> int:
    """No limit is told as it was asked for: as -1, or as more than there can be."""
    if not asked or (limit == UNLIMITED and asked >= _PAGE_COUNTER_MAX):
        return asked
    return limit


def _read_shares(asked: int, layout: Layout, cgroup_path: str) -> int:
    found = directory(layout, "cpu", cgroup_path)
    if not layout.is_v2("cpu"):
        return int(files.read(f"{found}/cpu.shares", _STEP))
    now = int(files.read(f"{found}/cpu.weight", _STEP))
    return asked if weight(asked) == now else shares(now)


def _read_cpuset(kind: str, layout: Layout, cgroup_path: str) -> str:
    """v2 takes a list with CPUs that the parent lacks, and uses what is left of it."""
    name = f"cpuset.{kind}.effective" if layout.is_v2("cpuset") else f"cpuset.{kind}"
    return files.read(f"{directory(layout, 'cpuset', cgroup_path)}/{name}", _STEP).strip()


def _read_hugepages(asked: tuple[Hugepage, ...], layout: Layout, cgroup_path: str) -> tuple[Hugepage, ...]:
    found = directory(layout, "hugetlb", cgroup_path)
    if found is None:
        return ()
    file = "max" if layout.is_v2("hugetlb") else "limit_in_bytes"
    limitable = [page for page in asked if page.page_size in layout.page_sizes]
    limits = [_number(files.read(f"{found}/hugetlb.{page.page_size}.{file}", _STEP)) for page in limitable]
    return tuple(
        Hugepage(page.page_size, page.limit if limit == UNLIMITED else limit)
        for page, limit in zip(limitable, limits, strict=True)
    )


def _read_unified(key: str, asked: str, layout: Layout, cgroup_path: str) -> str:
    """A file that keeps nothing (memory.reclaim) is told as it was asked for."""
    try:
        return files.read(f"{directory(layout, key.partition('.')[0], cgroup_path)}/{key}", _STEP).strip() or asked
    except HostFault as fault:
        if fault.errno in (errno.EINVAL, *_MISSING):
            return asked
        raise


def _read_memory(layout: Layout, cgroup_path: str) -> tuple[int, int]:
    """(memory, memory and swap) limits in bytes."""
    found = directory(layout, "memory", cgroup_path)
    if found is None:
        return UNLIMITED, UNLIMITED
    if not layout.is_v2("memory"):
        memory = _number(files.read(f"{found}/memory.limit_in_bytes", _STEP))
        return memory, _optional_number(f"{found}/memory.memsw.limit_in_bytes")
    memory = _number(files.read(f"{found}/memory.max", _STEP))
    swap = _optional_number(f"{found}/memory.swap.max")
    return memory, UNLIMITED if UNLIMITED in (memory, swap) else memory + swap


def _read_bandwidth(layout: Layout, cgroup_path: str) -> tuple[int, int]:
    """(quota, period) in microseconds."""
    found = directory(layout, "cpu", cgroup_path)
    if found is None:
        return UNLIMITED, DEFAULT_PERIOD
    if layout.is_v2("cpu"):
        quota, period = files.read(f"{found}/cpu.max", _STEP).split()
        return _number(quota), int(period)
    quota = files.read(f"{found}/cpu.cfs_quota_us", _STEP)
    return int(quota), int(files.read(f"{found}/cpu.cfs_period_us", _STEP))


def _optional_number(path: str) -> int:
    try:
        return _number(files.read(path, _STEP))
    except HostFault as fault:
        if fault.errno in _MISSING:
            return UNLIMITED
        raise


def _number(text: str) -> int:
    text = text.strip()
    value = UNLIMITED if text == "max" else int(text)
    return UNLIMITED if value >= _PAGE_COUNTER_MAX else value
