"""The process of a blank pod that waits to become pause, as the daemon sees it.

The monitor has it born (``runtime.sandbox``) and hears from it, but is not asked: what the pod is to
be called goes straight to the one that waits, which has no python to wake. ``runtime.pause`` writes
the scripts of both its lives, ``runtime.monitor_client`` is the user.

Invariant: it is a convenience, and ends with the daemon's end of its socket as long as it waits.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import socket
from collections.abc import Callable

from runtime.cgroups import kill
from runtime.errors import DeadlineExceeded, Unavailable
from runtime.linux import spawn
from runtime.linux.script import Script
from runtime.requests import CgroupDirs
from runtime.written import Written


class BlankInit:
    """``theirs`` is the end of the socket that is the process's: to be given to it, and closed."""

    def __init__(self) -> None:
        self._ended = self._running = -1
        """A pipe: readable, once what holds the other end has executed or ended."""
        self._script = spawn.new_script()
        try:
            self._ours, self.theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._ours.setblocking(False)
            self._ended, self._running = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            os.close(self._script)
            raise
        self._words: Callable[[], Script] | None = None
        self._waiting: asyncio.Event | None = None
        self._unwanted = False

    def close(self) -> None:
        """Idempotent. Where somebody waits he is told, and has to close it himself."""
        if self._waiting is not None:
            self._unwanted = True
            self._waiting.set()
            return
        self.theirs.close()
        self._ours.close()
        for descriptor in (self._ended, self._running, self._script):
            if descriptor >= 0:
                os.close(descriptor)
        self._ended = self._running = self._script = -1

    def wake(self, written: Written, cgroup: CgroupDirs) -> bool:
        """Have what is written carried out by a new process in the v2 cgroup, once; False if it has ended, or there is
        no such cgroup."""
        try:
            self._send(written.script, cgroup)
        except OSError:
            return False
        os.close(self._running)
        self._running, self._words = -1, written.words
        return True

    def _send(self, script: bytes, cgroup: CgroupDirs) -> None:
        where = kill.open_v2(cgroup)
        if where is None:
            raise FileNotFoundError(errno.ENOENT, "no cgroup v2")
        try:
            spawn.write_script(self._script, script)
            socket.send_fds(self._ours, [spawn.RELEASE], (self._script, where), socket.MSG_NOSIGNAL)
            socket.send_fds(self._ours, [spawn.RELEASE], (self._running,), socket.MSG_NOSIGNAL)
        finally:
            os.close(where)

    async def wait_executed(self, timeout: float) -> int | None:
        """The pid of pause, of whose end the monitor tells; None if whoever was to become it ended before that.

        Raises:
            Fault: what a call of its script failed with.
            DeadlineExceeded: after ``timeout`` seconds.
            Unavailable: it was to be closed meanwhile.
        """
        await self._wait_ended(timeout)
        failed, taken = None, True
        with contextlib.suppress(BlockingIOError):
            try:
                failed = self._read_failure()
            except ConnectionResetError:  # nobody has taken what was sent; what was said before comes next
                taken, failed = False, self._read_failure()
        if failed is not None and self._words is not None:
            raise self._words().fault(*failed)
        pid = spawn.born(self._script)
        return pid if taken else None

    def _read_failure(self) -> tuple[int, int] | None:
        return spawn.failure(self._ours.recv(64))

    async def _wait_ended(self, timeout: float) -> None:
        loop = asyncio.get_running_loop()
        ended = self._waiting = asyncio.Event()
        loop.add_reader(self._ended, ended.set)
        try:
            async with asyncio.timeout(timeout):
                await ended.wait()
        except TimeoutError as error:
            raise DeadlineExceeded(f"not there after {timeout:g} s", step="wait for pause") from error
        finally:
            loop.remove_reader(self._ended)
            self._waiting = None
        if self._unwanted:
            raise Unavailable("its monitor ends", step="wait for pause")
