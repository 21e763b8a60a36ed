"""Where this host's cgroup hierarchies are, and where one cgroup is in each of them.

``detect`` reads the tables of /proc once; everything after it is arithmetic on
paths. ``tree`` makes and removes the directories, ``resources`` and ``stats`` read
and write the files in them.

A *cgroup path* is what the CRI calls ``cgroup_parent`` and below: absolute,
relative to the root of each hierarchy as the daemon sees it (``/kubepods/podX``).

Invariant: every directory that this module returns is below a cgroup mount point.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum

from runtime.errors import HostFault, InvalidArgument
from runtime.requests import CgroupDirs

_COMPUTE = ("cpu", "cpuacct", "cpuset", "memory", "hugetlb", "pids", "rdma", "misc")
_CONTROL = ("blkio", "devices", "freezer", "net_cls", "net_prio", "perf_event")
CONTROLLERS = frozenset((*_COMPUTE, *_CONTROL))
"""v1 controllers whose hierarchies get a directory; a named hierarchy (name=systemd) does too.
But see ``needed``."""

_HELD = frozenset({"memory", "pids"})
_COMPONENT_MAX = 255
_ESCAPE = re.compile(r"\\([0-7]{3})")


class Kind(StrEnum):
    """V1: only v1 trees. HYBRID: v1 trees, and a v2 tree beside them. V2: one tree."""

    V1 = "v1"
    HYBRID = "hybrid"
    V2 = "v2"


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One v1 tree: its mount point, the controllers in it (``name=systemd`` for a named
    one), and the daemon's own cgroup path there."""

    mount: str
    controllers: tuple[str, ...]
    own: str


@dataclass(frozen=True, slots=True)
class Layout:
    """The host's cgroups. ``v2`` is the mount point of the v2 tree or None,
    ``v2_controllers`` what its root offers, ``own_v2`` the daemon's own path in it.
    ``swap`` tells whether the host had a swap device, ``page_sizes`` its huge page
    sizes as the hugetlb controller spells them (``2MB``)."""

    kind: Kind
    v1: tuple[Hierarchy, ...]
    v2: str | None
    v2_controllers: frozenset[str]
    own_v2: str
    swap: bool
    page_sizes: frozenset[str]

    def root(self, controller: str) -> str | None:
        """The mount point of the tree that has ``controller``, v1 first; None if none has."""
        for hierarchy in self.v1:
            if controller in hierarchy.controllers:
                return hierarchy.mount
        return self.v2 if controller in self.v2_controllers else None

    def is_v2(self, controller: str) -> bool:
        """Whether ``controller`` is to be found in the v2 tree."""
        return controller in self.v2_controllers and self.root(controller) == self.v2


def detect(proc_root: str = "/proc", sys_root: str = "/sys") -> Layout:
    """The layout of this host.

    Raises:
        HostFault: /proc cannot be read, or no cgroup tree is mounted.
    """
    mountinfo = _read(f"{proc_root}/self/mountinfo")
    layout = parse(
        mountinfo,
        _read(f"{proc_root}/cgroups", missing=""),
        _read(f"{proc_root}/self/cgroup"),
        _read(f"{proc_root}/swaps", missing=""),
    )
    offered = _read(f"{layout.v2}/cgroup.controllers", missing="").split() if layout.v2 else []
    return Layout(
        layout.kind,
        needed(layout, os.uname().release),
        layout.v2,
        frozenset(offered),
        layout.own_v2,
        layout.swap,
        frozenset(_page_sizes(f"{sys_root}/kernel/mm/hugepages")),
    )


def parse(mountinfo: str, cgroups: str, own: str, swaps: str = "") -> Layout:
    """The layout that these texts of /proc describe; ``v2_controllers`` and ``page_sizes`` stay empty.

    Args:
        mountinfo: /proc/self/mountinfo (proc_pid_mountinfo(5)).
        cgroups: /proc/cgroups; names the controllers that this kernel has.
        own: /proc/self/cgroup.
        swaps: /proc/swaps.
    """
    known = CONTROLLERS & {line.split()[0] for line in cgroups.splitlines() if line and not line.startswith("#")}
    own_paths = _own_paths(own)
    v1: dict[tuple[str, ...], Hierarchy] = {}
    v2: str | None = None
    # A hierarchy's own root is preferred to a bind mount of a part of it.
    for _root, mount, fstype, options in sorted(_cgroup_mounts(mountinfo), key=lambda found: found[0] != "/"):
        if fstype == "cgroup2":
            v2 = v2 or mount
            continue
        controllers = tuple(sorted(o for o in options if o in (known or CONTROLLERS) or o.startswith("name=")))
        if controllers and controllers not in v1:
            v1[controllers] = Hierarchy(mount, controllers, own_paths.get(controllers[0], "/"))
    if not v1 and v2 is None:
        raise HostFault("no cgroup or cgroup2 file system is mounted", step="read the cgroup layout")
    kind = Kind.V2 if not v1 else Kind.HYBRID if v2 else Kind.V1
    swap = len(swaps.splitlines()) > 1
    return Layout(kind, tuple(v1.values()), v2, frozenset(), own_paths.get("", "/"), swap, frozenset())


def needed(layout: Layout, release: str) -> tuple[Hierarchy, ...]:
    """The v1 trees that have something to give beside the v2 tree: all but the freezer and named ones.

    Each tree costs a container a directory, a move into it and a mount. v2 kills and freezes by
    itself (``cgroup.kill`` from Linux 5.14), and it is there that systemd follows processes.
    """
    version = re.match(r"(\d+)\.(\d+)", release)
    if layout.v2 is None or version is None or (int(version[1]), int(version[2])) < (5, 14):
        return layout.v1
    return tuple(each for each in layout.v1 if not all(_is_in_v2(name) for name in each.controllers))


@functools.lru_cache(maxsize=4)
def of_waiting(layout: Layout) -> Layout:
    """The trees for a process that does nothing but wait, in a group that is limited above it.

    Of v1 those that count what it has: memory, and itself. What limits or counts what is done it would be in for
    nothing, and each costs its birth a directory and a move. Without v2, which ends it, it has to be in all.
    """
    if layout.v2 is None or any("freezer" in hierarchy.controllers for hierarchy in layout.v1):
        return layout
    return replace(layout, v1=tuple(each for each in layout.v1 if not _HELD.isdisjoint(each.controllers)))


def _is_in_v2(controller: str) -> bool:
    return controller == "freezer" or controller.startswith("name=")


def validate(cgroup_path: str) -> str:
    """``cgroup_path`` itself, if it can be one.

    Raises:
        InvalidArgument: not absolute, the root, not in normal form, a ``..`` or NUL in it,
            a component that the kernel keeps for its own files (``cgroup.procs``), or too long.
    """
    step = "check the cgroup path"
    if not cgroup_path.startswith("/") or cgroup_path == "/":
        raise InvalidArgument("must be absolute and not the root", step=step, object=repr(cgroup_path))
    for component in cgroup_path[1:].split("/"):
        if component in ("", ".", "..") or "\0" in component or "\n" in component:
            raise InvalidArgument("has an empty, dot or control component", step=step, object=repr(cgroup_path))
        if len(os.fsencode(component)) > _COMPONENT_MAX:
            raise InvalidArgument("has a component above 255 bytes", step=step, object=repr(cgroup_path))
        if component.startswith("cgroup.") or component in ("tasks", "notify_on_release", "release_agent"):
            raise InvalidArgument("has a component that names a kernel file", step=step, object=repr(cgroup_path))
    if len(os.fsencode(cgroup_path)) > 4000:
        raise InvalidArgument("is longer than 4000 bytes", step=step, object=repr(cgroup_path[:64] + "…"))
    return cgroup_path


def dirs(layout: Layout, cgroup_path: str) -> CgroupDirs:
    """The directories of ``cgroup_path``: one a v1 tree (co-mounted controllers share it), one in v2.

    Raises:
        InvalidArgument: see :func:`validate`.
    """
    validate(cgroup_path)
    return {
        "v1": [hierarchy.mount + cgroup_path for hierarchy in layout.v1],
        "v2": layout.v2 + cgroup_path if layout.v2 else None,
    }


def exec_dirs(layout: Layout, cgroup_path: str, name: str) -> CgroupDirs:
    """The directories of the exec ``name`` in the container ``cgroup_path``.

    An exec shares the container's limits. Only what is needed to kill it alone is
    its own: a child in the v1 freezer, a child without controllers in v2.
    """
    own = validate(f"{cgroup_path}/{name}")
    return {
        "v1": [h.mount + (own if "freezer" in h.controllers else cgroup_path) for h in layout.v1],
        "v2": layout.v2 + own if layout.v2 else None,
    }


def directory(layout: Layout, controller: str, cgroup_path: str) -> str | None:
    """The directory of ``cgroup_path`` that has the files of ``controller``, None if no tree has it."""
    root = layout.root(controller)
    return None if root is None else root + cgroup_path


def memory_events(layout: Layout, cgroup_path: str) -> str | None:
    """The file with the ``oom_kill`` counter, for StartRequest.memory_events."""
    found = directory(layout, "memory", cgroup_path)
    if found is None:
        return None
    return f"{found}/{'memory.events' if layout.is_v2('memory') else 'memory.oom_control'}"


def _read(path: str, missing: str | None = None) -> str:
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as file:
            return file.read()
    except OSError as error:
        if missing is not None and isinstance(error, FileNotFoundError):
            return missing
        raise HostFault(step="read the cgroup layout", object=path, call="open", errno=error.errno or 0) from error


def _cgroup_mounts(mountinfo: str) -> Iterable[tuple[str, str, str, frozenset[str]]]:
    """(root, mount point, file system type, super options) of each cgroup mount, in order."""
    for line in mountinfo.splitlines():
        before, dash, after = line.partition(" - ")
        fields, tail = before.split(" "), after.split(" ")
        if dash and tail[0] in ("cgroup", "cgroup2") and len(fields) >= 6 and len(tail) >= 3:
            yield _unescape(fields[3]), _unescape(fields[4]), tail[0], frozenset(tail[2].split(","))


def _unescape(field: str) -> str:
    return _ESCAPE.sub(lambda match: chr(int(match[1], 8)), field)


def _own_paths(own: str) -> dict[str, str]:
    """The path by controller; the v2 tree's under the empty name."""
    paths: dict[str, str] = {}
    for line in own.splitlines():
        _, controllers, path = line.split(":", 2)
        for controller in controllers.split(","):
            paths[controller] = path
    return paths


def _page_sizes(folder: str) -> Iterable[str]:
    """``hugepages-2048kB`` as the hugetlb controller names it: ``2MB``."""
    try:
        names = os.listdir(folder)
    except FileNotFoundError:
        return
    for name in names:
        match = re.fullmatch(r"hugepages-(\d+)kB", name)
        if match:
            yield page_size(int(match[1]))


def page_size(kilobytes: int) -> str:
    """The hugetlb controller's spelling of a huge page size (mm/hugetlb_cgroup.c, mem_fmt)."""
    if kilobytes >= 1 << 20:
        return f"{kilobytes >> 20}GB"
    return f"{kilobytes >> 10}MB" if kilobytes >= 1 << 10 else f"{kilobytes}KB"
