"""Images as volumes (``Mount.image``), planned: which layers of which image a mount shows.

``cri.image_volumes`` finds the images and asks them for the sub paths, ``cri.plan.mounts``
gives each its mount of type "image", ``cri.rpc.messages`` tells which image it was.
Source: KEP-4639, KEP-5365.

Invariant: what a container mounts was settled when it was created, and is by digest.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from cri.plan.paths import clean
from proto import api_pb2 as api


class ImageVolume(msgspec.Struct, frozen=True):
    """At ``destination``, which is clean, the image ``image_id`` whose ``layers`` are chain ids, bottom
    first; ``sub_path`` is the part of it that is mounted, empty for all, and ``directory`` whether that is one."""

    destination: str
    image_id: str
    layers: tuple[str, ...]
    sub_path: str = ""
    directory: bool = True


def plan_sub_path(path: str) -> str:
    """``image_sub_path``, which is relative and has no "..", without what means nothing; empty for the image's root."""
    return clean(f"/{path}").strip("/")


def tell_images(config: api.ContainerConfig, volumes: Iterable[ImageVolume]) -> None:
    """Fill in which images the mounts of ``config`` are of (``ImageSpec.image_ref``)."""
    ids = {volume.destination: volume.image_id for volume in volumes}
    for mount in config.mounts:
        if mount.HasField("image"):
            mount.image.image_ref = ids.get(clean(mount.container_path), "")
