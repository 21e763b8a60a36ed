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

DELETE_ENTRY = "runtime.images.worker:delete_tree"
DUTY = 0.5  # share of time that a deletion may keep the disk busy

_log = logging.getLogger(__name__)


class Trash:
    """The directory ``path`` (made if missing). All that is thrown must be on its file system.

    What is thrown is deleted after ``delay`` seconds: several things in one go, and not
    beside the work that is going on when they are thrown."""

    def __init__(self, path: str, runner: WorkerRunner, spawn: Spawn, delay: float = 0.0) -> None:
        self._path = path
        self._runner = runner
        self._spawn = spawn
        self._emptying = asyncio.Lock()
        self._delay = delay
        self._begun = False

    async def open(self) -> None:
        """Make the directory and begin to delete what an earlier process left in it."""
        await asyncio.to_thread(os.makedirs, self._path, 0o700, exist_ok=True)
        self._begin()

    async def throw(self, path: str) -> None:
        """Rename ``path`` into the trash and have it deleted in the background. Absent is fine."""
        await asyncio.to_thread(self.rename, path)
        self._begin()

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

    async def empty(self) -> None:
        """Delete all that is in the trash; a tree that cannot be deleted now stays for the next time."""
        async with self._emptying:
            names = await asyncio.to_thread(os.listdir, self._path)
            if not names:
                return
            directory = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                for name in names:
                    await self._delete(directory, name)
            finally:
                os.close(directory)

    async def _delete(self, directory: int, name: str) -> None:
        try:
            await self._runner.run_worker(DELETE_ENTRY, {"name": name, "duty": DUTY}, [directory])
        except Fault as fault:
            _log.warning("cannot delete %s yet: %s", os.path.join(self._path, name), fault)

    def _begin(self) -> None:
        if not self._begun:
            self._begun = True
            self._spawn("empty trash", self._empty_later())

    async def _empty_later(self) -> None:
        try:
            await asyncio.sleep(self._delay)
        finally:
            self._begun = False
        await self.empty()
