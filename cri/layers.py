"""How much each container has written: measured in the background, never in a request.

``cri.sweep`` asks; ``cri.aged`` keeps the readings and says how old they get.

Invariant: a walk never leaves the writable layer.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from cri.aged import Aged
from cri.tasks import Tasks


@dataclass(frozen=True, slots=True)
class LayerUsage:
    """``used_bytes`` on disk and ``inodes`` of a writable layer at ``time`` (ns since the epoch)."""

    time: int
    used_bytes: int = 0
    inodes: int = 0


class Layers:
    """``directory`` gives a container's place below root."""

    def __init__(self, directory: Callable[[str], Path], tasks: Tasks) -> None:
        self._readings = Aged(lambda id: measure(os.fspath(directory(id) / "upper")), tasks)

    def usage(self, id: str) -> LayerUsage:
        """The newest reading, zero before there is one; asks for a newer if it is old."""
        return self._readings.get(id) or LayerUsage(time.time_ns())

    async def first(self, ids: Iterable[str], patience: float) -> None:
        """As ``Aged.first``."""
        await self._readings.first(ids, patience)

    def forget(self, id: str) -> None:
        self._readings.forget(id)


def measure(directory: str) -> LayerUsage:
    """Blocks and inodes of a tree, its top too; what disappears while it is walked does not count."""
    used, inodes = 0, 0
    pending = [directory]
    with contextlib.suppress(FileNotFoundError):
        used, inodes = os.lstat(directory).st_blocks * 512, 1
    while pending:
        try:
            with os.scandir(pending.pop()) as entries:
                for entry in entries:
                    info = entry.stat(follow_symlinks=False)
                    used, inodes = used + info.st_blocks * 512, inodes + 1
                    if entry.is_dir(follow_symlinks=False):
                        pending.append(entry.path)
        except FileNotFoundError:
            continue
    return LayerUsage(time.time_ns(), used, inodes)
