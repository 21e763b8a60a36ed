"""Watching the folder of CNI configurations.

``provider`` reads the folder again when this calls; also when the folder itself comes, goes
or is replaced, for the nearest folder above that exists is watched too.

Invariant: a watch that cannot be had costs promptness only: the folder is read at each
Status as well.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable

from runtime.linux import inotify
from runtime.linux.libc import SyscallError

_LOG = logging.getLogger("crisp.network")

SETTLE = 0.05
"""Seconds after the first change, as one write of a file is several."""


class Watch:
    """Calls ``changed`` on the loop; of one event loop. ``close`` ends it."""

    def __init__(self, folder: str, changed: Callable[[], None]) -> None:
        self._folder = folder
        self._changed = changed
        self._fd = -1
        self._timer: asyncio.TimerHandle | None = None
        self._watched: tuple[tuple[int, int], ...] = ()
        self._refused = False

    def renew(self) -> None:
        """Watch what is there now, if that is not watched already. Called after each reading."""
        places = [self._folder, _above(self._folder)]
        identities = tuple(found for found in map(_identity, places) if found is not None)
        if self._fd >= 0 and identities == self._watched:
            return
        self.close()
        try:
            self._fd = inotify.inotify_init1()
            for place in places:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    _add(self._fd, place)
        except SyscallError as error:
            if not self._refused:
                _LOG.info("cannot watch %s: %s", self._folder, error)
            self._refused = True
            return self.close()
        self._watched = identities
        asyncio.get_running_loop().add_reader(self._fd, self._hear)

    def _hear(self) -> None:
        if inotify.drain(self._fd) and self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(SETTLE, self._tell)

    def _tell(self) -> None:
        self._timer = None
        self._changed()

    def close(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._fd >= 0:
            asyncio.get_running_loop().remove_reader(self._fd)
            os.close(self._fd)
        self._fd, self._watched = -1, ()


def _add(fd: int, place: str) -> None:
    """SyscallError keeps its class whatever the errno is."""
    if os.path.isdir(place):
        inotify.inotify_add_watch(fd, place)


def _above(folder: str) -> str:
    """The nearest folder above that is there."""
    place = os.path.dirname(folder.rstrip("/")) or "/"
    while not os.path.isdir(place):
        place = os.path.dirname(place)
    return place


def _identity(place: str) -> tuple[int, int] | None:
    try:
        found = os.stat(place)
    except OSError:
        return None
    return found.st_dev, found.st_ino
