"""The step that gives volumes the SELinux context of their container, where the request asks for it.

Invariant: it comes before anything of the container opens the volumes.
"""

from __future__ import annotations

import asyncio
import os

import msgspec

from cri.host import Host
from runtime.lsm.relabel import relabel


class RelabelVolumes(msgspec.Struct, frozen=True, tag="relabel_volumes"):
    """``paths`` of the host get the context ``label``; one that is missing is made as the start would make it."""

    container: str
    paths: tuple[str, ...]
    label: str
    name = "relabel_volumes"

    def describe(self) -> str:
        return f"give {', '.join(self.paths)} the SELinux context {self.label}"

    async def apply(self, host: Host) -> None:
        for path in self.paths:
            await asyncio.to_thread(make_and_relabel, path, self.label)

    async def undo(self, host: Host) -> None:
        """Nothing: the volume is the pod's, and nobody knows what its files were labelled before."""


def make_and_relabel(path: str, label: str) -> None:
    """Raises: as ``relabel``."""
    if not os.path.lexists(path):
        os.makedirs(path, 0o755, exist_ok=True)
    relabel(path, label)
