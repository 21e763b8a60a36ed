"""The processes of a cgroup and what they have open, for the metrics that no cgroup file has.

It looks into /proc of every process, which costs too much for each request: the
daemon calls it in a thread and keeps the answer for a while (``cri.aged``).

Invariant: a process that ends meanwhile does not count and is no error; the work is
bounded by ``LOOKED_AT`` descriptors, whatever a container opens.
"""

from __future__ import annotations

import os
import time
from typing import NamedTuple

from runtime.cgroups import kill
from runtime.cgroups.layout import Layout, directory

LOOKED_AT = 8192
"""Descriptors that are told sockets or not; above that, they only count as descriptors."""


class Processes(NamedTuple):
    """At ``time`` (ns since the epoch). ``open_files`` is the soft limit of the first process,
    -1 for none, None when there is no process."""

    time: int
    processes: int = 0
    descriptors: int = 0
    sockets: int = 0
    open_files: int | None = None


def measure_processes(layout: Layout, cgroup_path: str, proc_root: str = "/proc") -> Processes:
    """What runs in ``cgroup_path`` and below. A cgroup that is gone has no process."""
    place = directory(layout, "pids", cgroup_path) or f"{layout.v2 or layout.v1[0].mount}{cgroup_path}"
    return look_at(kill.pids(place), proc_root)


def look_at(pids: list[int], proc_root: str) -> Processes:
    processes, descriptors, sockets, open_files, left = 0, 0, 0, None, LOOKED_AT
    for pid in pids:
        folder = f"{proc_root}/{pid}/fd"
        try:
            names = os.listdir(folder)
        except OSError:
            continue  # it ended
        processes += 1
        descriptors += len(names)
        sockets += sum(_is_socket(f"{folder}/{name}") for name in names[:left])
        left = max(0, left - len(names))
        if open_files is None:
            open_files = _open_files_limit(f"{proc_root}/{pid}/limits")
    return Processes(time.time_ns(), processes, descriptors, sockets, open_files)


def _is_socket(path: str) -> bool:
    try:
        return os.readlink(path).startswith("socket:")
    except OSError:
        return False


def _open_files_limit(path: str) -> int | None:
    """The soft limit in the line ``Max open files  1024  4096  files``."""
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            for line in file:
                if line.startswith("Max open files"):
                    soft = line.split()[3]
                    return -1 if soft == "unlimited" else int(soft)
    except OSError:
        return None
    return None
