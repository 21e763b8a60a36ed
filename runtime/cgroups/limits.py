"""Carry out a plan of resource limits, and put back what an update has changed.

``resources`` makes the plan, ``in_force`` reads what the kernel has made of it. An update
takes along what ``read_before`` has said, and whoever carries it out owes ``put_back``; a
new cgroup whose limits are refused is removed.

Invariant: what ``put_back`` does not name has the content that it had.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from runtime.cgroups import files
from runtime.cgroups.layout import Layout, directory
from runtime.cgroups.resources import LimitPlan, Write
from runtime.errors import FailedPrecondition, Fault, HostFault, InvalidArgument
from runtime.linux import bpf

_STEP = "limit the cgroup"
_KEPT_V2, _SWAPPABLE_V2 = ("kernel", "sock"), ("anon", "shmem")
"""Lines of memory.stat: memory that the kernel cannot reclaim, ever and beyond what it may swap out."""

REFUSALS: Mapping[int, type[Fault]] = {
    errno.EBUSY: FailedPrecondition,
    errno.EINVAL: InvalidArgument,
    errno.ERANGE: InvalidArgument,
    errno.ENOENT: FailedPrecondition,
    errno.ENOSPC: FailedPrecondition,
}
"""What the kernel's answer to a limit means: EBUSY that it is below what is used (v1), ENOENT that it has no
such file, ENOSPC that a CPU set would be empty."""

_MISSING = (errno.ENOENT, errno.EOPNOTSUPP)
_GONE = (errno.ENOENT, errno.ENODEV)


def read_before(plan: LimitPlan, layout: Layout, cgroup_path: str) -> tuple[Write, ...]:
    """What the files of ``plan`` hold, as writes that give it back; in the order of the plan.

    Device rules are not among them, nor what cannot be read and so is not kept.
    """
    before: dict[tuple[str, str], Write] = {}
    for write in plan.writes:
        if write.controller != "devices" and (write.controller, write.file) not in before:
            with contextlib.suppress(HostFault):
                content = files.read(_path(layout, cgroup_path, write), _STEP).rstrip("\n")
                before[write.controller, write.file] = Write(write.controller, write.file, content)
    return tuple(before.values())


def apply_writes(plan: LimitPlan, layout: Layout, cgroup_path: str) -> tuple[str, ...]:
    """Do what ``plan`` says to ``cgroup_path``, in its order, until the kernel refuses something.

    Returns:
        The plan's notes, and one for each optional file that the kernel lacks.

    Raises:
        FailedPrecondition: a limit is below what is used, or cannot be had here.
        InvalidArgument: the kernel takes the value for none.
        HostFault: it refused for another reason. Each has the file and the value.
    """
    notes = list(plan.notes)
    for path, group in groupby(plan.writes, key=lambda write: _path(layout, cgroup_path, write)):
        note = _apply(path, list(group))
        if note:
            notes.append(note)
    if plan.program is not None:
        _attach(plan, layout, cgroup_path)
    return tuple(notes)


def put_back(before: Sequence[Write], layout: Layout, cgroup_path: str) -> list[str]:
    """Give files the content they had (``read_before``), the last one first; a cgroup that is gone needs nothing.

    Returns:
        The files that have not got it: what is used by now forbids it.
    """
    try:
        refuse_below_use(before, layout, cgroup_path)
    except FailedPrecondition as fault:
        return [fault.object]
    except HostFault as fault:
        if fault.errno in _GONE:
            return []
        raise
    places = [(directory(layout, write.controller, cgroup_path), write) for write in reversed(before)]
    paths = [(f"{place}/{write.file}", write.value) for place, write in places if place is not None]
    return [path for path, content in paths if not _restore(path, content)]


def refuse_below_use(writes: Iterable[Write], layout: Layout, cgroup_path: str, proc_root: str = "/proc") -> None:
    """v1 refuses a memory limit below what is used and cannot be reclaimed; v2 takes it and kills.

    Raises:
        FailedPrecondition: there is one for a v2 cgroup among ``writes``.
        HostFault: the cgroup does not exist.
    """
    asked = {write.file: write.value.strip() for write in writes}
    limit = asked.get("memory.max", "")
    if not limit.isdecimal() or not layout.is_v2("memory"):
        return
    place = directory(layout, "memory", cgroup_path)
    stat = dict(_table(f"{place}/memory.stat"))
    kept, swappable = (sum(int(stat.get(name, 0)) for name in names) for names in (_KEPT_V2, _SWAPPABLE_V2))
    room = _swap_room(f"{place}", asked.get("memory.swap.max"), proc_root) if layout.swap else 0
    used = kept + max(0, swappable - room)
    if int(limit) < used:
        message = f"a memory limit of {limit} is below the {used} bytes in use"
        raise FailedPrecondition(message, step=_STEP, object=f"{place}/memory.max")


def _swap_room(place: str, asked: str | None, proc_root: str) -> int:
    """Bytes that a v2 cgroup may swap out beyond what it has, with the limit ``asked`` or the one in force."""
    meminfo = files.read(f"{proc_root}/meminfo", _STEP)
    free = next((int(line.split()[1]) << 10 for line in meminfo.splitlines() if line.startswith("SwapFree:")), 0)
    try:
        limit = asked or files.read(f"{place}/memory.swap.max", _STEP).strip()
        current = int(files.read(f"{place}/memory.swap.current", _STEP))
    except HostFault as fault:
        if fault.errno in _MISSING:  # swap is not accounted for
            return free
        raise
    return free if limit == "max" else max(0, min(free, int(limit) - current))


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


def read_oom_score_adj(pid: int, proc_root: str = "/proc") -> int | None:
    """The OOM score that a process has; None if it has ended."""
    try:
        return int(files.read(f"{proc_root}/{pid}/oom_score_adj", "read the OOM score"))
    except HostFault:
        return None


def note_clamped(value: int, current: int) -> str:
    """What to say where a process was to have the OOM score ``value`` and has a higher one."""
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
    return note_clamped(value, current)


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
        fault = HostFault(message, step=_STEP, object=path, call="write", errno=error.errno or 0)
        kind = REFUSALS.get(error.errno or 0)
        raise (kind(str(fault)) if kind else fault) from error
    return None


def _attach(plan: LimitPlan, layout: Layout, cgroup_path: str) -> None:
    path = f"{layout.v2}{cgroup_path}"
    try:
        bpf.attach_device_program(path, bpf.assemble_device_program(plan.program or ()))
    except OSError as error:
        call = str(getattr(error, "call", "bpf"))
        raise HostFault("device program", step=_STEP, object=path, call=call, errno=error.errno or 0) from error


def _restore(path: str, content: str) -> bool:
    """Whether the file holds ``content`` afterwards; keyed files take a line a write."""
    try:
        for line in content.splitlines() or ["\n"]:
            files.write(path, line, _STEP)
        return files.read(path, _STEP).rstrip("\n") == content
    except HostFault as fault:
        return fault.errno in _GONE


def _table(path: str) -> list[tuple[str, str]]:
    pairs = (line.partition(" ")[::2] for line in files.read(path, _STEP).splitlines())
    return [(name, value) for name, value in pairs if value.isdecimal()]
