"""What an image is to crisp, and the seams through which its parts are reached.

``store`` keeps :class:`Image` records, ``pull`` and ``archive`` make them, and the
CRI side stores and reads them. The unpacking side (``worker``, ``apply``, ``tar``)
does not import this module: it runs where only the standard library exists.

Invariant: an image is listed only when each of its layers is complete on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Sequence
from typing import Any, Protocol

import msgspec


class Image(msgspec.Struct, frozen=True, kw_only=True):
    """``id`` is ``sha256:<hex>`` of the image config. ``layers`` are chain ids (hex, no
    prefix), bottom first; ``size`` the bytes of the unpacked layers; ``config`` the image's OCI
    config JSON as it was; ``repo_tags``/``repo_digests`` full references."""

    id: str
    config: bytes
    layers: tuple[str, ...]
    size: int
    repo_tags: tuple[str, ...] = ()
    repo_digests: tuple[str, ...] = ()
    pinned: bool = False
    created_at: int = 0


class Records(Protocol):
    """The database of images. One call is one transaction."""

    async def load_images(self) -> Sequence[Image]: ...

    async def save_images(self, put: Sequence[Image], remove: Sequence[str], then: Callable[[], None]) -> None:
        """Insert or replace ``put`` by id and delete the ids in ``remove``, durably.

        ``then`` is called once they are stored, also when the caller was cancelled meanwhile: what
        is in memory never differs from what is stored.
        """
        ...


class WorkerRunner(Protocol):
    """Runs a jailed worker process; ``runtime.supervisor`` forks it from the zygote."""

    async def run_worker(self, entry: str, args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
        """What ``entry`` (``module:function``) returned for ``args`` and ``fds``.

        The descriptors stay the caller's. Cancelling ends the worker.

        Raises:
            Fault: what the worker reported.
            HostFault: it died without a report.
        """
        ...


Spawn = Callable[[str, Coroutine[Any, Any, None]], object]
"""Starts a named background task and keeps it from being lost."""


class FilesystemUsage(msgspec.Struct, frozen=True, kw_only=True):
    """Disk that images use: ``used_bytes``, ``inodes_used`` of all layers below ``directory``."""

    directory: str
    used_bytes: int
    inodes_used: int


class Dropped(msgspec.Struct, frozen=True, kw_only=True):
    """An image record that recovery removed, and why."""

    image_id: str
    reason: str
