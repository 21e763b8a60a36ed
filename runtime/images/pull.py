"""Pulling an image: manifest, config, layers, in that order, each verified.

``registry`` fetches, ``store.layers`` unpacks while the bytes arrive, ``store`` lists
the image when all of it is there.

Invariant: an image is added only after its manifest, its config and both digests of
each layer (compressed and not) were verified.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.errors import FailedPrecondition, NotFound
from runtime.images.config import ImageConfig, chain_ids, parse_config
from runtime.images.layers import Feed, first_failure
from runtime.images.manifest import Descriptor, Index, Manifest, parse_manifest
from runtime.images.model import Image
from runtime.images.platforms import Platform, choose, host_platform, rank
from runtime.images.reference import Reference, parse
from runtime.images.registry import FetchedManifest, Registry
from runtime.images.sink import PipeSink
from runtime.images.stages import FETCH_CONFIG, FETCH_MANIFEST
from runtime.images.store import ImageStore

MAX_INDEX_DEPTH = 2
PARALLEL = 3


@dataclass(slots=True)
class Progress:
    """How far a pull is. ``layers`` maps a blob's digest to bytes received, of how many, and its
    state: waiting, fetching, done, present."""

    reference: str
    began: float = field(default_factory=time.monotonic)
    stage: str = "manifest"
    layers: dict[str, tuple[int, int, str]] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        """For verbose status, as JSON."""
        layers = [
            {"digest": digest, "received": received, "size": size, "state": state}
            for digest, (received, size, state) in self.layers.items()
        ]
        seconds = round(time.monotonic() - self.began, 3)
        return {"reference": self.reference, "stage": self.stage, "seconds": seconds, "layers": layers}


class Puller:
    """Pulls into ``store``. ``pulls``, ``failures`` and ``registry.bytes_received`` count since start;
    ``running`` are the pulls in progress."""

    def __init__(self, store: ImageStore, registry: Registry, platform: Platform | None = None) -> None:
        self.pulls = 0
        self.failures = 0
        self.running: list[Progress] = []
        self.registry = registry
        self._store = store
        self._platform = platform or host_platform()

    async def pull(self, reference: str) -> Image:
        """Pull ``reference``, anonymously, and list it under that name.

        Layers that are already there are not fetched again. Cancelling leaves nothing behind.

        Raises:
            InvalidArgument: no valid reference.
            NotFound: no such image, or none for this platform.
            RegistryUnavailable: no host could be asked.
            FailedPrecondition: content that is not what its digest says, or not acceptable.
            ResourceExhausted: too large.
        """
        parsed = parse(reference)
        progress = Progress(str(parsed))
        self.running.append(progress)
        try:
            image = await self._pull(parsed, progress)
        except BaseException:
            self.failures += 1
            raise
        finally:
            self.running.remove(progress)
        self.pulls += 1
        return image

    async def _pull(self, reference: Reference, progress: Progress) -> Image:
        top = await self._fetch_manifest(reference)
        manifest = await self._resolve(reference, top)
        progress.stage = "config"
        async with self._store.stages.stage(FETCH_CONFIG):
            content = await self.registry.fetch_bytes(reference, manifest.config)
        config = parse_config(content, str(reference))
        check_config(config, manifest, self._platform, str(reference))
        progress.stage = "layers"
        chain = chain_ids(config.diff_ids)
        with self._store.hold(chain):
            await self._fetch_layers(reference, manifest, config, chain, progress)
            progress.stage = "commit"
            return await self._store.add(
                Image(
                    id=manifest.config.digest,
                    config=content,
                    layers=chain,
                    size=sum(self._store.layers.known[chain_id].size for chain_id in chain),
                    repo_tags=(str(reference),) if reference.tag else (),
                    repo_digests=(str(reference.with_digest(top.digest)),),
                    created_at=time.time_ns(),
                )
            )

    async def _fetch_manifest(self, reference: Reference) -> FetchedManifest:
        async with self._store.stages.stage(FETCH_MANIFEST):
            return await self.registry.fetch_manifest(reference)

    async def _resolve(self, reference: Reference, fetched: FetchedManifest) -> Manifest:
        """The manifest for this platform, through at most two levels of indexes."""
        what, media_type = str(reference), fetched.media_type
        for _ in range(MAX_INDEX_DEPTH + 1):
            document = parse_manifest(fetched.content, what, media_type)
            if isinstance(document, Manifest):
                return document
            chosen = choose_manifest(document, self._platform, what)
            reference = reference.with_digest(chosen.digest)
            fetched = await self._fetch_manifest(reference)
            if len(fetched.content) != chosen.size:
                raise FailedPrecondition(
                    f"it has {len(fetched.content)} bytes, the index says {chosen.size}",
                    step="verify manifest",
                    object=chosen.digest,
                )
            what, media_type = str(reference), chosen.media_type
        raise FailedPrecondition("indexes are nested too deep", step="read manifest", object=what)

    async def _fetch_layers(
        self, reference: Reference, manifest: Manifest, config: ImageConfig, chain: Sequence[str], progress: Progress
    ) -> None:
        """All layers, ``PARALLEL`` at once; each becomes visible after the one below it."""
        slots = asyncio.Semaphore(PARALLEL)  # first come, first served: the lower layers begin first
        try:
            async with asyncio.TaskGroup() as group:
                below: asyncio.Task[None] | None = None
                for position, blob in enumerate(manifest.layers):
                    progress.layers[blob.digest] = (0, blob.size, "waiting")
                    layer = self._fetch_layer(
                        slots, reference, blob, chain[: position + 1], config.diff_ids[position], below, progress
                    )
                    below = group.create_task(layer, name=f"fetch {blob.digest}")
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from None

    async def _fetch_layer(
        self,
        slots: asyncio.Semaphore,
        reference: Reference,
        blob: Descriptor,
        chain: Sequence[str],
        diff_id: str,
        below: asyncio.Task[None] | None,
        progress: Progress,
    ) -> None:
        if chain[-1] not in self._store.layers.known:
            async with slots:
                await self._store.layers.ensure(chain, diff_id, self._feed(reference, blob, progress), below)
        if below is not None:
            await below
        received, size, state = progress.layers[blob.digest]
        progress.layers[blob.digest] = (received, size, "present" if state == "waiting" else "done")

    def _feed(self, reference: Reference, blob: Descriptor, progress: Progress) -> Feed:
        async def feed(sink: PipeSink) -> None:
            received = 0

            async def write(chunk: bytes) -> None:
                nonlocal received
                await sink.write(chunk)
                received += len(chunk)
                progress.layers[blob.digest] = (received, blob.size, "fetching")

            await self.registry.fetch_blob(reference, blob, write)

        return feed


def choose_manifest(index: Index, platform: Platform, what: str) -> Descriptor:
    """The entry of ``index`` for ``platform``.

    Raises:
        NotFound: there is none.
    """
    return index.manifests[choose([entry.platform for entry in index.manifests], platform, what)]


def check_config(config: ImageConfig, manifest: Manifest, platform: Platform, what: str) -> None:
    """Raises FailedPrecondition unless config and manifest agree on the layers, NotFound if the
    image says that it is for another platform."""
    if len(config.diff_ids) != len(manifest.layers):
        reason = f"the manifest has {len(manifest.layers)} layers, the config {len(config.diff_ids)}"
        raise FailedPrecondition(reason, step="read image config", object=what)
    check_platform(config, platform, what)


def check_platform(config: ImageConfig, platform: Platform, what: str) -> None:
    """Raises NotFound if the image says that it is for another platform."""
    named = config.platform.os and config.platform.architecture
    if named and rank(config.platform, platform) is None:
        raise NotFound(f"the image is for {config.platform}, not for {platform}", step="choose platform", object=what)
