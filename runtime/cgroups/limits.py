"""Carry out a plan of resource limits; read the values that an update starts from.

``resources`` makes the plan. A new cgroup is limited with ``restore=False``: if it
fails, the cgroup is removed. An update uses ``restore=True``.

Invariant: after a refused update the cgroup has the values it had, or the fault
says which ones could not be put back.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Sequence
from itertools import groupby

from runtime.cgroups import files
from runtime.cgroups.layout import Layout, directory
from runtime.cgroups.resources import DEFAULT_PERIOD, UNLIMITED, Current, LimitPlan, Write
from runtime.errors import FailedPrecondition, HostFault
from runtime.linux import bpf

_STEP = "limit the cgroup"
_PAGE_COUNTER_MAX = 1 << 62
"""v1 reports "no limit" as the largest multiple of the page size below 2^63."""

_KEPT_V2, _SWAPPABLE_V2 = ("kernel", "sock"), ("anon", "shmem")
"""Lines of memory.stat: memory that the kernel cannot reclaim, ever and without swap."""

_MISSING = (errno.ENOENT, errno.EOPNOTSUPP)


def read_current(layout: Layout, cgroup_path: str) -> Current:
    """The limits that ``cgroup_path`` has; what the host cannot limit reads as unlimited.

    Raises:
        HostFault: the cgroup does not exist.
    """
    memory, swap = _read_memory(layout, cgroup_path)
    quota, period = _read_bandwidth(layout, cgroup_path)
    return Current(memory_limit=memory, memory_swap_limit=swap, cpu_quota=quota, cpu_period=period)


def apply_writes(plan: LimitPlan, layout: Layout, cgroup_path: str, *, restore: bool = False) -> tuple[str, ...]:
    """Do what ``plan`` says to ``cgroup_path``.

    Args:
        restore: read each value first, and put all back when one is refused.

    Returns:
        The plan's notes, and one for each optional file that the kernel lacks.

    Raises:
        HostFault: the kernel refused a value; the fault has its file and the value.
    """
    notes = list(plan.notes)
    before: list[tuple[str, str]] = []
    try:
        for path, group in groupby(plan.writes, key=lambda write: _path(layout, cgroup_path, write)):
            writes = list(group)
            if restore and writes[0].controller != "devices":
                before += _readable(path)
            note = _apply(path, writes)
            if note:
                notes.append(note)
        if plan.program is not None:
            _attach(plan, layout, cgroup_path)
    except HostFault as fault:
        lost = _put_back(before)
        if lost:
            message = f"{fault.message}; not put back: {', '.join(lost)}"
            raise HostFault(
                message, step=_STEP, object=fault.object, call=fault.call, errno=fault.errno or 0
            ) from fault
        raise
    return tuple(notes)


def refuse_below_use(plan: LimitPlan, layout: Layout, cgroup_path: str) -> None:
    """v1 refuses a memory limit below what is used and cannot be reclaimed; v2 takes it and kills.

    Raises:
        FailedPrecondition: ``plan`` has one for a v2 cgroup.
    """
    asked = [write.value for write in plan.writes if write.file == "memory.max" and write.value.strip().isdecimal()]
    if not asked or not layout.is_v2("memory"):
        return
    place = directory(layout, "memory", cgroup_path)
    kept = _KEPT_V2 if layout.swap else _KEPT_V2 + _SWAPPABLE_V2
    used = sum(int(value) for name, value in _table(f"{place}/memory.stat") if name in kept)
    if int(asked[-1]) < used:
        message = f"a memory limit of {asked[-1].strip()} is below the {used} bytes in use"
        raise FailedPrecondition(message, step=_STEP, object=f"{place}/memory.max")


def apply_oom_score_adj(pids: Iterable[int], value: int, proc_root: str = "/proc") -> str | None:
    """Give processes an OOM score; a process that has ended meanwhile is skipped.

    Without CAP_SYS_RESOURCE the kernel refuses less than the process was started with.
    Then the lowest value it takes of (0, what it has) is used.

    Returns:
        A note where the value was clamped, None where all have it.

    Raises:
        HostFault: the kernel refused for another reason.
    """
    note = None
    for pid in pids:
        path = f"{proc_root}/{pid}/oom_score_adj"
        try:
            files.write(path, str(value), "set the OOM score")
        except HostFault as fault:
            if fault.errno in (errno.ENOENT, errno.ESRCH):
                continue
            if fault.errno not in (errno.EACCES, errno.EPERM):
                raise
            note = _clamp(path, value) or note
    return note


def clamped_oom_score_adj(pid: int, value: int, proc_root: str = "/proc") -> str | None:
    """A note where a process that was to start with the OOM score ``value`` has a higher one; None if it has ended."""
    try:
        current = int(files.read(f"{proc_root}/{pid}/oom_score_adj", "read the OOM score"))
    except HostFault:
        return None
    return _clamped(value, current) if current > value else None


def _clamped(value: int, current: int) -> str:
    return f"oom_score_adj {value} is clamped to {current}: the host refuses a lower one"


def _clamp(path: str, value: int) -> str | None:
    try:
        current = int(files.read(path, "set the OOM score"))
        if value < 0 < current:
            files.write(path, "0", "set the OOM score")
            current = 0
    except HostFault as fault:
        if fault.errno in (errno.ENOENT, errno.ESRCH):
            return None
        if fault.errno not in (errno.EACCES, errno.EPERM):
            raise
    return _clamped(value, current)


def _path(layout: Layout, cgroup_path: str, write: Write) -> str:
    found = directory(layout, write.controller, cgroup_path)
    if found is None:
        raise FailedPrecondition(f"the host has no {write.controller} controller", step=_STEP, object=cgroup_path)
    return f"{found}/{write.file}"


def _apply(path: str, writes: Sequence[Write]) -> str | None:
    """Write all values to ``path`` through one descriptor; a note where an optional file is missing."""
    value = writes[0].value
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            for write in writes:
                value = write.value
                os.write(fd, value.encode())
        finally:
            os.close(fd)
    except OSError as error:
        if writes[0].optional and error.errno in _MISSING:
            return f"{writes[0].file} {value} is ignored: this kernel does not have the file"
        message = f"could not write {value!r}"
        raise HostFault(message, step=_STEP, object=path, call="write", errno=error.errno or 0) from error
    return None


def _attach(plan: LimitPlan, layout: Layout, cgroup_path: str) -> None:
    path = f"{layout.v2}{cgroup_path}"
    try:
        bpf.attach_device_program(path, bpf.assemble_device_program(plan.program or ()))
    except OSError as error:
        call = str(getattr(error, "call", "bpf"))
        raise HostFault("device program", step=_STEP, object=path, call=call, errno=error.errno or 0) from error


def _readable(path: str) -> list[tuple[str, str]]:
    """The value to put back, none where the file cannot be read (then it is not written either)."""
    try:
        return [(path, files.read(path, _STEP).rstrip("\n"))]
    except HostFault:
        return []


def _put_back(before: list[tuple[str, str]]) -> list[str]:
    """Write the old values in reverse order; what failed."""
    lost = []
    for path, value in reversed(before):
        try:
            files.write(path, value or "\n", _STEP)
        except HostFault as fault:
            lost.append(f"{path} ({fault.errno})")
    return lost


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


def _table(path: str) -> list[tuple[str, str]]:
    pairs = (line.partition(" ")[::2] for line in files.read(path, _STEP).splitlines())
    return [(name, value) for name, value in pairs if value.isdecimal()]


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
