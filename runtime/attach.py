"""Who is attached to a container: output goes to all of them as it comes, and to each in full.

``output`` has one ``Audience`` a container from the first attach on and asks it, after each
chunk, whether the source has to wait. A client is the daemon's end of a pipe a
stream; what it types goes from the daemon to the container directly.

Invariant: a client delays output only while it makes progress. One that takes no byte
for ``PATIENCE`` seconds is let go, with an error; and one that has left costs nothing.
"""

from __future__ import annotations

import array
import fcntl
import os
import termios
import time
from collections.abc import Callable, Sequence

from runtime import channel
from runtime.loop import WRITE, Timer
from runtime.pod import Pod

PATIENCE = 5.0
"""Seconds that a client may take no byte of what it has to take."""

_LOOK = 0.5
"""Seconds between two looks at a client that is behind."""

_LAG = 1.0
"""Seconds by which a byte that was taken may show late: the daemon looks at its client as often, and then we do."""

_FIONREAD = int(termios.FIONREAD)


class Audience:
    """Of one container. ``on_taken(stream)`` is called when nobody is behind with a stream any more."""

    def __init__(self, pod: Pod, on_taken: Callable[[str], None]) -> None:
        self.pod = pod
        self.ended = False
        self.on_taken = on_taken
        self.taps: list[Tap] = []

    def add(self, id: str, streams: Sequence[str]) -> list[int]:
        """Let the client ``id`` listen to ``streams`` from now on: a descriptor each to read from, the caller's.

        Raises:
            OSError: descriptors are short; nothing is left open.
        """
        client = Client(self, id)
        near: list[int] = []
        try:
            for stream in streams:
                reads, writes = os.pipe()
                near.append(reads)
                client.taps.append(Tap(client, stream, writes))
        except BaseException:
            client.close()
            channel.close_all(near)
            raise
        self.taps += client.taps
        self.pod.attached[id] = client
        return near

    def hear(self, stream: str, data: memoryview) -> None:
        """Pass ``data`` on; see ``behind``."""
        for tap in list(self.taps):
            if tap.stream == stream:
                tap.write(data)

    def behind(self, stream: str) -> bool:
        """Whether somebody has not taken all of ``stream`` yet."""
        return any([tap.stream == stream for tap in self.taps if tap.left])

    def end(self) -> None:
        """There will be no more output: whoever has taken all is let go, now or then."""
        self.ended = True
        for tap in list(self.taps):
            tap.client.leave_if_done()


class Client:
    """One that is attached, by the name that the daemon gave it."""

    def __init__(self, audience: Audience, id: str) -> None:
        self.id = id
        self.audience = audience
        self.taps: list[Tap] = []

    def leave_if_done(self) -> None:
        """After the end of the output, once all of it has been taken."""
        if self.audience.ended and not any([tap.left for tap in self.taps]):
            self.leave("")

    def leave(self, error: str) -> None:
        """It is attached no longer; the daemon is told why where that is not its own doing."""
        pod = self.audience.pod
        if pod.attached.pop(self.id, None) is None:
            return
        self.audience.taps = [tap for tap in self.audience.taps if tap.client is not self]
        behind = [tap.stream for tap in self.taps if tap.left]
        self.close()
        pod.announce({"event": "attach_end", "attach": self.id, "error": error})
        for stream in behind:
            if not self.audience.behind(stream):
                self.audience.on_taken(stream)

    def close(self) -> None:
        """Close its pipes, whatever is in them."""
        for tap in self.taps:
            tap.close()


class Tap:
    """One stream to one client: a pipe, and in ``left`` what did not fit into it."""

    def __init__(self, client: Client, stream: str, descriptor: int) -> None:
        """``descriptor`` is taken over."""
        self.client, self.stream = client, stream
        self.left = b""
        self._descriptor = descriptor
        self._written = self._read = 0
        self._moved = 0.0
        self._timer: Timer | None = None
        self._loop = client.audience.pod.loop
        os.set_blocking(descriptor, False)
        # Without an event of its own: the loop still tells when the other end is closed.
        self._loop.watch(descriptor, 0, self._on_ready)

    def write(self, data: memoryview | bytes) -> None:
        """Give ``data`` to the client, as far as it takes it now; the rest is ``left``."""
        if self.left:
            self.left += data
            return
        try:
            count = os.write(self._descriptor, data)
        except BlockingIOError:
            count = 0
        except OSError:
            self.left = bytes(data)  # it may be what the source waits for
            self.client.leave("")  # EPIPE: it has gone
            return
        self._written += count
        if count < len(data):
            self.left = bytes(data[count:])
            if self._timer is None:
                self._begin_to_wait()

    def close(self) -> None:
        """Idempotent."""
        if self._descriptor >= 0:
            self._loop.unwatch(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1
        if self._timer is not None:
            self._timer.cancel()

    def _begin_to_wait(self) -> None:
        self._read, self._moved = self._count_read(), time.monotonic()
        self._loop.watch(self._descriptor, WRITE, self._on_ready)
        self._timer = self._loop.later(_LOOK, self._look)

    def _on_ready(self) -> None:
        if not self.left:
            self.client.leave("")  # only the end of the reader wakes one that waits for nothing
            return
        data, self.left = self.left, b""
        self.write(data)
        if not self.left and self._descriptor >= 0:
            self._end_wait()

    def _end_wait(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._loop.watch(self._descriptor, 0, self._on_ready)
        audience = self.client.audience
        if not audience.behind(self.stream):
            audience.on_taken(self.stream)
        self.client.leave_if_done()

    def _look(self) -> None:
        """Bytes are counted, not wake-ups: a pipe has room again only after a whole page was read."""
        now, read = time.monotonic(), self._count_read()
        if read > self._read:
            self._read, self._moved = read, now
        if now - self._moved >= PATIENCE + _LAG:
            self.client.leave(f"took no {self.stream} for {PATIENCE:g} s")
        else:
            self._timer = self._loop.later(_LOOK, self._look)

    def _count_read(self) -> int:
        waiting = array.array("i", [0])
        fcntl.ioctl(self._descriptor, _FIONREAD, waiting)
        return self._written - waiting[0]
