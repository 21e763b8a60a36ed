"""Resource limits as data, and the cgroup files that they come to.

``plan_writes`` is pure: limits and layout in, an ordered list of writes out.
``in_force`` reads the values that an update starts from and what has become of them,
``limits`` carries the list out; ``devices`` has the rules for device nodes.

Zero, empty and None mean *not given*: unlimited for a new cgroup, unchanged for an
update. -1 means unlimited.

Invariant: no plan limits less than was asked. What the host lacks is a fault,
except a swap limit where there is no swap and a hugetlb limit of zero where
there is no hugetlb controller: those are notes.
"""

from __future__ import annotations

import math
import re
from bisect import bisect_left
from collections.abc import Mapping
from dataclasses import dataclass, field

from runtime.cgroups.devices import plan_devices
from runtime.cgroups.layout import Layout
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.spec import DeviceRule

UNLIMITED = -1
DEFAULT_PERIOD = 100_000
"""Microseconds; the kernel's own default of cpu.cfs_period_us and cpu.max."""

MOST_SHARES = 262_144
"""The kernel's own bound of cpu.shares."""

_STEP = "plan the resource limits"
_CPU_LIST = re.compile(r"[0-9]+(-[0-9]+)?(,[0-9]+(-[0-9]+)?)*")
_PAGE_SIZE = re.compile(r"[0-9]+(KB|MB|GB)")
_UNIFIED_KEY = re.compile(r"[a-z][a-z0-9_]*\.[A-Za-z0-9][A-Za-z0-9._-]*")


@dataclass(frozen=True, slots=True)
class Hugepage:
    """A hugetlb limit: ``page_size`` as the controller spells it (2MB), ``limit`` in bytes; 0 is a limit."""

    page_size: str
    limit: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Resources:
    """What one cgroup may use. Memory in bytes (``memory_swap_limit`` is memory *and*
    swap, as the CRI has it), quota and period in microseconds, ``devices`` in order
    (the last rule that matches counts; None: not restricted here).
    ``oom_score_adj`` is the processes' (``limits.apply_oom_score_adj``), not a cgroup file."""

    cpu_shares: int = 0
    cpu_quota: int = 0
    cpu_period: int = 0
    cpuset_cpus: str = ""
    cpuset_mems: str = ""
    memory_limit: int = 0
    memory_swap_limit: int = 0
    pids_limit: int = 0
    hugepages: tuple[Hugepage, ...] = ()
    unified: Mapping[str, str] = field(default_factory=dict)
    oom_score_adj: int | None = None
    devices: tuple[DeviceRule, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Current:
    """The limits that a cgroup has now, UNLIMITED where none; a new cgroup is ``Current()``.
    ``memory_swap_limit`` is memory and swap together, on v2 too."""

    memory_limit: int = UNLIMITED
    memory_swap_limit: int = UNLIMITED
    cpu_quota: int = UNLIMITED
    cpu_period: int = DEFAULT_PERIOD


@dataclass(frozen=True, slots=True)
class Write:
    """One write to ``file`` in the directory of ``controller``. An ``optional`` file may be
    missing from the kernel (swap accounting off, no reservation limits): a note, no fault."""

    controller: str
    file: str
    value: str
    optional: bool = False


@dataclass(frozen=True, slots=True)
class LimitPlan:
    """``writes`` in order; ``program`` the rules that a v2 device program has to enforce, None
    for none; ``notes`` what was asked and does not apply here."""

    writes: tuple[Write, ...]
    program: tuple[DeviceRule, ...] | None = None
    notes: tuple[str, ...] = ()


def plan_writes(resources: Resources, layout: Layout, current: Current | None = None) -> LimitPlan:
    """The writes that give a cgroup ``resources``.

    Args:
        current: what the cgroup has now; None for one that is new.

    Raises:
        InvalidArgument: the request contradicts itself.
        FailedPrecondition: the host has no controller for what is asked.
    """
    now = current or Current()
    notes: list[str] = []
    writes = [
        *_plan_cpu(resources, layout, now),
        *_plan_cpuset(resources, layout),
        *_plan_memory(resources, layout, now, notes),
        *_plan_pids(resources, layout),
        *_plan_hugepages(resources, layout, notes),
        *_plan_unified(resources, layout),
    ]
    device_writes, program = plan_devices(resources.devices, layout)
    writes += [Write("devices", file, value) for file, value in device_writes]
    return LimitPlan(tuple(writes), program, tuple(notes))


def weight(shares: int) -> int:
    """cpu.weight (1 to 10000, default 100) for v1 cpu.shares (2 to 262144, default 1024).

    The curve of runc (from 1.3) and crun (from 1.23): 10^((l² + 125·l)/612 - 7/34) with
    l = log2(shares), rounded up. It maps minimum, default and maximum exactly; the
    older linear formula gave the default of 1024 shares a weight of 39.
    """
    if shares <= 2:
        return 1
    if shares >= MOST_SHARES:
        return 10_000
    log = math.log2(shares)
    return math.ceil(10 ** ((log * log + 125 * log) / 612 - 7 / 34))


def shares(of_weight: int) -> int:
    """The fewest cpu.shares whose ``weight`` is not below ``of_weight``."""
    return bisect_left(range(MOST_SHARES), of_weight, 2, key=weight)


def _plan_cpu(asked: Resources, layout: Layout, now: Current) -> list[Write]:
    if not (asked.cpu_shares or asked.cpu_quota or asked.cpu_period):
        return []
    _require("cpu", layout)
    if asked.cpu_shares < 0 or asked.cpu_period < 0 or asked.cpu_quota < UNLIMITED:
        raise InvalidArgument("CPU shares and period must not be negative, quota not below -1", step=_STEP)
    if layout.is_v2("cpu"):
        writes = [Write("cpu", "cpu.weight", str(weight(asked.cpu_shares)))] if asked.cpu_shares else []
        if asked.cpu_quota or asked.cpu_period:
            quota, period = asked.cpu_quota or now.cpu_quota, asked.cpu_period or now.cpu_period
            writes.append(Write("cpu", "cpu.max", f"{_or_max(quota)} {period}"))
        return writes
    writes = [Write("cpu", "cpu.shares", str(asked.cpu_shares))] if asked.cpu_shares else []
    bandwidth = [Write("cpu", "cpu.cfs_period_us", str(asked.cpu_period))] if asked.cpu_period else []
    if asked.cpu_quota:
        quota_write = Write("cpu", "cpu.cfs_quota_us", str(asked.cpu_quota))
        # No state in between may allow more than before and after: the parent's limit would refuse it.
        bandwidth.insert(0 if asked.cpu_period and asked.cpu_period < now.cpu_period else len(bandwidth), quota_write)
    return writes + bandwidth


def _plan_cpuset(asked: Resources, layout: Layout) -> list[Write]:
    writes = []
    for file, value in (("cpuset.cpus", asked.cpuset_cpus), ("cpuset.mems", asked.cpuset_mems)):
        if value:
            _require("cpuset", layout)
            if not _CPU_LIST.fullmatch(value):
                raise InvalidArgument(f"not a list such as 0-3,8: {value!r}", step=_STEP, object=file)
            writes.append(Write("cpuset", file, value))
    return writes


def _plan_memory(asked: Resources, layout: Layout, now: Current, notes: list[str]) -> list[Write]:
    memory, total = asked.memory_limit, asked.memory_swap_limit
    if not (memory or total):
        return []
    _require("memory", layout)
    if memory < UNLIMITED or total < UNLIMITED:
        raise InvalidArgument("a memory limit must not be below -1", step=_STEP)
    limit = memory or now.memory_limit
    if total and total != UNLIMITED and (limit == UNLIMITED or total < limit):
        raise InvalidArgument(f"a limit of {total} for memory and swap is below that for memory alone", step=_STEP)
    if total and not layout.swap:
        if total != UNLIMITED:  # else all is as asked
            notes.append(f"the limit of {total} bytes for memory and swap is ignored: the host has no swap")
        total = 0
    if layout.is_v2("memory"):
        swap = None if not total else UNLIMITED if total == UNLIMITED else total - limit
        return _plan_memory_v2(memory, swap, now)
    return _plan_memory_v1(memory, total, now)


def _plan_memory_v2(memory: int, swap: int | None, now: Current) -> list[Write]:
    """v2 makes room for a lower limit by swapping, and kills where it may not swap: the more of it comes first."""
    writes = [Write("memory", "memory.max", _or_max(memory))] if memory else []
    if swap is None:
        return writes
    unlimited = UNLIMITED in (now.memory_limit, now.memory_swap_limit)
    grows = _above(swap, UNLIMITED if unlimited else now.memory_swap_limit - now.memory_limit)
    limit = Write("memory", "memory.swap.max", _or_max(swap), optional=True)
    return [limit, *writes] if grows else [*writes, limit]


def _plan_memory_v1(memory: int, total: int, now: Current) -> list[Write]:
    """v1 refuses any moment in which memory.limit exceeds memory.memsw.limit."""
    raised = bool(memory) and _above(memory, now.memory_swap_limit)
    if raised and not total:
        total = memory  # with no limit for both given, the one from before must not keep memory down
    limit = [Write("memory", "memory.limit_in_bytes", str(memory))] if memory else []
    swap = [Write("memory", "memory.memsw.limit_in_bytes", str(total), optional=True)] if total else []
    return swap + limit if raised else limit + swap


def _plan_pids(asked: Resources, layout: Layout) -> list[Write]:
    if not asked.pids_limit:
        return []
    _require("pids", layout)
    if asked.pids_limit < UNLIMITED:
        raise InvalidArgument("a pids limit must not be below -1", step=_STEP)
    return [Write("pids", "pids.max", _or_max(asked.pids_limit))]


def _plan_hugepages(asked: Resources, layout: Layout, notes: list[str]) -> list[Write]:
    writes = []
    for page in asked.hugepages:
        if not _PAGE_SIZE.fullmatch(page.page_size) or page.limit < 0:
            raise InvalidArgument("not a page size such as 2MB with a limit", step=_STEP, object=repr(page.page_size))
        if layout.root("hugetlb") is None or page.page_size not in layout.page_sizes:
            if page.limit:
                message = f"the host cannot limit huge pages of {page.page_size}"
                raise FailedPrecondition(message, step=_STEP)
            notes.append(f"the limit of 0 for huge pages of {page.page_size} is ignored: the host cannot limit them")
            continue
        limit, reserved = ("max", "rsvd.max") if layout.is_v2("hugetlb") else ("limit_in_bytes", "rsvd.limit_in_bytes")
        prefix = f"hugetlb.{page.page_size}"
        writes.append(Write("hugetlb", f"{prefix}.{limit}", str(page.limit)))
        # Without a limit on reservations, mmap succeeds and the first touch is a SIGBUS.
        writes.append(Write("hugetlb", f"{prefix}.{reserved}", str(page.limit), optional=True))
    return writes


def _plan_unified(asked: Resources, layout: Layout) -> list[Write]:
    writes = []
    for key, value in sorted(asked.unified.items()):
        if not _UNIFIED_KEY.fullmatch(key) or key.startswith("cgroup.") or "\0" in value:
            raise InvalidArgument(
                "not the name of a v2 controller's file, or not a value", step=_STEP, object=repr(key)
            )
        controller = key.partition(".")[0]
        same_in_v1 = key == "pids.max" and layout.root("pids") is not None
        if controller not in layout.v2_controllers and not same_in_v1:
            message = f"the host's v2 tree does not have the controller {controller}"
            raise FailedPrecondition(message, step=_STEP, object=key)
        writes += [Write(controller, key, line) for line in value.splitlines()]  # keyed files take one a write
    return writes


def _require(controller: str, layout: Layout) -> None:
    if layout.root(controller) is None:
        raise FailedPrecondition(f"the host has no {controller} controller", step=_STEP)


def _or_max(value: int) -> str:
    return "max" if value == UNLIMITED else str(value)


def _above(value: int, other: int) -> bool:
    """``value > other`` where -1 is infinite."""
    if other == UNLIMITED:
        return False
    return value == UNLIMITED or value > other
