"""The image store: which images exist, which layers stay on disk for them.

``pull`` and ``archive`` add images, the image service lists and removes them,
containers stack their layers. Records go through ``model.Records`` into the
database, layers through ``layers`` onto the disk.

Invariant: an image is listed only while all its layers are on disk; a layer is
deleted only when no image, no container and no pull in progress has it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence

from runtime.images.index import ImageIndex
from runtime.images.layers import LayerStore
from runtime.images.model import Dropped, FilesystemUsage, Image, Records, Spawn, WorkerRunner
from runtime.images.stages import LIST_IMAGE, UNLIST_IMAGE, Stages
from runtime.images.trash import Trash
from runtime.steps import FailpointHook


class ImageStore:
    """Images below ``root``, made by :meth:`open`.

    ``layers_in_use`` tells the chain ids that containers stack.
    """

    def __init__(
        self, root: str, records: Records, layers: LayerStore, layers_in_use: Callable[[], set[str]], stages: Stages
    ) -> None:
        self.layers = layers
        self.stages = stages
        self._root = root
        self._records = records
        self._layers_in_use = layers_in_use
        self._index = ImageIndex()
        self._held: Counter[str] = Counter()
        self._changing = asyncio.Lock()

    @classmethod
    async def open(
        cls,
        root: str,
        records: Records,
        runner: WorkerRunner,
        *,
        spawn: Spawn,
        layers_in_use: Callable[[], set[str]],
        codec_path: str,
        failpoints: FailpointHook | None = None,
    ) -> tuple[ImageStore, list[Dropped]]:
        """Open the store below ``root``, which must exist, and recover it: left-overs are
        removed, records whose layers are missing are dropped and reported.

        ``codec_path`` is the site-packages directory of isal and zstd.
        """
        directory = os.path.join(root, "layers")
        stages = Stages(failpoints)
        trash = Trash(LayerStore.trash_path(directory), runner, spawn, stages=stages)
        layers = LayerStore(directory, runner, trash, codec_path, stages)
        store = cls(root, records, layers, layers_in_use, stages)
        return store, await store._recover()

    @property
    def root(self) -> str:
        return self._root

    def images(self) -> list[Image]:
        """Every image, oldest first."""
        return self._index.all()

    def resolve(self, text: str) -> Image | None:
        """The image that ``text`` means: reference, id, beginning of an id, or digest.

        Raises:
            InvalidArgument: it is no reference, or the beginning of several ids.
        """
        return self._index.resolve(text)

    def lowerdirs(self, image: Image) -> list[str]:
        """The directories to stack for ``image``, topmost first."""
        return [self.layers.tree(chain_id) for chain_id in reversed(image.layers)]

    async def add(self, image: Image) -> Image:
        """List ``image``, whose layers must be there. Its tags leave whichever image has them.

        An image with the same id keeps its other names. Returns the record as it is now.
        """
        async with self._changing, self.stages.stage(LIST_IMAGE):
            changed = self._index.plan_add(image)

            def listed() -> None:
                for each in reversed(changed):
                    self._index.put(each)

            await self._records.save_images(changed, [], listed)
            return changed[0]

    async def remove(self, text: str) -> Image | None:
        """Remove the image that ``text`` means, with all its names; None if there is none.

        Layers that something else needs stay. Those that nothing needs go in either case: a
        removal that failed is gone on with by asking again.

        Raises:
            InvalidArgument: as :meth:`resolve`.
        """
        async with self._changing:
            image = self._index.resolve(text)
            if image is not None:
                async with self.stages.stage(UNLIST_IMAGE):
                    drop = functools.partial(self._index.drop, image.id)
                    await self._records.save_images([], [image.id], drop)
            await self._collect()
            return image

    async def collect(self) -> list[str]:
        """Throw away the layers that nothing needs any more; their chain ids. Call it when a
        container is gone whose image may be gone too."""
        async with self._changing:
            return await self._collect()

    @contextlib.contextmanager
    def hold(self, chain_ids: Sequence[str]) -> Iterator[None]:
        """Keep layers that no record names yet: those of a pull, or of a container being created."""
        self._held.update(chain_ids)
        try:
            yield
        finally:
            self._held.subtract(chain_ids)
            self._held += Counter()  # drops what is at zero

    def usage(self) -> FilesystemUsage:
        """The disk that layers use, by what was counted when they were unpacked."""
        layers = self.layers.known.values()
        return FilesystemUsage(
            directory=self._root,
            used_bytes=sum(layer.size for layer in layers),
            inodes_used=sum(layer.entries for layer in layers),
        )

    async def _collect(self) -> list[str]:
        needed = self._layers_in_use() | self._held.keys()
        for image in self._index.all():
            needed.update(image.layers)
        surplus = [chain_id for chain_id in self.layers.known if chain_id not in needed]
        await self.layers.discard(surplus)
        return surplus

    async def _recover(self) -> list[Dropped]:
        await self.layers.open()
        dropped, kept = [], []
        for image in await self._records.load_images():
            missing = [chain_id for chain_id in image.layers if chain_id not in self.layers.known]
            if missing:
                reason = f"{len(missing)} of {len(image.layers)} layers are missing, the first is {missing[0]}"
                dropped.append(Dropped(image_id=image.id, reason=reason))
            else:
                kept.append(image)
        if dropped:
            await self._records.save_images([], [each.image_id for each in dropped], lambda: None)
        self._index = ImageIndex(kept)
        await self.collect()
        return dropped
