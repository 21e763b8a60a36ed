"""Layers that have the mountpoints of containers, so that no init has to make them again.

``<root>/mountpoints/<boot id>/<key>`` is such a layer (``cri.plan.mountpoints``). A container
that was created without one has it made in the background, by the monitor of its pod or, if that
has gone by then, of another; the next one with that key stacks it over the image's layers, and
says so in its record.

Invariant: it saves time and nothing else. A layer holds what an init would have made, made from
the image alone; where there is none, or a mountpoint is missing in it, init makes it as ever. A
directory named by a key is whole. It is removed when its image is gone, or others need its
place, but never while a record names it or a container that stacks it is being created.

An overlay of this kind is never synced, so a layer is believed in the boot that made it only.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import secrets
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from cri.plan.container import ContainerPlan
from cri.plan.mountpoints import MOST_LAYERS, chain_of, key_of, plan_mountpoints
from cri.steps.files import make_directory, remove_tree
from runtime.errors import Fault, NotSupported, Unavailable
from runtime.linux.files import is_known_directory
from runtime.requests import Mountpoint, Rootfs
from runtime.rootfs.made import check_layer
from runtime.rootfs.overlay import take_over_attributes

if TYPE_CHECKING:
    from cri.host import Host
    from cri.state.records import ImageRecord

LOG = logging.getLogger("crisp.mountpoints")

DELAY = 0.2
"""Seconds after the creation of a container until its layer is made: not beside its start."""

KEPT = 64
"""Layers, of some tens of inodes each."""

FAILURES = 1024
"""Keys that are not tried again."""

MAKE = "mountpoints/make"
"""The failpoints: ``:before``, and ``:mid`` when the layer is whole and has no name yet."""


class Mountpoints:
    """Of one daemon; empty until ``open``."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._parent = f"{host.root}/mountpoints"
        self._directory = f"{self._parent}/{host.boot_id}"
        self._kept: dict[str, None] = {}
        """By key, the one that was used last at the end."""
        self._held: Counter[str] = Counter()
        self._wanted: set[str] = set()
        self._failed: dict[str, None] = {}
        self._making = asyncio.Lock()
        self._temporary = ""
        """The name of the directory in which one is being made."""

    async def open(self) -> None:
        """Find the layers of this boot; what else is there goes."""
        for folder in (self._parent, self._directory):
            os.makedirs(folder, 0o700, exist_ok=True)
        for folder, keep in ((self._parent, (self._host.boot_id,)), (self._directory, ())):
            for name in os.listdir(folder):
                if name not in keep and (folder == self._parent or name.startswith(".")):
                    await self._host.trash.throw(f"{folder}/{name}")
        found = sorted(os.scandir(self._directory), key=lambda entry: entry.stat().st_ctime_ns)
        self._kept = {entry.name: None for entry in found}
        self.collect()

    def __len__(self) -> int:
        return len(self._kept)

    def lowerdirs(self, key: str) -> list[str]:
        """The directories to stack over the image's: none where the layer is gone, or ``key`` is empty."""
        path = f"{self._directory}/{key}"
        if key and os.path.isdir(path):
            return [path]
        self._kept.pop(key, None)
        return []

    @contextlib.contextmanager
    def used(self, plan: ContainerPlan, image: ImageRecord) -> Iterator[str]:
        """The key of the layer that the container which is being created stacks, empty for none; it stays
        meanwhile. After a creation without the layer that it could have, that is made."""
        mountpoints = None
        if 0 < len(image.layers) <= MOST_LAYERS:
            mountpoints = plan_mountpoints(plan, is_known_directory)
        if not mountpoints:
            yield ""
            return
        key = key_of(image.layers, mountpoints)
        if self.lowerdirs(key):
            self._kept.pop(key, None)
            self._kept[key] = None
            with self._hold(key):
                yield key
            return
        yield ""
        if key not in self._wanted and key not in self._failed:
            self._wanted.add(key)
            made = self._make_later(plan.sandbox_id, image, key, mountpoints)
            self._host.tasks.spawn("make mountpoints", made)

    @contextlib.contextmanager
    def _hold(self, key: str) -> Iterator[None]:
        self._held[key] += 1
        try:
            yield
        finally:
            self._held[key] -= 1
            if not self._held[key]:
                del self._held[key]

    def collect(self) -> None:
        """Throw away what has neither an image nor a container any more."""
        for key in self._unneeded(self._kept):
            self._discard(key)

    def _unneeded(self, keys: Iterable[str]) -> list[str]:
        images = {image.layers[-1] for image in self._host.images.all() if image.layers}
        in_use = self._in_use()
        return [key for key in keys if chain_of(key) not in images and key not in in_use]

    def strays(self) -> list[str]:
        """Paths of what is no layer of this boot that has an image or a container, and is not being made.
        Asks the disk, so it is the same before ``open``."""
        others = [f"{self._parent}/{name}" for name in entries(self._parent) if name != self._host.boot_id]
        here = [name for name in entries(self._directory) if name != self._temporary]
        return others + [f"{self._directory}/{name}" for name in self._unneeded(here)]

    async def throw_stray(self, path: str) -> None:
        """If it still is one."""
        if path in self.strays():
            self._kept.pop(os.path.basename(path), None)
            await self._host.trash.throw(path)

    def _in_use(self) -> set[str]:
        return {record.mountpoints for record in self._host.store.containers.values()} | self._held.keys()

    def _discard(self, key: str) -> None:
        del self._kept[key]
        self._host.trash.throw_now(f"{self._directory}/{key}")

    def _has_room(self) -> bool:
        """For one more; what was used longest ago goes."""
        in_use = self._in_use()
        for key in list(self._kept):
            if len(self._kept) < KEPT:
                break
            if key not in in_use:
                self._discard(key)
        return len(self._kept) < KEPT

    async def _make_later(self, sandbox: str, image: ImageRecord, key: str, mountpoints: Sequence[Mountpoint]) -> None:
        try:
            await asyncio.sleep(DELAY)
            async with self._making:
                listed = any(image.layers == each.layers for each in self._host.images.all())
                pod = self._find_pod(sandbox)
                if listed and pod is not None and self._has_room():
                    with self._host.images.hold(image):
                        await self._make(pod, image, key, mountpoints)
        except (NotSupported, Unavailable) as error:  # of this pod; another one may
            LOG.debug("no layer of mountpoints: %s", error, extra={"sandbox_id": sandbox})
        except (Fault, OSError) as error:
            if len(self._failed) >= FAILURES:
                del self._failed[next(iter(self._failed))]
            self._failed[key] = None
            LOG.info("no layer of mountpoints: %s", error, extra={"sandbox_id": sandbox})
        finally:
            self._wanted.discard(key)

    def _find_pod(self, preferred: str) -> str | None:
        """One whose monitor can do it."""
        pods = self._host.pods
        return next((id for id in (preferred, *pods) if id in pods and not pods[id].stopping), None)

    async def _make(self, pod: str, image: ImageRecord, key: str, mountpoints: Sequence[Mountpoint]) -> None:
        host, self._temporary = self._host, f".{secrets.token_hex(8)}"
        temporary = f"{self._directory}/{self._temporary}"
        lowerdirs = host.images.lowerdirs(image.layers)
        rootfs = Rootfs(
            lowerdirs=lowerdirs,
            upperdir=f"{temporary}/upper",
            workdir=f"{temporary}/work",
            staging=f"{host.pod_directory(pod)}/rootfs",
        )
        os.mkdir(temporary, 0o700)
        try:
            for folder in (rootfs["upperdir"], rootfs["workdir"]):
                make_directory(folder)
            take_over_attributes(lowerdirs[0], rootfs["upperdir"])
            await host.failpoints.hit(f"{MAKE}:before")
            await host.pods[pod].monitor.make_mountpoints(rootfs, mountpoints)
            await asyncio.to_thread(check_layer, rootfs["upperdir"])
            await host.failpoints.hit(f"{MAKE}:mid")
            os.rename(rootfs["upperdir"], f"{self._directory}/{key}")
            self._kept[key] = None
            self.collect()  # its image may have gone meanwhile
        finally:
            with contextlib.suppress(OSError):  # a stray now, which the next start throws away
                await asyncio.to_thread(remove_tree, temporary)
            self._temporary = ""


def entries(folder: str) -> list[str]:
    """The names in it, none if it is not there."""
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
