"""Stand-ins for the parts around the image store."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import os
import shutil
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from runtime.errors import Fault, HostFault
from runtime.images.model import Image


class MemoryRecords:
    """A ``Records`` without a disk. ``transactions`` are the calls of ``save_images``.

    With a ``gate`` one is ``reached`` and then carried out once that is set, whether or not its caller waits.
    """

    def __init__(self, images: Sequence[Image] = ()) -> None:
        self.images = {image.id: image for image in images}
        self.transactions: list[tuple[list[str], list[str]]] = []
        self.gate: asyncio.Event | None = None
        self.reached = asyncio.Event()
        self._background = Background()

    async def load_images(self) -> Sequence[Image]:
        return list(self.images.values())

    async def save_images(self, put: Sequence[Image], remove: Sequence[str], then: Callable[[], None]) -> None:
        self.transactions.append(([image.id for image in put], list(remove)))

        async def write() -> None:
            if self.gate is not None:
                self.reached.set()
                await self.gate.wait()
                self.reached.clear()
            for image in put:
                self.images[image.id] = image
            for image_id in remove:
                del self.images[image_id]
            then()

        await asyncio.shield(self._background("write", write()))

    async def settle(self) -> None:
        await self._background.settle()


class PlainRunner:
    """A ``WorkerRunner`` in this process: an unpacked layer is one file, ``content``.

    ``fault`` is raised instead of deleting, ``on_unpack`` called before a layer is read.
    """

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.args: list[dict[str, Any]] = []
        self.fault: Fault | None = None
        self.implied: list[str] = []
        self.on_unpack: Callable[[], None] = lambda: None

    async def run_worker(self, entry: str, args: dict[str, Any], fds: Sequence[int]) -> dict[str, Any]:
        self.calls.append(entry.rpartition(":")[2])
        self.args.append(args)
        path = os.readlink(f"/proc/self/fd/{fds[0]}")
        if entry.endswith(":delete_tree"):
            if self.fault is not None:
                raise self.fault
            await asyncio.to_thread(_delete, os.path.join(path, args["name"]))
            return {"entries": 1}
        self.on_unpack()
        data = await asyncio.to_thread(_read_all, os.dup(fds[1]))
        if data.startswith(b"bad"):
            raise HostFault("refused", step="unpack")
        with open(os.path.join(path, "content"), "wb") as file:
            file.write(data)
        return {
            "diff_id": diff_id(data),
            "stream_bytes": len(data),
            "disk_bytes": 4096,
            "entries": 2,
            "implied": self.implied,
            "dropped_xattrs": 0,
        }


class Background:
    """A ``Spawn`` whose tasks can be waited for."""

    def __init__(self) -> None:
        self._tasks: list[asyncio.Task[None]] = []

    def __call__(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.append(task)
        return task

    async def settle(self) -> None:
        while self._tasks:
            await self._tasks.pop()


def diff_id(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _delete(path: str) -> None:
    """Also beside another that does the same: a store that was opened again empties the trash of the last."""
    if os.path.isdir(path):
        shutil.rmtree(path, ignore_errors=True)
    else:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)


def _read_all(fd: int) -> bytes:
    with os.fdopen(fd, "rb") as file:
        return file.read()
