"""Cgroup directories: made, handed down, removed.

``layout`` says where they are, ``kill`` empties them, ``resources`` limits them.
A directory that crisp makes carries an extended attribute (``trusted.crisp``), so
that ownership is read from the kernel and needs no record: what kubelet or an
administrator made has none, and is never removed here. Ancestors that were
missing are made as well, with an empty mark: whoever removes the last cgroup
below takes them away, while a cgroup with an owner goes only when it is named.

All functions but ``wait_removed`` are plain system calls, short enough for the
event loop: nine directories take less than half a millisecond.

Invariant: ``create`` makes all directories of a path or leaves none of its own;
``remove`` may be repeated at any time, also while another process makes a sibling.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Collection

from runtime.cgroups import files, kill
from runtime.cgroups.layout import Layout, dirs, exec_dirs, validate
from runtime.errors import HostFault
from runtime.requests import CgroupDirs

MARK = "trusted.crisp"
"""Extended attribute of a directory of ours; its value says what it is for (an id), empty for an
ancestor that was only made because it was missing."""

USED = frozenset({"cpu", "cpuset", "hugetlb", "io", "memory", "pids"})
"""Controllers that each container has in v2: limits and figures are of these."""

DELEGATABLE = "/sys/kernel/cgroup/delegate"

_MAKE = "make the cgroup"
_REMOVE = "remove the cgroup"
_RACES = 8


def exists(layout: Layout, cgroup_path: str) -> bool:
    """Whether any tree has ``cgroup_path``; on hybrid hosts the v1 trees decide."""
    found = dirs(layout, cgroup_path)
    return any(os.path.isdir(path) for path in (found["v1"] or [found["v2"] or ""]))


def create(layout: Layout, cgroup_path: str, owner: str, controllers: Collection[str] = ()) -> bool:
    """Make ``cgroup_path`` and what is missing above it, in every tree.

    v1: a new cpuset gets its parent's CPUs and memory nodes, without which no
    process could enter it. v2: controllers are enabled in every ancestor that lacks them.

    Args:
        owner: what the directories are for, kept in their mark.
        controllers: of the v2 tree, beside ``USED``.

    Returns:
        Whether the leaf was made here (in at least one tree), false if it was there.

    Raises:
        HostFault: nothing of what this call made is left.
        InvalidArgument: see ``layout.validate``.
    """
    validate(cgroup_path)
    made: list[str] = []
    try:
        for hierarchy in layout.v1:
            _make_path(hierarchy.mount, cgroup_path, owner, made)
            if "cpuset" in hierarchy.controllers:
                _fill_cpuset(hierarchy.mount, cgroup_path)
        if layout.v2 is not None:
            _make_path(layout.v2, cgroup_path, owner, made)
            hand_down(layout, cgroup_path, controllers)
    except BaseException:
        for path in reversed(made):
            _rmdir(path)
        raise
    leaves = {hierarchy.mount + cgroup_path for hierarchy in layout.v1} or {f"{layout.v2}{cgroup_path}"}
    return not leaves.isdisjoint(made)


def delegate(layout: Layout, cgroup_path: str, owner: int) -> None:
    """Let the user ``owner`` divide ``cgroup_path`` on v2: the directory and the files that the kernel lists for it
    become its own, the limits do not (cgroups(7), "Cgroups delegation").

    Raises:
        HostFault: the kernel refused.
    """
    if layout.v2 is None:
        return
    step, folder = "delegate the cgroup", f"{layout.v2}{cgroup_path}"
    for path in (folder, *(f"{folder}/{name}" for name in files.read(DELEGATABLE, step).split())):
        try:
            os.chown(path, owner, -1, follow_symlinks=False)
        except FileNotFoundError:
            continue  # of a controller that this cgroup has not
        except OSError as error:
            raise HostFault(step=step, object=path, call="chown", errno=error.errno or 0) from error


def create_exec(layout: Layout, cgroup_path: str, name: str) -> CgroupDirs:
    """Make what an exec in the container ``cgroup_path`` has of its own.

    Nothing is enabled in the container's ``cgroup.subtree_control``: it has
    processes itself, which v2 allows only to a cgroup that hands no controller down.
    """
    found = exec_dirs(layout, cgroup_path, name)
    made: list[str] = []
    try:
        for path in _own_exec_dirs(found, name):
            _mkdir(path, name, made)
    except BaseException:
        for path in reversed(made):
            _rmdir(path)
        raise
    return found


def remove_exec(layout: Layout, cgroup_path: str, name: str) -> bool:
    """One attempt to remove what ``create_exec`` made; False while a process is in it."""
    paths = _own_exec_dirs(exec_dirs(layout, cgroup_path, name), name)
    return all([_remove_tree(path) for path in paths])


def remove(layout: Layout, cgroup_path: str, *, ours: bool = False) -> bool:
    """One attempt to remove ``cgroup_path``, all below it, and ancestors that were made for it.

    Directories without our mark are left alone, unless the caller knows that
    the cgroup is ours (``ours=True``: it was recorded before it was made).

    Returns:
        False while something that is ours is still there (a process is in it).
    """
    validate(cgroup_path)
    mounts = [hierarchy.mount for hierarchy in layout.v1] + ([layout.v2] if layout.v2 else [])
    gone = [_remove_in(mount, cgroup_path, ours) for mount in mounts]
    return all(gone)


async def wait_removed(layout: Layout, cgroup_path: str, timeout: float, *, ours: bool = True) -> None:
    """Remove ``cgroup_path``, killing what is in it, until it is gone.

    Args:
        timeout: seconds.

    Raises:
        HostFault: time is over; the message names the processes that are left.
    """
    loop = asyncio.get_running_loop()
    deadline, pause = loop.time() + timeout, 0.001
    while not remove(layout, cgroup_path, ours=ours):
        if loop.time() >= deadline:
            left = ", ".join(map(str, sorted(procs(layout, cgroup_path))[:10])) or "none that is visible"
            message = f"still in use after {timeout:g} s, processes: {left}"
            raise HostFault(message, step=_REMOVE, object=cgroup_path, call="rmdir", errno=errno.EBUSY)
        if ours:
            kill.kill(dirs(layout, cgroup_path))
        await asyncio.sleep(pause)
        pause = min(pause * 2, 0.1)


def procs(layout: Layout, cgroup_path: str) -> set[int]:
    """The processes in ``cgroup_path`` and below, in whichever tree they are."""
    found = dirs(layout, cgroup_path)
    return {pid for path in [*found["v1"], *filter(None, [found["v2"]])] for pid in kill.pids(path)}


def owner(directory: str) -> str | None:
    """What the mark of a directory says, None without one."""
    try:
        return os.getxattr(directory, MARK).decode(errors="replace")
    except OSError as error:
        if error.errno in (errno.ENODATA, errno.ENOENT, errno.EOPNOTSUPP, errno.EPERM):
            return None
        raise HostFault(
            step="read the cgroup's mark", object=directory, call="getxattr", errno=error.errno or 0
        ) from error


def _own_exec_dirs(found: CgroupDirs, name: str) -> list[str]:
    """Those of an exec's directories that are not the container's."""
    return [path for path in [*found["v1"], *filter(None, [found["v2"]])] if path.endswith(f"/{name}")]


def _make_path(mount: str, cgroup_path: str, owner: str, made: list[str]) -> None:
    """mkdir -p below ``mount``; the leaf is tried first, for usually only it is missing."""
    for _ in range(_RACES):
        try:
            _mkdir(mount + cgroup_path, owner, made)
            return
        except HostFault as fault:
            if fault.errno != errno.ENOENT or not os.path.isdir(mount):
                raise
        # An ancestor is missing, or was removed by whoever took the last cgroup out of it.
        parents = cgroup_path[1:].split("/")[:-1]
        for depth in range(1, len(parents) + 1):
            try:
                _mkdir(f"{mount}/{'/'.join(parents[:depth])}", "", made)
            except HostFault as fault:
                if fault.errno != errno.ENOENT:
                    raise
                break
    raise HostFault("its ancestors keep disappearing", step=_MAKE, object=mount + cgroup_path, call="mkdir")


def _mkdir(path: str, owner: str, made: list[str]) -> None:
    """Make one directory and mark it; one that is there stays as it is.

    The container looks at it from inside: the daemon's umask allows that (``cri.cli.serve``).
    """
    try:
        os.mkdir(path, 0o755)
    except FileExistsError:
        return
    except OSError as error:
        raise HostFault(step=_MAKE, object=path, call="mkdir", errno=error.errno or 0) from error
    made.append(path)
    try:
        os.setxattr(path, MARK, owner.encode())
    except OSError as error:
        if error.errno not in (errno.EOPNOTSUPP, errno.EPERM, errno.ENOENT):
            raise HostFault(step="mark the cgroup", object=path, call="setxattr", errno=error.errno or 0) from error


def _fill_cpuset(mount: str, cgroup_path: str) -> None:
    """Copy ``cpuset.cpus`` and ``cpuset.mems`` down from the nearest ancestor that has them.

    Where that was needed, the kernel does it itself for the next cgroup beside it, several times faster.
    """
    filled: set[str] = set()
    for name in ("cpuset.cpus", "cpuset.mems"):
        empty: list[str] = []
        path, value = cgroup_path, ""
        while True:
            value = files.read(f"{mount}{path}/{name}", _MAKE).strip()
            if value or not path:
                break
            empty.append(path)
            path = path.rpartition("/")[0]
        for path in reversed(empty):
            files.write(f"{mount}{path}/{name}", value, _MAKE)
        filled.update(empty)
    for parent in {path.rpartition("/")[0] for path in filled} - {""}:
        files.write(f"{mount}{parent}/cgroup.clone_children", "1", _MAKE)


def hand_down(layout: Layout, cgroup_path: str, controllers: Collection[str] = ()) -> None:
    """Enable ``USED`` and ``controllers``, as far as the host has them in v2, in every ancestor of ``cgroup_path``
    that lacks one, the root first. What others have enabled stays, and what they have not and nobody needs, too.

    A cgroup has the files of a controller only if its parent enables it in
    ``cgroup.subtree_control``, and the kernel refuses that (EBUSY) for a parent, the
    root excepted, that has processes of its own. That is why pause and containers
    are leaves, and why the pod's cgroup itself is empty. It is done before any process is
    below: afterwards it takes the kernel ten milliseconds.

    Raises:
        HostFault: an ancestor cannot hand them down.
    """
    wanted = layout.v2_controllers & USED.union(controllers)
    if not wanted:
        return
    offered, lacks = wanted, []
    ancestors = cgroup_path.split("/")[:-1]
    for depth in range(len(ancestors), 0, -1):
        path = f"{layout.v2}{'/'.join(ancestors[:depth])}"
        lacking = wanted.difference(files.read(f"{path}/cgroup.subtree_control", _MAKE).split())
        if not lacking:
            offered = wanted
            break  # nor does any above it lack one
        lacks.append((path, lacking))
        offered = frozenset(files.read(f"{path}/cgroup.controllers", _MAKE).split())
        if lacking <= offered:
            break
    for path, lacking in reversed(lacks):
        if lacking & offered:
            _enable(path, lacking & offered)


def _enable(path: str, controllers: frozenset[str]) -> None:
    try:
        enabled = " ".join(f"+{name}" for name in sorted(controllers))
        files.write(f"{path}/cgroup.subtree_control", enabled, "hand controllers down")
    except HostFault as fault:
        if fault.errno != errno.EBUSY:
            raise
        message = "it has processes of its own, which cgroup v2 forbids to a parent of limited cgroups"
        message += "; docs/operating.md says what helps in a container"
        raise HostFault(message, step=fault.step, object=path, call="write", errno=errno.EBUSY) from fault


def _remove_in(mount: str, cgroup_path: str, ours: bool) -> bool:
    path = mount + cgroup_path
    if (ours or owner(path) is not None) and not _remove_tree(path):  # ours: also where marks are not supported
        return False
    while (cgroup_path := cgroup_path.rpartition("/")[0]) and owner(mount + cgroup_path) == "":
        if not _rmdir(mount + cgroup_path):
            break  # another cgroup lives in it: whoever removes that one takes it away
    return True


def _remove_tree(path: str) -> bool:
    """rmdir ``path``, children first; True when it is gone. The common case is one call."""
    if _rmdir(path):
        return True
    try:
        with os.scandir(path) as entries:
            children = [entry.path for entry in entries if entry.is_dir(follow_symlinks=False)]
    except FileNotFoundError:
        return True
    if not children or not all([_remove_tree(child) for child in children]):
        return False
    return _rmdir(path)


def _rmdir(path: str) -> bool:
    """True when ``path`` is gone, False while a process or a child is in it."""
    try:
        os.rmdir(path)
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENODEV):
            return True
        if error.errno in (errno.EBUSY, errno.ENOTEMPTY):
            return False
        raise HostFault(step=_REMOVE, object=path, call="rmdir", errno=error.errno or 0) from error
    return True
