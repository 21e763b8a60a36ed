"""Names of systemd's units, and the cgroup paths that they have.

``cri.plan`` places pods by them, ``cri.steps`` finds the unit of a path again. A slice's
name has those of all slices above it (systemd.slice(5)): ``a-b.slice`` is in ``a.slice``.
The scope of a container or a pause process has no process itself. Below it are a cgroup
that crisp makes as anywhere else (``inner``), and one of the process that keeps the scope
(``runtime.systemd.keeper``).

Invariant: pure; each cgroup path of ours names its unit, so nothing else has to remember it.
"""

from __future__ import annotations

import re

from runtime.errors import InvalidArgument

SLICE, SCOPE = ".slice", ".scope"
INNER = "container"
"""The cgroup in a scope in which the container's (or pause's) processes are."""

KEEPER = "keeper"
"""The one of the process that keeps the scope."""

_STEM = re.compile(r"[A-Za-z0-9:_.\\]+(-[A-Za-z0-9:_.\\]+)*")
_LENGTH = 255
"""Of a unit's name, in bytes."""


def slice_path(name: str) -> str:
    """The cgroup path of a slice: ``a-b.slice`` is ``/a.slice/a-b.slice``.

    Raises:
        InvalidArgument: it is no name of a slice, or that of the root.
    """
    stem = name.removesuffix(SLICE)
    if stem == name or len(name) > _LENGTH or not _STEM.fullmatch(stem):
        raise InvalidArgument("is no name of a slice such as kubepods-pod1.slice", object=repr(name))
    parts = stem.split("-")
    return "".join(f"/{'-'.join(parts[: depth + 1])}{SLICE}" for depth in range(len(parts)))


def is_slice(cgroup_path: str) -> bool:
    return cgroup_path.endswith(SLICE)


def scope_name(instance: str, id: str) -> str:
    """Of a pod's pause or a container; what a daemon makes carries its name, ``instance``."""
    return f"crisp-{instance}-{id}{SCOPE}"


def slice_name(instance: str, id: str) -> str:
    """Of a pod that kubelet has given none: in system.slice, which is there already and stays."""
    return f"system-crisp_{instance}_{id}{SLICE}"


def patterns(instance: str) -> tuple[str, str]:
    """Of the names that a daemon has given, as fnmatch(3) takes them."""
    return scope_name(instance, "*"), slice_name(instance, "*")


def id_of(unit: str) -> str:
    """The pod or container that a daemon has made the unit for."""
    return re.split("[-_]", unit.rpartition(".")[0])[-1]


def inner(parent: str, scope: str) -> str:
    """The cgroup path of what runs in ``scope`` in the slice with the path ``parent``."""
    return f"{parent}/{scope}/{INNER}"


def unit_of(cgroup_path: str) -> str:
    """The unit that ``cgroup_path`` is of: a slice, or the scope right above it; "" for a cgroup of our own."""
    above, _, name = cgroup_path.rpartition("/")
    if name.endswith(SLICE):
        return name
    holder = above.rpartition("/")[2]
    return holder if holder.endswith(SCOPE) and name == INNER else ""


def outer(cgroup_path: str) -> str:
    """The cgroup path of the scope of ``inner``, of a slice its own."""
    return cgroup_path if is_slice(cgroup_path) else cgroup_path.rpartition("/")[0]


def slice_of(cgroup_path: str) -> str:
    """The slice that the scope of ``cgroup_path`` is in."""
    return outer(cgroup_path).split("/")[-2]
