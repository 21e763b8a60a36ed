"""Writable layers that wait empty: the directories of the next containers, made while it is quiet.

``cri.steps.container`` takes one with a rename, where making its three directories on a
disk costs several times that. What a daemon leaves of them is the next one's.

Invariant: what can be taken is whole and empty; to have none is no fault.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import shutil
from pathlib import Path

from cri.steps.files import make_directory
from cri.tasks import Tasks

LOG = logging.getLogger("crisp.spares")

SIZE = 8

QUIET = 0.2
"""Seconds after the last one was taken before others are made: not beside the start of who took it."""

FOLDERS = ("upper", "work")
_UNFINISHED = ".part"


class Spares:
    """Those in ``directory``, which is on the file system of the containers' own."""

    def __init__(self, directory: Path, tasks: Tasks) -> None:
        self._directory = directory
        self._tasks = tasks
        self._names: list[str] = []
        self._filling: asyncio.Task[None] | None = None
        self._taken = 0.0

    def __len__(self) -> int:
        return len(self._names)

    def open(self) -> None:
        """Take over what is there, and begin to make what is missing.

        Raises:
            OSError: the directory cannot be had.
        """
        self._directory.mkdir(mode=0o700, exist_ok=True)
        for name in sorted(os.listdir(self._directory)):
            if name.endswith(_UNFINISHED):
                shutil.rmtree(self._directory / name)
            else:
                self._names.append(name)
        self._fill()

    def take(self, path: str) -> bool:
        """Whether one is at ``path`` now.

        Raises:
            OSError: there is something at ``path``, or no place for it.
        """
        self._fill()
        while self._names:
            try:
                os.rename(self._directory / self._names.pop(), path)
            except FileNotFoundError:  # somebody has tidied up
                continue
            return True
        return False

    def _fill(self) -> None:
        loop = asyncio.get_running_loop()
        self._taken = loop.time()
        if self._filling is None or self._filling.done():
            self._filling = self._tasks.spawn("make spare directories", self._make_all())

    async def _make_all(self) -> None:
        loop = asyncio.get_running_loop()
        while len(self._names) < SIZE:
            if (rest := self._taken + QUIET - loop.time()) > 0:
                await asyncio.sleep(rest)
                continue
            try:
                self._names.append(await asyncio.to_thread(self._make))
            except OSError as error:
                LOG.info("no spare directories can be made now: %s", error)
                return

    def _make(self) -> str:
        name = secrets.token_hex(8)
        unfinished = self._directory / f"{name}{_UNFINISHED}"
        os.mkdir(unfinished, 0o700)
        for folder in FOLDERS:
            make_directory(f"{unfinished}/{folder}")
        os.rename(unfinished, self._directory / name)
        return name
