"""The images of this node, as the RPCs see them.

Puts ``runtime.images`` (store, pull, archive) together with the records, the
workers and the containers that use layers; parsed configurations are kept.

Invariant: layers that a container stacks are never collected, whatever happened
to the image.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

from cri.failpoints import Failpoints
from cri.metrics import Metrics
from cri.settings import RegistrySettings
from cri.state.images import ImageTable
from cri.state.records import ContainerRecord, ImageRecord
from cri.state.store import Store
from cri.tasks import Tasks
from proto import api_pb2 as api
from runtime.errors import HostFault, InvalidArgument, NotFound
from runtime.images.archive import import_archive
from runtime.images.config import ImageConfig, parse_config
from runtime.images.model import FilesystemUsage, WorkerRunner
from runtime.images.pull import Puller
from runtime.images.registry import Registry
from runtime.images.store import ImageStore
from runtime.requests import Rootfs

LOG = logging.getLogger("crisp.images")


@dataclass(frozen=True, slots=True)
class Entry:
    """An image and its parsed configuration."""

    record: ImageRecord
    config: ImageConfig

    @property
    def id(self) -> str:
        return self.record.id


class Images:
    """Use ``await Images.open(...)``."""

    def __init__(self, store: ImageStore, settings: RegistrySettings, metrics: Metrics) -> None:
        self._store = store
        self._settings = settings
        self._metrics = metrics
        self._configs: dict[str, ImageConfig] = {}

    @classmethod
    async def open(
        cls,
        root: Path,
        settings: RegistrySettings,
        table: ImageTable,
        runner: WorkerRunner,
        store: Store,
        tasks: Tasks,
        metrics: Metrics,
        failpoints: Failpoints,
    ) -> Images:
        """Open and recover the image store below ``root``; containers of ``store`` keep their layers."""
        images, dropped = await ImageStore.open(
            str(root),
            table,
            runner,
            spawn=tasks.spawn,
            layers_in_use=lambda: layers_in_use(store.containers.values()),
            codec_path=codec_path(),
            failpoints=failpoints,
        )
        for each in dropped:
            LOG.warning("image %s was dropped: %s", each.image_id, each.reason)
        return cls(images, settings, metrics)

    def set_registry(self, settings: RegistrySettings) -> None:
        """For pulls that come."""
        self._settings = settings

    def all(self) -> list[ImageRecord]:
        """Every image, oldest first."""
        return self._store.images()

    def resolve(self, name: str) -> ImageRecord | None:
        """By reference, id, shortened id or digest; raises InvalidArgument for no reference."""
        return self._store.resolve(name)

    def require(self, spec: api.ImageSpec, field: str = "config.image") -> Entry:
        """The image that a container names in ``field``.

        Raises:
            InvalidArgument: none is named.
            NotFound: it was not pulled.
        """
        name = spec.image or spec.image_ref
        if not name:
            raise InvalidArgument("no image is named", object=field)
        found = self.resolve(name)
        if found is None:
            raise NotFound("is not on this node; pull it first", object=f"image {name}")
        return Entry(found, self.config(found))

    def config(self, record: ImageRecord) -> ImageConfig:
        known = self._configs.get(record.id)
        if known is None:
            known = self._configs[record.id] = parse_config(record.config, record.id)
        return known

    def hold(self, record: ImageRecord) -> AbstractContextManager[None]:
        """Keep the image's layers until a container that stacks them is recorded."""
        return self._store.hold(record.layers)

    def lowerdirs(self, layers: tuple[str, ...]) -> list[str]:
        """The directories to stack, topmost first; ``layers`` are chain ids, bottom first."""
        return [self._store.layers.tree(chain_id) for chain_id in reversed(layers)]

    def probe_rootfs(self, layers: tuple[str, ...], pod_directory: str) -> Rootfs:
        """The image alone, to look something up in it: nothing is ever written there."""
        return Rootfs(lowerdirs=self.lowerdirs(layers), upperdir="", workdir="", staging=f"{pod_directory}/rootfs")

    async def remove(self, name: str) -> ImageRecord | None:
        """The image that ``name`` meant, which is gone; None if there was none."""
        removed = await self._store.remove(name)
        if removed is not None:
            self._configs.pop(removed.id, None)
        return removed

    def strays(self) -> list[str]:
        """As ``LayerStore.strays``."""
        return self._store.layers.strays()

    async def throw_stray(self, path: str) -> None:
        await self._store.layers.throw_stray(path)

    async def collect(self) -> None:
        """A container is gone: layers of an image that was removed before may go as well."""
        await self._store.collect()

    async def pull(self, name: str) -> ImageRecord:
        """From its registry or a mirror; raises as ``runtime.images.pull.Puller.pull``."""
        received = 0
        try:
            async with Registry(self._settings.config_path) as registry:
                try:
                    image = await Puller(self._store, registry).pull(name)
                finally:
                    received = registry.bytes_received
        except BaseException:
            self._metrics.pulled(False, received)
            raise
        self._metrics.pulled(True, received)
        LOG.info("pulled %s: %s, %d bytes", name, image.id, received)
        return image

    async def import_archive(self, archive: int, reference: str) -> list[ImageRecord]:
        """The images of the archive that the descriptor reads; ``reference`` names one that
        has no name of its own.

        Raises:
            Fault: as ``import_archive`` of ``runtime.images``.
        """
        found = await import_archive(self._store, archive, name=reference)
        for image in found:
            LOG.info("imported %s: %s", ", ".join(image.repo_tags) or "an image without name", image.id)
        return found

    def usage(self) -> FilesystemUsage:
        return self._store.usage()


def layers_in_use(containers: Iterable[ContainerRecord]) -> set[str]:
    """The chain ids that ``containers`` stack or have as volumes."""
    return {layer for record in containers for layer in (*record.layers, *record.volume_layers)}


def codec_path() -> str:
    """The site-packages directory that has the codecs of layers."""
    spec = importlib.util.find_spec("isal")
    if spec is None or spec.origin is None:
        raise HostFault("isal is not installed", step="find the codecs")
    return str(Path(spec.origin).parent.parent)
