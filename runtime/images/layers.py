"""Layers on disk: each unpacked once, complete or not there.

``layers/<chain id>/fs`` is the tree that overlayfs stacks, ``layer.json`` beside it
what is known of it. A layer is made in ``.tmp-*`` and renamed into place when both
its digests matched and all of it is on disk. ``store`` decides which ones stay.

Invariant: a directory named by a chain id holds a whole, verified, synced layer, and
so do all the layers below it.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import os
import re
import secrets
import weakref
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from runtime.errors import FailedPrecondition, Fault, HostFault, ResourceExhausted
from runtime.images.adopt import adopt_directories
from runtime.images.model import WorkerRunner
from runtime.images.reference import is_digest
from runtime.images.sink import PipeSink, open_pipe
from runtime.images.stages import COMMIT_LAYER, DISCARD_LAYER, UNPACK_ARCHIVE, UNPACK_LAYER, Stages
from runtime.images.strictjson import parse_object
from runtime.images.threads import finish
from runtime.images.trash import Trash

UNPACK_ENTRY = "runtime.images.worker:unpack"
MAX_LAYER_BYTES = 256 << 30
MAX_LAYER_ENTRIES = 4_000_000
SPARE_SHARE = 20  # one part in so many of the free disk stays free
TREE = "fs"
_INFO = "layer.json"
_TEMPORARY = ".tmp-"
_TRASH = ".trash"
_CHAIN_ID = re.compile(r"[0-9a-f]{64}", re.ASCII)

Feed = Callable[[PipeSink], Awaitable[None]]
"""Writes the layer as it is stored, and raises if that is not what was asked for."""


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer on disk: ``size`` bytes in whole blocks, ``entries`` inodes, ``diff_id`` ``sha256:<hex>``."""

    diff_id: str
    size: int
    entries: int


class LayerStore:
    """The layers below ``directory``. ``codec_path`` is the site-packages of the codecs."""

    def __init__(
        self, directory: str, runner: WorkerRunner, trash: Trash, codec_path: str, stages: Stages | None = None
    ) -> None:
        self._directory = directory
        self._runner = runner
        self._trash = trash
        self._codec_path = codec_path
        self._stages = stages or Stages()
        self._layers: dict[str, Layer] = {}
        self._making: set[str] = set()
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self.unpacked = 0  # layers, since start
        self.unpacked_bytes = 0  # of their uncompressed streams

    @property
    def known(self) -> dict[str, Layer]:
        """The layers that are there, by chain id. Not to be changed."""
        return self._layers

    @staticmethod
    def trash_path(directory: str) -> str:
        """Where the trash of the layers in ``directory`` must be: on the same file system."""
        return os.path.join(directory, _TRASH)

    def tree(self, chain_id: str) -> str:
        """The directory to stack for ``chain_id``."""
        return os.path.join(self._directory, chain_id, TREE)

    async def open(self) -> None:
        """Read what is on disk; what is not a whole layer goes to the trash."""
        self._layers = await asyncio.to_thread(self._scan)
        await self._trash.open()

    async def ensure(
        self, chain: Sequence[str], diff_id: str, feed: Feed, below: Awaitable[object] | None = None
    ) -> Layer:
        """The layer ``chain[-1]``, made from what ``feed`` writes if it is not there yet.

        ``chain`` are the chain ids from the bottom up to this layer. Two calls for one layer
        unpack it once. ``below`` is awaited before the layer becomes visible: the layers under
        it must be there by then.

        Raises:
            FailedPrecondition: the content is damaged or is not ``diff_id``.
            ResourceExhausted: too large for the budget or the disk.
        """
        chain_id = chain[-1]
        lock = self._locks.setdefault(chain_id, asyncio.Lock())
        async with lock:
            if (found := self._layers.get(chain_id)) is not None:
                return found
            with self._temporary(chain_id) as temporary:
                result = await self._unpack(temporary, feed, UNPACK_LAYER)
                if result["diff_id"] != diff_id:
                    reason = f"the content is {result['diff_id']}"
                    raise FailedPrecondition(reason, step="verify layer", object=diff_id)
                if below is not None:
                    await below
                trees = [self.tree(lower) for lower in reversed(chain[:-1])]
                layer = Layer(diff_id, int(result["disk_bytes"]), int(result["entries"]))
                await self._commit(temporary, chain_id, layer, trees, result["implied"])
            self.unpacked += 1
            self.unpacked_bytes += int(result["stream_bytes"])
            return layer

    async def discard(self, chain_ids: Sequence[str]) -> None:
        """Throw these layers away: they are gone when this returns, deleted later."""
        for chain_id in chain_ids:
            async with self._stages.stage(DISCARD_LAYER):
                layer = self._layers.pop(chain_id, None)
                try:
                    await self._trash.throw(os.path.join(self._directory, chain_id))
                except OSError:
                    if layer is not None:
                        self._layers[chain_id] = layer
                    raise

    def strays(self) -> list[str]:
        """The paths in the directory that are neither a layer nor about to be one. Blocking."""
        known = {_TRASH, *self._layers, *self._making}
        return [os.path.join(self._directory, name) for name in os.listdir(self._directory) if name not in known]

    async def throw_stray(self, path: str) -> None:
        """Throw away one of ``strays``."""
        await self._trash.throw(path)

    @contextlib.asynccontextmanager
    async def spool(self, feed: Feed) -> AsyncIterator[str]:
        """A directory with the unpacked tar (of any kind, compressed or not) that ``feed``
        writes; thrown away at the end.

        Raises:
            FailedPrecondition, ResourceExhausted: as :meth:`ensure`.
        """
        with self._temporary() as temporary:
            await self._unpack(temporary, feed, UNPACK_ARCHIVE)
            yield os.path.join(temporary, TREE)

    @contextlib.contextmanager
    def _temporary(self, becomes: str = "") -> Iterator[str]:
        """A name for a directory that ``becomes`` a layer; if not, it is thrown away in the end."""
        name = _TEMPORARY + secrets.token_hex(16)
        path = os.path.join(self._directory, name)
        names = {name, becomes} - {""}
        self._making |= names
        try:
            yield path
        finally:
            self._trash.throw_now(path)
            self._making -= names

    async def _unpack(self, temporary: str, feed: Feed, stage: str) -> dict[str, Any]:
        async with self._stages.stage(stage):
            budget = await finish(self._prepare, temporary)
            return await self._run_worker(temporary, feed, budget, functools.partial(self._stages.halfway, stage))

    async def _run_worker(
        self, temporary: str, feed: Feed, budget: dict[str, Any], begun: Callable[[], Awaitable[None]]
    ) -> dict[str, Any]:
        directory = os.open(os.path.join(temporary, TREE), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            with open_pipe(begun) as (reader, sink):
                async with asyncio.TaskGroup() as group:
                    worker = group.create_task(
                        self._runner.run_worker(UNPACK_ENTRY, budget, [directory, reader]), name="unpack layer"
                    )
                    await feed(sink)
                    sink.close()
        except BaseExceptionGroup as failures:
            raise first_failure(failures) from None
        finally:
            os.close(directory)
        return worker.result()

    def _prepare(self, temporary: str) -> dict[str, Any]:
        os.makedirs(os.path.join(temporary, TREE), 0o755)
        os.chmod(os.path.join(temporary, TREE), 0o755)
        os.chmod(temporary, 0o700)
        disk = os.statvfs(self._directory)
        free = disk.f_bavail * disk.f_frsize * (SPARE_SHARE - 1) // SPARE_SHARE
        if free <= 0:
            raise ResourceExhausted("the disk is full", step="unpack layer", object=self._directory)
        allowed = min(free, MAX_LAYER_BYTES)
        return {
            "codec_path": self._codec_path,
            "disk_bytes": allowed,
            "stream_bytes": MAX_LAYER_BYTES,
            "entries": MAX_LAYER_ENTRIES,
        }

    async def _commit(
        self, temporary: str, chain_id: str, layer: Layer, below: Sequence[str], implied: Sequence[str]
    ) -> None:
        """Let the layer be there; also if whoever wants it leaves while it appears."""

        def known(_: None) -> None:
            self._layers[chain_id] = layer

        async with self._stages.stage(COMMIT_LAYER):
            try:
                await finish(_seal, temporary, layer, below, implied)
                await self._stages.halfway(COMMIT_LAYER)
                await finish(self._publish, temporary, chain_id, then=known)
            except OSError as error:
                if isinstance(error, Fault):
                    raise
                raise HostFault(step="commit layer", object=chain_id, errno=error.errno or 0) from error

    def _publish(self, temporary: str, chain_id: str) -> None:
        path = os.path.join(self._directory, chain_id)
        self._trash.rename(path)  # whatever it is, it is no layer that we know
        os.rename(temporary, path)
        try:
            _sync_directory(self._directory)
        except OSError:
            self._trash.rename(path)
            raise

    def _scan(self) -> dict[str, Layer]:
        os.makedirs(self._directory, 0o700, exist_ok=True)
        os.makedirs(self.trash_path(self._directory), 0o700, exist_ok=True)
        found = {}
        for name in os.listdir(self._directory):
            path = os.path.join(self._directory, name)
            layer = _read_layer(path) if _CHAIN_ID.fullmatch(name) else None
            if layer is not None:
                found[name] = layer
            elif name != _TRASH:
                self._trash.rename(path)
        return found


def _seal(temporary: str, layer: Layer, below: Sequence[str], implied: Sequence[str]) -> None:
    """Write what is still missing of a layer, and have all of it on disk."""
    adopt_directories(os.path.join(temporary, TREE), below, implied)
    _write_synced(os.path.join(temporary, _INFO), json.dumps(asdict(layer)).encode())
    _sync_directory(temporary)


def first_failure(failures: BaseExceptionGroup[BaseException]) -> BaseException:
    """The one that counts of what a task group reports: the first, whatever it is nested in."""
    found: BaseException = failures
    while isinstance(found, BaseExceptionGroup):
        found = found.exceptions[0]
    return found


def _read_layer(path: str) -> Layer | None:
    try:
        with open(os.path.join(path, _INFO), "rb") as file:
            document = parse_object(file.read(4096), _INFO)
        layer = Layer(**document)
    except (OSError, Fault, TypeError):
        return None
    whole = type(layer.size) is int and type(layer.entries) is int and isinstance(layer.diff_id, str)
    return layer if whole and is_digest(layer.diff_id) and os.path.isdir(os.path.join(path, TREE)) else None


def _write_synced(path: str, data: bytes) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(fd)


def _sync_directory(path: str) -> None:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
