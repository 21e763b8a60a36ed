"""What an endpoint costs: private memory and CPU time of its processes, from /proc.

A process belongs to a pod by its cgroup, whose name holds the id of the sandbox or of the
container, with every runtime. Who keeps a pod (crisp's monitor, another's shim) is the
parent of these processes.

Invariant: nothing but reading; a process that is gone counts as nothing.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from runtime.cgroups import layout

CPUCLOCK_SCHED = 2
"""include/linux/posix-timers.h: the clock of a whole process, in nanoseconds."""


def cgroup_root() -> Path:
    """A tree in which every container has its cgroup."""
    found = layout.detect()
    return Path(found.root("memory") or found.v2 or found.v1[0].mount)


def members(ids: Collection[str], below: Path) -> Iterator[int]:
    """The processes in the cgroups at or below ``below`` that are named by one of ``ids``, and below those."""
    for folder, names, _files in os.walk(below):
        if any(id in folder for id in ids):
            yield from read_procs(Path(folder))
        names.sort()


def read_procs(folder: Path) -> list[int]:
    try:
        return [int(line) for line in (folder / "cgroup.procs").read_text().split()]
    except OSError:
        return []


def keepers(inside: Collection[int]) -> set[int]:
    """The processes outside of a pod's cgroups that have a child in them: monitor or shim."""
    return {parent for parent in map(parent_of, inside) if parent > 1} - set(inside)


def parent_of(pid: int) -> int:
    """0 for a process that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except OSError:
        return 0


def private_bytes(pid: int) -> int:
    """What ending ``pid`` would give back (proc_pid_smaps(5))."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:
        return 0
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Private_"))


def cpu_seconds(pids: Collection[int]) -> float:
    """CPU time of these processes with all their threads (clock_getcpuclockid(3))."""
    return sum(map(cpu_seconds_of, pids))


def cpu_seconds_of(pid: int) -> float:
    try:
        return time.clock_gettime(~pid << 3 | CPUCLOCK_SCHED)
    except OSError:
        return 0.0


def file_system_type(path: str) -> str:
    """``ext4``, ``tmpfs``: of the mount that ``path`` lies on."""
    mount = next(p for p in [Path(path).resolve(), *Path(path).resolve().parents] if os.path.ismount(p))
    found = ""
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        if before.split()[4] == str(mount):  # the last one is on top
            found = after.split()[0]
    return found
