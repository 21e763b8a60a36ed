"""Read the usage of many cgroups at little cost.

One sweep serves stats and metrics; ``usage`` and ``detail`` have the meaning of the
figures, ``sampler`` the rates.

Opening a cgroup file costs six times as much as reading it, so a ``Sweeper`` keeps
them open, up to a number of descriptors. An open file does not keep a cgroup from
being removed; it is closed when a read says that the cgroup is gone, or by ``forget``.

Invariant: a sweep never fails because of one cgroup: one that is gone is left out.
"""

from __future__ import annotations

import errno
import os
import resource
import time
from collections.abc import Callable, Iterable
from typing import Self

from runtime.cgroups.detail import IO_FILES_V1, Detail, parse_detail
from runtime.cgroups.layout import Layout
from runtime.cgroups.usage import Usage, parse_usage
from runtime.errors import HostFault

_GONE = (errno.ENOENT, errno.ENODEV)
_ABSENT = (*_GONE, errno.EOPNOTSUPP)
_BYTES = 16_384
"""Enough for any of these files; memory.stat has about 2 KiB."""

_MEMORY_V1 = ("memory.usage_in_bytes", "memory.stat", "memory.oom_control")
_SWAP_V2 = ("memory.swap.current", "memory.swap.max")  # absent without swap accounting
_MEMORY_V2 = ("memory.current", "memory.stat", "memory.max", "memory.events", *_SWAP_V2)
_DETAIL = (  # controller, files on v1, files on v2
    ("cpuacct", ("cpuacct.stat",), ()),
    ("cpu", ("cpu.stat",), ("cpu.stat",)),
    ("memory", ("memory.failcnt", "memory.max_usage_in_bytes", "memory.kmem.usage_in_bytes"), ("memory.peak",)),
    ("pids", ("pids.max",), ("pids.max",)),
    ("blkio", IO_FILES_V1, ()),
    ("io", (), ("io.stat",)),
)
_PRESSURE = ("cpu.pressure", "memory.pressure", "io.pressure")


def plan_files(layout: Layout, *, pressure: bool = True) -> tuple[tuple[str, str], ...]:
    """(mount point, file name) of what a reading consists of on this host; pure."""
    files: list[tuple[str, str]] = []
    cpuacct = layout.root("cpuacct")
    if cpuacct is not None:
        files.append((cpuacct, "cpuacct.usage"))
    elif layout.v2 is not None:
        files.append((layout.v2, "cpu.stat"))  # there without any controller
    memory, pids = layout.root("memory"), layout.root("pids")
    if memory is not None:
        files += [(memory, name) for name in (_MEMORY_V2 if layout.is_v2("memory") else _MEMORY_V1)]
    if pids is not None:
        files.append((pids, "pids.current"))
    if pressure and layout.v2 is not None:
        files += [(layout.v2, name) for name in _PRESSURE]
    return tuple(files)


def plan_detail_files(layout: Layout) -> tuple[tuple[str, str], ...]:
    """As ``plan_files``: what a detailed reading has beyond it."""
    files: list[tuple[str, str]] = []
    for controller, v1, v2 in _DETAIL:
        mount = layout.root(controller)
        if mount is not None:
            files += [(mount, name) for name in (v2 if layout.is_v2(controller) else v1)]
    hugetlb = layout.root("hugetlb")
    if hugetlb is not None:
        kinds = ("current",) if layout.is_v2("hugetlb") else ("usage_in_bytes", "max_usage_in_bytes")
        files += [(hugetlb, f"hugetlb.{size}.{kind}") for size in sorted(layout.page_sizes) for kind in kinds]
    return tuple(each for each in files if each not in plan_files(layout))


class Sweeper:
    """Readings of many cgroups. Not for more than one thread at a time.

    Args:
        descriptors: how many files to keep open (None: half of what the process may have);
            beyond that each reading opens its own.
        pressure: whether to read pressure stall information.
    """

    def __init__(self, layout: Layout, *, descriptors: int | None = None, pressure: bool = True) -> None:
        budget = resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2 if descriptors is None else descriptors

        def has_room(more: int) -> bool:
            return self.descriptors + more <= budget

        self._basic = OpenFiles(plan_files(layout, pressure=pressure), has_room)
        self._detail = OpenFiles(plan_detail_files(layout), has_room)
        self._parsed: dict[str, tuple[dict[str, bytes], Usage]] = {}
        self._parsed_detail: dict[str, tuple[dict[str, bytes], Detail]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def sweep(self, cgroup_paths: Iterable[str]) -> dict[str, Usage]:
        """A reading of each cgroup, by its path; those that do not exist are left out.

        Raises:
            HostFault: a file cannot be read for another reason than that.
        """
        readings: dict[str, Usage] = {}
        for path in cgroup_paths:
            usage = self._usage(path, self._basic.read(path))
            if usage is not None:
                readings[path] = usage
        return readings

    def sweep_detailed(self, cgroup_paths: Iterable[str]) -> dict[str, tuple[Usage, Detail]]:
        """As ``sweep``, with what the metrics need beyond it."""
        readings: dict[str, tuple[Usage, Detail]] = {}
        for path in cgroup_paths:
            texts = self._basic.read(path)
            usage = self._usage(path, texts)
            if usage is not None and texts is not None:
                readings[path] = usage, self._detailed(path, texts)
        return readings

    def _usage(self, path: str, texts: dict[str, bytes] | None) -> Usage | None:
        """Parsed anew only if something changed: most cgroups are idle most of the time."""
        if texts is None:
            return None
        before = self._parsed.get(path)
        if before is not None and before[0] == texts:
            return Usage(time.time_ns(), time.monotonic_ns(), *before[1][2:])
        usage = parse_usage(texts, time.time_ns(), time.monotonic_ns())
        self._parsed[path] = texts, usage
        return usage

    def _detailed(self, path: str, basic: dict[str, bytes]) -> Detail:
        texts = {**basic, **(self._detail.read(path) or {})}
        before = self._parsed_detail.get(path)
        if before is not None and before[0] == texts:
            return before[1]
        detail = parse_detail(texts)
        self._parsed_detail[path] = texts, detail
        return detail

    def forget(self, cgroup_path: str) -> None:
        """Close the files of a cgroup that is being removed."""
        self._basic.forget(cgroup_path)
        self._detail.forget(cgroup_path)
        self._parsed.pop(cgroup_path, None)
        self._parsed_detail.pop(cgroup_path, None)

    def close(self) -> None:
        """Close all files; the sweeper can be used again."""
        self._basic.close()
        self._detail.close()

    @property
    def descriptors(self) -> int:
        """How many files are open now."""
        return self._basic.descriptors + self._detail.descriptors


class OpenFiles:
    """The same ``files`` of many cgroups, kept open while ``has_room`` for that many more descriptors."""

    def __init__(self, files: tuple[tuple[str, str], ...], has_room: Callable[[int], bool]) -> None:
        self._files = files
        self._has_room = has_room
        self._open: dict[str, tuple[int, ...]] = {}

    @property
    def descriptors(self) -> int:
        return len(self._open) * len(self._files)

    def forget(self, path: str) -> None:
        _close(self._open.pop(path, ()))

    def close(self) -> None:
        while self._open:
            _close(self._open.popitem()[1])

    def read(self, path: str) -> dict[str, bytes] | None:
        """The texts by name, None when the cgroup does not exist."""
        fds = self._open.get(path)
        if fds is not None:
            texts = self._read_open(path, fds)
            if texts is not None:
                return texts
            self.forget(path)  # gone; but a cgroup of that name may have been made anew
        fds = self._open_files(path)
        if fds is None:
            return None
        if self._has_room(len(fds)):
            self._open[path] = fds
            return self._read_open(path, fds)
        try:
            return self._read_open(path, fds)
        finally:
            _close(fds)

    def _open_files(self, path: str) -> tuple[int, ...] | None:
        """A descriptor per file, -1 for one that this cgroup lacks; None if it has none at all."""
        fds: list[int] = []
        try:
            for mount, name in self._files:
                try:
                    fds.append(os.open(f"{mount}{path}/{name}", os.O_RDONLY | os.O_CLOEXEC))
                except OSError as error:
                    if error.errno not in _ABSENT:
                        raise _unreadable(f"{mount}{path}/{name}", "open", error) from error
                    fds.append(-1)
        except BaseException:
            _close(fds)
            raise
        if all(fd < 0 for fd in fds):
            return None
        return tuple(fds)

    def _read_open(self, path: str, fds: tuple[int, ...]) -> dict[str, bytes] | None:
        """None when the kernel says that the cgroup is gone."""
        texts: dict[str, bytes] = {}
        for (mount, name), fd in zip(self._files, fds, strict=True):
            if fd < 0:
                continue
            try:
                texts[name] = os.pread(fd, _BYTES, 0)
            except OSError as error:
                if error.errno in _GONE:
                    return None
                if error.errno not in _ABSENT:
                    raise _unreadable(f"{mount}{path}/{name}", "pread", error) from error
        return texts


def _unreadable(path: str, call: str, error: OSError) -> HostFault:
    return HostFault(step="read the cgroup's usage", object=path, call=call, errno=error.errno or 0)


def _close(fds: Iterable[int]) -> None:
    for fd in fds:
        if fd >= 0:
            os.close(fd)
