"""CPU, memory and other limits, before any of them reaches a cgroup file.

``runtime.cgroups.resources`` knows what the host has; it is asked here too, so that a
limit that cannot be given fails before the first effect.

Invariant: nothing that passes is cast, cut or reinterpreted later on.
"""

from __future__ import annotations

import re

from cri.plan.facts import HostFacts
from cri.plan.resources import plan_resources
from cri.validate.text import check_range, check_text, refuse, show
from proto import api_pb2 as api
from runtime.cgroups.resources import plan_writes
from runtime.errors import FailedPrecondition

MAX_INT64 = 2**63 - 1
MIN_PERIOD, MAX_PERIOD = 1_000, 1_000_000
"""Microseconds; the kernel's bounds (kernel/sched/core.c, tg_set_cfs_bandwidth)."""
MAX_CPU = 8191
"""The highest number a CPU or memory node can have (NR_CPUS)."""

CPU_LIST = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?(?:,[0-9]{1,5}(?:-[0-9]{1,5})?)*")
PAGE_SIZE = re.compile(r"[1-9][0-9]*(?:KB|MB|GB)")
UNIFIED = re.compile(r"[a-z][a-z0-9_]*(?:\.[A-Za-z0-9_-]+)+")


def check_resources(asked: api.LinuxContainerResources, host: HostFacts, field: str) -> None:
    """The limits of something new.

    Raises:
        InvalidArgument: a value that can never be right.
        FailedPrecondition: one that this host cannot give.
    """
    check_update(asked, host, field)
    if asked.memory_swap_limit_in_bytes > 0 and not asked.memory_limit_in_bytes:
        raise refuse(f"{field}.memory_swap_limit_in_bytes", "needs memory_limit_in_bytes")
    plan_writes(plan_resources(asked, (), swap=host.layout.swap), host.layout)


def check_update(asked: api.LinuxContainerResources, host: HostFacts, field: str) -> None:
    """The part of the checks that does not depend on the limits in force; raises as above."""
    check_cpu(asked, field)
    memory, total = asked.memory_limit_in_bytes, asked.memory_swap_limit_in_bytes
    check_range(memory, f"{field}.memory_limit_in_bytes", 0, MAX_INT64)
    check_range(total, f"{field}.memory_swap_limit_in_bytes", -1, MAX_INT64)
    if 0 < total < memory:
        raise refuse(f"{field}.memory_swap_limit_in_bytes", f"includes memory, so it cannot be below {memory}")
    check_range(asked.oom_score_adj, f"{field}.oom_score_adj", -1000, 1000)
    check_list(asked.cpuset_cpus, host.cpus, f"{field}.cpuset_cpus")
    check_list(asked.cpuset_mems, host.mems, f"{field}.cpuset_mems")
    check_hugepages(asked, field)
    check_unified(asked, field)


def check_cpu(asked: api.LinuxContainerResources, field: str) -> None:
    check_range(asked.cpu_shares, f"{field}.cpu_shares", 0, MAX_INT64)
    if asked.cpu_period:
        check_range(asked.cpu_period, f"{field}.cpu_period", MIN_PERIOD, MAX_PERIOD)
    if asked.cpu_quota not in (0, -1):
        check_range(asked.cpu_quota, f"{field}.cpu_quota", MIN_PERIOD, MAX_INT64 // 1000)


def check_list(value: str, online: str, field: str) -> None:
    """A list as the kernel writes them (``0-3,7``), within what is ``online``, if that is known.

    Raises:
        InvalidArgument: it is no such list.
        FailedPrecondition: the host has not all of it.
    """
    if not value:
        return
    missing = numbers(value, field) - (numbers(online, field) if online else numbers(value, field))
    if missing:
        raise FailedPrecondition(f"{show(value)} has {min(missing)}, the host has {online}", object=field)


def numbers(value: str, field: str) -> set[int]:
    if not CPU_LIST.fullmatch(value):
        raise refuse(field, f"is no list such as 0-3,7: {show(value)}")
    found: set[int] = set()
    for part in value.split(","):
        first, dash, last = part.partition("-")
        low, high = int(first), int(last if dash else first)
        if low > high or high > MAX_CPU:
            raise refuse(field, f"has a range that is reversed or above {MAX_CPU}: {show(part)}")
        found.update(range(low, high + 1))
    return found


def check_hugepages(asked: api.LinuxContainerResources, field: str) -> None:
    seen: set[str] = set()
    for page in asked.hugepage_limits:
        where = f"{field}.hugepage_limits"
        if not PAGE_SIZE.fullmatch(page.page_size):
            raise refuse(where, f"is no page size such as 2MB: {show(page.page_size)}")
        if page.page_size in seen:
            raise refuse(where, f"is given twice: {page.page_size}")
        check_range(page.limit, where, 0, MAX_INT64)
        seen.add(page.page_size)


def check_unified(asked: api.LinuxContainerResources, field: str) -> None:
    for key, value in asked.unified.items():
        where = f"{field}.unified[{show(key)}]"
        if not UNIFIED.fullmatch(key) or key.startswith("cgroup."):
            raise refuse(where, "is not the name of a cgroup v2 controller's file")
        for line in value.splitlines() or [""]:
            check_text(line, where)
        if not value.strip():
            raise refuse(where, "is empty")
