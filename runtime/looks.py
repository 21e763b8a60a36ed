"""What the daemon asks of an image, which ``runtime.image`` finds out in a child of the monitor.

The documents of three of the monitor's operations, like those of ``runtime.requests``.

Invariant: everything in here is plain JSON.
"""

from __future__ import annotations

from typing import TypedDict

from runtime.requests import CgroupDirs, Rootfs, Volume


class ResolveUserRequest(TypedDict):
    """Numeric identity of ``user`` ("", "u", "u:g", "uid", "uid:gid") by the image's
    own passwd and group. ``groups`` are the request's supplementary groups;
    ``policy`` Merge adds those of the image's group file, Strict does not.
    ``gid`` overrides the primary group when given."""

    rootfs: Rootfs
    user: str
    gid: int | None
    groups: list[int]
    policy: str


class FindRequest(TypedDict):
    """What ``path`` is in the image whose layers ``rootfs`` has; links lead no further than its root."""

    rootfs: Rootfs
    path: str


class Found(TypedDict):
    directory: bool


class FillRequest(TypedDict):
    """The image's volumes to be filled, before their container starts and in its ``cgroup``."""

    rootfs: Rootfs
    volumes: list[Volume]
    cgroup: CgroupDirs
