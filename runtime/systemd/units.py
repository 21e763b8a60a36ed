"""Transient units of systemd: started, changed, stopped, each until systemd has done it.

``runtime.systemd.scopes`` knows which; ``bus`` carries the messages (the interface
org.freedesktop.systemd1.Manager, org.freedesktop.systemd1(5)). The connection is made when
it is first needed, and again when it has ended: over the system bus, or where none runs, as
in a node that is a container, over systemd's own socket.

Invariant: ``start`` and ``stop`` return when systemd's job has ended well, and raise if it has not.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from runtime.errors import DeadlineExceeded, Fault, HostFault, NotFound, Unavailable
from runtime.systemd.bus import DBUS, SYSTEMD, Bus
from runtime.systemd.presence import BUS, PRIVATE
from runtime.systemd.properties import Property

JOB_SECONDS = 60.0
"""How long systemd may take for a job."""

OBJECT, MANAGER = "/org/freedesktop/systemd1", f"{SYSTEMD}.Manager"
MATCH = f"type='signal',sender='{SYSTEMD}',path='{OBJECT}',interface='{MANAGER}',member='JobRemoved'"

_Ended = tuple[str, str]
"""A job's path, and what has become of it; two empty strings when the connection has ended."""


class Units:
    def __init__(self, bus: str = BUS, private: str = PRIVATE) -> None:
        """``bus`` and ``private`` are sockets."""
        self._sockets = ((bus, False), (private, True))
        self._bus: Bus | None = None
        self._connecting = asyncio.Lock()
        self._jobs: dict[str, list[asyncio.Queue[_Ended]]] = {}

    async def open(self) -> None:
        """Be connected.

        Raises:
            Unavailable: systemd is not there, or does not answer.
        """
        await self._connected()

    def close(self) -> None:
        if self._bus is not None:
            self._bus.close()

    async def start(self, name: str, properties: Sequence[Property]) -> None:
        """
        Raises:
            AlreadyExists: there is a unit of that name.
            HostFault: systemd cannot make it, and says why.
            Fault: as ``Bus.call``.
        """
        body: tuple[Any, ...] = (name, "replace", list(properties), [])
        await self._job(name, "StartTransientUnit", "ssa(sv)a(sa(sv))", body)

    async def stop(self, name: str) -> None:
        """End it and whatever it has; fine if there is none. It is not even remembered as failed.

        Raises: as ``start``.
        """
        with contextlib.suppress(NotFound):
            await self._job(name, "StopUnit", "ss", (name, "replace"))
        with contextlib.suppress(NotFound):
            await self._call("ResetFailedUnit", "s", (name,))

    async def change(self, name: str, properties: Sequence[Property]) -> None:
        """Until the next boot.

        Raises:
            NotFound: there is no such unit.
            Fault: as ``Bus.call``.
        """
        await self._call("SetUnitProperties", "sba(sv)", (name, True, list(properties)))

    async def find(self, *patterns: str) -> list[str]:
        """Names of the units that match one of ``patterns`` (fnmatch(3)) and are there, sorted."""
        (units,) = await self._call("ListUnitsByPatterns", "asas", ([], list(patterns)))
        return sorted(unit[0] for unit in units)

    # ------------------------------------------------------------------ jobs

    async def _job(self, name: str, method: str, signature: str, body: tuple[Any, ...]) -> None:
        """Call ``method``, whose answer is a job for the unit ``name``, and see that through."""
        with self._watched(name) as ended:
            (job,) = await self._call(method, signature, body)
            try:
                async with asyncio.timeout(JOB_SECONDS):
                    path, result = await ended.get()
                    while path and path != job:
                        path, result = await ended.get()
            except TimeoutError as late:
                raise DeadlineExceeded(f"not done in {JOB_SECONDS:g} s", step=method, object=name) from late
        if not path:
            raise Unavailable("the connection to systemd has ended", step=method, object=name)
        if result != "done":
            raise HostFault(
                f"systemd's job ended as {result}; journalctl -u {name} may say why", step=method, object=name
            )

    @contextlib.contextmanager
    def _watched(self, name: str) -> Iterator[asyncio.Queue[_Ended]]:
        """Jobs of ``name`` that end meanwhile; the word of it may come before the call's answer."""
        ended: asyncio.Queue[_Ended] = asyncio.Queue()
        self._jobs.setdefault(name, []).append(ended)
        try:
            yield ended
        finally:
            self._jobs[name].remove(ended)
            if not self._jobs[name]:
                del self._jobs[name]

    def _on_signal(self, member: str, body: tuple[Any, ...]) -> None:
        if member == "JobRemoved" and len(body) == 4:
            _, job, name, result = body
            for ended in self._jobs.get(name, ()):
                ended.put_nowait((job, result))

    def _on_closed(self, bus: Bus) -> None:
        if bus is not self._bus:
            return
        for waiting in self._jobs.values():
            for ended in waiting:
                ended.put_nowait(("", ""))

    # ------------------------------------------------------------------ the connection

    async def _call(self, method: str, signature: str = "", body: tuple[Any, ...] = ()) -> tuple[Any, ...]:
        bus = await self._connected()
        return await bus.call(OBJECT, MANAGER, method, signature, body)

    async def _connected(self) -> Bus:
        async with self._connecting:
            if self._bus is not None and not self._bus.closed:
                return self._bus
            refused: list[str] = []
            for path, private in self._sockets:
                try:
                    self._bus = await self._connect(path, private)
                    return self._bus
                except Fault as fault:
                    refused.append(str(fault))
            raise Unavailable("; ".join(refused))

    async def _connect(self, path: str, private: bool) -> Bus:
        bus = await Bus.connect(path, self._on_signal, self._on_closed, private=private)
        try:
            if not private:
                await bus.call("/org/freedesktop/DBus", DBUS, "AddMatch", "s", (MATCH,), to=DBUS)
            await bus.call(OBJECT, MANAGER, "Subscribe")  # without it systemd tells nobody on the bus of jobs
        except BaseException:
            bus.close()
            raise
        return bus
