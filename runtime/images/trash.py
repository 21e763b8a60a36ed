"""Deleting trees without making anybody wait: renamed at once, removed later.

``layers`` throws layers away here. The removal is done by the ``delete_tree`` worker,
jailed and throttled: on some disks deleting slows down everything else.

Invariant: what was thrown away is gone under its name when ``throw`` returns, and
is deleted sooner or later: what a killed daemon left is deleted after its restart.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets

from runtime.errors import Fault
from runtime.images.model import Spawn, WorkerRunner
from runtime.images.stages import DELETE_TREE, Stages
from runtime.images.threads import finish

DELETE_ENTRY = "runtime.images.worker:delete_tree"
DUTY = 0.5  # share of time that a deletion may keep the disk busy
AGAIN_FIRST, AGAIN_AT_LEAST = 1.0, 300.0
"""Seconds until a tree that could not be deleted is tried again for the first time, and in the end."""

_log = logging.getLogger(__name__)


class Trash:
    """The directory ``path`` (made if missing). All that is thrown must be on its file system.

    What is thrown is deleted after ``delay`` seconds: several things in one go, and not
    beside the work that is going on when they are thrown. What cannot be deleted is tried again."""

    def __init__(
        self, path: str, runner: WorkerRunner, spawn: Spawn, delay: float = 0.0, stages: Stages | None = None
    ) -> None:
        self._path = path
        self._runner = runner
        self._spawn = spawn
        self._emptying = asyncio.Lock()
        self._delay = delay
        self._stages = stages or Stages()
        self._begun = False
        self._failed = 0  # times in a row

    async def open(self) -> None:
        """Make the directory and begin to delete what an earlier process left in it."""
        await asyncio.to_thread(os.makedirs, self._path, 0o700, exist_ok=True)
        self._begin()

    async def throw(self, path: str) -> None:
        """Rename ``path`` into the trash and have it deleted in the background. Absent is fine."""
        await finish(self.rename, path, then=lambda _: self._begin())

    def throw_now(self, path: str) -> None:
        """:meth:`throw` for where nothing may be awaited: one rename, done here."""
        self.rename(path)
        self._begin()

    def rename(self, path: str) -> bool:
        """The rename alone, blocking; false if there is nothing at ``path``. :meth:`throw` deletes it later."""
        try:
            os.rename(path, os.path.join(self._path, secrets.token_hex(16)))
        except FileNotFoundError:
            return False
        return True

    async def empty(self) -> bool:
        """Delete all that is in the trash; false if a tree cannot be deleted now and stays for the next time."""
        async with self._emptying:
            names = await asyncio.to_thread(os.listdir, self._path)
            if not names:
                return True
            directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                return all([await self._delete(directory, name) for name in names])
            finally:
                os.close(directory)

    async def _delete(self, directory: int, name: str) -> bool:
        try:
            async with self._stages.stage(DELETE_TREE):
                await self._runner.run_worker(DELETE_ENTRY, {"name": name, "duty": DUTY}, [directory])
        except Fault as fault:
            _log.warning("cannot delete %s yet: %s", os.path.join(self._path, name), fault)
            return False
        return True

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._spawn("empty trash", self._empty_later(self._delay))

    async def _empty_later(self, delay: float) -> None:
        try:
            await asyncio.sleep(delay)
        finally:
            self._begun = False
        if await self.empty():
            self._failed = 0
        elif not self._begun:
            self._begun, again = True, min(AGAIN_FIRST * 2**self._failed, AGAIN_AT_LEAST)
            self._failed += 1
            self._spawn("empty trash again", self._empty_later(again))
