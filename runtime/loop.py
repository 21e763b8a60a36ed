"""The monitor's event loop: descriptors, timers, one thread.

``peers``, ``children``, ``container`` and ``exec`` register what they wait for; the
monitor runs it. Nothing in it knows what a container is.

Invariant: a callback that raises takes down its own watch, never the loop: a
fault in one container's output must not end the pod.
"""

from __future__ import annotations

import heapq
import itertools
import select
import time
from collections.abc import Callable

# The bare epoll, not selectors: each function that a monitor runs costs it memory.
READ = select.EPOLLIN
WRITE = select.EPOLLOUT

_MANY = 64

Callback = Callable[[], object]
FaultHandler = Callable[[BaseException], None]


class Timer:
    """A callback that is due at ``due`` (monotonic seconds); ``callback`` is None once it was called or cancelled."""

    __slots__ = ("callback", "due")

    def __init__(self, due: float, callback: Callback) -> None:
        self.due = due
        self.callback: Callback | None = callback

    def cancel(self) -> None:
        """Never call it; harmless when it has been called already."""
        self.callback = None


class Loop:
    """``on_fault`` is told what a callback raised. Made before the fork; ``open`` it after."""

    def __init__(self, on_fault: FaultHandler) -> None:
        self.on_fault = on_fault
        self._epoll: select.epoll
        self._watched: dict[int, Callback] = {}
        self._new: set[int] = set()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self.stopped = False

    def open(self) -> None:
        """Get the kernel's part of it."""
        self._epoll = select.epoll()

    def watch(self, descriptor: int, events: int, callback: Callback) -> None:
        """Call ``callback`` whenever ``descriptor`` is ready for ``events`` (READ, WRITE) or has an error.

        What is watched anew is served from the next turn on: what this turn has to tell of its number may be
        of another descriptor, which was closed meanwhile.
        """
        if descriptor in self._watched:
            self._epoll.modify(descriptor, events)
        else:
            self._epoll.register(descriptor, events)
            self._new.add(descriptor)
        self._watched[descriptor] = callback

    def unwatch(self, descriptor: int) -> None:
        """Forget ``descriptor``, before it is closed; harmless when it is not watched."""
        if self._watched.pop(descriptor, None) is not None:
            self._epoll.unregister(descriptor)

    def later(self, seconds: float, callback: Callback) -> Timer:
        """Call ``callback`` once after ``seconds``."""
        if len(self._timers) >= _MANY:
            # Cancelled ones stay until they are due: a probe's execs with a timeout of an hour would pile up.
            self._timers = [entry for entry in self._timers if entry[2].callback is not None]
            heapq.heapify(self._timers)
        timer = Timer(time.monotonic() + seconds, callback)
        heapq.heappush(self._timers, (timer.due, next(self._order), timer))
        return timer

    def turn(self, timeout: float = -1) -> None:
        """Wait for something, at most ``timeout`` seconds (-1: for ever), and serve what is due, each source once."""
        events = self._epoll.poll(self._patience(timeout) if self._timers else timeout)
        self._new.clear()
        for descriptor, _ in events:
            callback = self._watched.get(descriptor)
            # An earlier callback of this turn may have removed it, and another have its number now.
            if callback is not None and descriptor not in self._new:
                self.guard(callback, descriptor)
        if self._timers:
            self._fire()

    def run(self) -> None:
        """Turn until ``stopped`` is set."""
        while not self.stopped:
            self.turn()

    def guard(self, callback: Callback, descriptor: int = -1) -> None:
        """Call ``callback``; what it raises is told to ``on_fault`` and stops the watch of ``descriptor``."""
        try:
            callback()
        except Exception as error:  # noqa: BLE001 - the loop serves all containers of the pod; see the invariant
            self.unwatch(descriptor)
            self.on_fault(error)

    def close(self) -> None:
        """Give the kernel its part back; nothing is watched any more."""
        self._epoll.close()

    def _patience(self, timeout: float) -> float:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if not self._timers:
            return timeout
        wait = max(0.0, self._timers[0][0] - time.monotonic())
        return wait if timeout < 0 else min(wait, timeout)

    def _fire(self) -> None:
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            callback = heapq.heappop(self._timers)[2].callback
            if callback is not None:
                self.guard(callback)
