"""Which places in its image a container mounts on, and what containers have them in common.

``cri.mountpoints`` keeps a layer for each key; ``runtime.mountpoints`` fills it.

Invariant: pure; and a key says all that its layer is made from: the image's layers, each
mountpoint in order, and what it is.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence

from cri.plan.container import ContainerPlan
from cri.plan.paths import clean
from runtime.requests import Mountpoint
from runtime.spec import Mount

MOST_LAYERS = 100
"""Of an image. One more has to fit into an overlay's options, which are one page."""

_MADE_BY = "1"
"""Goes into the keys: a crisp that makes something else of the same list has another one."""


def plan_mountpoints(plan: ContainerPlan, is_directory: Callable[[str], bool | None]) -> list[Mountpoint] | None:
    """Those that lie in the image, in the order in which init makes them; what is below another mount does not.

    None where it cannot be said: ``is_directory`` does not know a source, or volumes, whose
    place among the mounts depends on links of the image, are to be filled.
    """
    if plan.volumes:
        return None
    images = {volume.destination: volume.directory for volume in plan.image_volumes}
    found: list[Mountpoint] = []
    covered: set[str] = set()
    for mount in plan.spec["mounts"]:
        path = clean(mount["destination"])
        if _is_covered(path, covered):
            continue
        kind = _kind_of(mount, path, images.get if mount["type"] == "image" else is_directory)
        if kind is None or path == "/":
            return None
        found.append(Mountpoint(path=path, kind=kind))
        covered.add(path)
    cwd = plan.spec["process"]["cwd"]
    if ".." in cwd.split("/"):  # it may lead out of a mount again
        return None
    if clean(cwd) != "/" and not _is_covered(clean(cwd), covered):
        found.append(Mountpoint(path=cwd, kind="plain"))
    return found


def key_of(layers: Sequence[str], mountpoints: list[Mountpoint]) -> str:
    """The name of the layer: the chain id of the image's topmost layer, a point, and a digest of the mountpoints."""
    listed = json.dumps([_MADE_BY, *((each["kind"], each["path"]) for each in mountpoints)])
    return f"{layers[-1]}.{hashlib.sha256(listed.encode()).hexdigest()}"


def chain_of(key: str) -> str:
    return key.partition(".")[0]


def _is_covered(path: str, covered: set[str]) -> bool:
    """Whether the cleaned ``path`` or one above it is among them."""
    while path != "/":
        if path in covered:
            return True
        path = path.rpartition("/")[0] or "/"
    return "/" in covered


def _kind_of(mount: Mount, path: str, is_directory: Callable[[str], bool | None]) -> str | None:
    """As ``runtime.rootfs.mounts.attach`` decides it. An image is asked for by where it goes, a bind by its source."""
    if mount["type"] in ("proc", "sysfs") or path == "/dev":
        return "exact"
    if mount["type"] not in ("bind", "image"):
        return "directory"
    known = is_directory(path if mount["type"] == "image" else mount["source"])
    return None if known is None else "directory" if known else "file"
