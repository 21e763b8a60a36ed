"""The stages of what happens to images, each with failpoints around it.

``pull``, ``archive``, ``store``, ``layers`` and ``trash`` go through them. They are no steps
of the executor (``runtime.steps``): what a stage leaves behind is named by its content or
``.tmp-*``, so the disk itself tells what is whole (``layers``), and no journal has to.

Invariant: ``points`` lists all that an operation passes.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Mapping

from runtime.steps import FailpointHook

PULL, IMPORT, REMOVE, DELETE = "PullImage", "ImportImage", "RemoveImage", "delete in the background"

FETCH_MANIFEST, FETCH_CONFIG = "fetch_manifest", "fetch_config"
UNPACK_ARCHIVE, READ_ARCHIVE = "unpack_archive", "read_archive"
UNPACK_LAYER, COMMIT_LAYER, LIST_IMAGE = "unpack_layer", "commit_layer", "list_image"
UNLIST_IMAGE, DISCARD_LAYER, DELETE_TREE = "unlist_image", "discard_layer", "delete_tree"

STAGES: Mapping[str, tuple[str, ...]] = {
    PULL: (FETCH_MANIFEST, FETCH_CONFIG, UNPACK_LAYER, COMMIT_LAYER, LIST_IMAGE),
    IMPORT: (UNPACK_ARCHIVE, READ_ARCHIVE, UNPACK_LAYER, COMMIT_LAYER, LIST_IMAGE),
    REMOVE: (UNLIST_IMAGE, DISCARD_LAYER),
    DELETE: (DELETE_TREE,),
}
"""What each operation goes through; layers by their number, several of a pull's at once."""

HALVED = frozenset({UNPACK_ARCHIVE, UNPACK_LAYER, COMMIT_LAYER})
"""Stages that can be met half done: a part of the bytes unpacked; all written and nothing visible."""


def points(operation: str) -> tuple[str, ...]:
    """The failpoints that ``operation`` passes, in the order of its stages."""
    return tuple(
        point_of(stage, place)
        for stage in STAGES[operation]
        for place in (("before", "mid", "after") if stage in HALVED else ("before", "after"))
    )


def point_of(stage: str, place: str) -> str:
    return f"images/{stage}:{place}"


class NoFailpoints:
    """For a store that has none."""

    async def hit(self, point: str) -> None:
        del point


class Stages:
    """Passes the failpoints."""

    def __init__(self, failpoints: FailpointHook | None = None) -> None:
        self._failpoints = failpoints or NoFailpoints()

    @contextlib.asynccontextmanager
    async def stage(self, name: str) -> AsyncIterator[None]:
        """Around the stage ``name``; the second point is not passed by one that fails."""
        await self._failpoints.hit(point_of(name, "before"))
        yield
        await self._failpoints.hit(point_of(name, "after"))

    async def halfway(self, name: str) -> None:
        """Within a stage of ``HALVED``."""
        await self._failpoints.hit(point_of(name, "mid"))
