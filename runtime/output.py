"""What one container writes, from its pipes or its terminal to its log and to who is attached.

``container`` says when there is something to watch and when the container has ended; ``crilog`` has the
log, ``attach`` those who hear it, too.

Invariant: the streams are closed ``DRAIN_SECONDS`` after ``drain`` at the latest, and with ``close``
all that was written to them until then is in the log or counted as dropped.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence

from runtime.attach import Audience
from runtime.crilog import LogFile, LogPump
from runtime.errors import FailedPrecondition
from runtime.loop import READ, Timer
from runtime.pod import Pod

DRAIN_SECONDS = 5.0
"""How long the log waits, after the exit, for whoever else still holds the output's pipes."""

DROPS_SECONDS = 1.0
"""How long it takes at most until the daemon is told of log entries that the disk has refused."""

_DRAIN_CHUNKS = 64


class Output:
    """Of the container ``id``. ``on_end`` is called when no stream is left, or is to be waited for."""

    def __init__(self, pod: Pod, id: str, path: str | None, directory: str, on_end: Callable[[], None]) -> None:
        """``path`` and ``directory`` are the log's.

        Raises: as ``LogFile``.
        """
        self._pod, self._id, self._on_end = pod, id, on_end
        self._audience: Audience | None = None
        self._pumps: list[LogPump] = []
        self._drain_timer: Timer | None = None
        self._drop_timer: Timer | None = None
        self._log = LogFile(path, directory, self._on_dropped)

    @property
    def dropped(self) -> int:
        """Entries that the disk refused."""
        return self._log.dropped

    @property
    def source(self) -> int | None:
        """The first stream that is left, a terminal's only one."""
        return self._pumps[0].source if self._pumps else None

    def watch(self, source: int, stream: str) -> None:
        """Carry what comes from ``source``, which is taken over."""
        os.set_blocking(source, False)
        pump = LogPump(source, stream, self._log)
        self._pumps.append(pump)
        self._pod.loop.watch(source, READ, functools.partial(self._on_readable, pump))

    def attach(self, client: str, streams: Sequence[str]) -> list[int]:
        """Let ``client`` listen to ``streams``: a descriptor each, the caller's.

        Raises:
            OSError: descriptors are short; nothing is left open.
        """
        if self._audience is None:
            self._audience = Audience(self._pod, self._resume)
            for pump in self._pumps:
                pump.hear = functools.partial(self._audience.hear, pump.stream)
        return self._audience.add(client, streams)

    def reopen(self) -> None:
        """Go on in a new file at the log's path.

        Raises:
            Fault: the log is closed, or the file cannot be made; the old one stays in use.
        """
        if self._log.discards and self._log.path is not None:
            raise FailedPrecondition("its log is closed", step="reopen the log", object=self._id)
        self._log.reopen()

    def drain(self) -> None:
        """Take what is in the pipes already; whoever still holds them gets ``DRAIN_SECONDS``."""
        for pump in list(self._pumps):
            moved = 1
            for _ in range(_DRAIN_CHUNKS):
                moved = pump.pump()
                if moved <= 0:
                    break
            if moved < 0:
                self._end(pump)
        if self._pumps:
            self._drain_timer = self._pod.loop.later(DRAIN_SECONDS, self._on_end)
        else:
            self._on_end()

    def close(self) -> None:
        """Carry nothing any more; who is attached is let go. Idempotent."""
        if self._drain_timer is not None:
            self._drain_timer.cancel()
        for pump in self._pumps:
            self._pod.loop.unwatch(pump.source)
            pump.close()
        self._pumps.clear()
        if self._log.dropped and not self._log.discards:
            entries = f"{self._log.dropped} entries of the log of {self._id}"
            self._pod.note(f"{entries} were refused by the disk and dropped")
            self._tell_dropped()
        self._log.close()
        if self._audience is not None:
            self._audience.end()

    def _on_readable(self, pump: LogPump) -> None:
        if pump.pump() < 0:
            self._end(pump)
            if not self._pumps:
                self._on_end()
        elif self._audience is not None and self._audience.behind(pump.stream):
            self._pod.loop.unwatch(pump.source)

    def _resume(self, stream: str) -> None:
        """Whoever is attached has taken all of ``stream``."""
        for pump in self._pumps:
            if pump.stream == stream:
                self._pod.loop.watch(pump.source, READ, functools.partial(self._on_readable, pump))

    def _end(self, pump: LogPump) -> None:
        self._pod.loop.unwatch(pump.source)
        pump.close()
        self._pumps.remove(pump)

    def _on_dropped(self) -> None:
        """The disk has refused entries of the log, and goes on with that: it is told once in a while."""
        if self._drop_timer is None:
            self._drop_timer = self._pod.loop.later(DROPS_SECONDS, self._tell_dropped)

    def _tell_dropped(self) -> None:
        if self._drop_timer is not None:
            self._drop_timer.cancel()
            self._drop_timer = None
            self._pod.announce({"event": "log_dropped", "container": self._id, "dropped": self._log.dropped})
