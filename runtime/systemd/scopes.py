"""The cgroups that systemd makes for crisp: a scope a container or pause, a slice a pod that names none.

``cri.steps.cgroups`` makes what is below: in the scope itself there is no process, so that it
can hand its controllers down. systemd leaves alone what is in a unit with Delegate=yes.

Invariant: what ``make`` has begun and not finished it takes away; ``remove`` may be repeated.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Sequence

from runtime.cgroups import files
from runtime.cgroups.layout import Layout
from runtime.errors import AlreadyExists, HostFault, NotFound
from runtime.systemd.keeper import Keepers
from runtime.systemd.names import KEEPER, is_slice, outer, patterns, slice_of, unit_of
from runtime.systemd.properties import INFINITY, Property
from runtime.systemd.units import Units

ACCOUNTED = ("CPUAccounting", "MemoryAccounting", "IOAccounting", "TasksAccounting")
STOP = 5_000_000
"""Microseconds for what is in a scope to end by SIGTERM: nothing but its keeper."""

_MAKE = "make the scope"


class Scopes:
    def __init__(self, layout: Layout, units: Units) -> None:
        self._root = layout.v2 or ""
        self.units = units
        self._keepers = Keepers()

    def close(self) -> None:
        """Units and their keepers stay."""
        self.units.close()
        self._keepers.close()

    async def make(self, cgroup_path: str, properties: Sequence[Property], what: str) -> None:
        """The unit that ``cgroup_path`` is of (``names.unit_of``); ``what`` describes it to people.

        A slice that is there is fine. A scope that is there is not known to anybody any more, and is made anew.

        Raises:
            HostFault, Unavailable, DeadlineExceeded: as ``Units.start``.
        """
        name = unit_of(cgroup_path)
        if is_slice(cgroup_path):
            with contextlib.suppress(AlreadyExists):
                await self.units.start(name, [*plan_slice(what), *properties])
            return
        for last in (False, True):
            try:
                await self._start(name, cgroup_path, [*plan_scope(what, slice_of(cgroup_path)), *properties])
                return
            except AlreadyExists:
                if last:
                    raise
                await self.units.stop(name)

    async def change(self, cgroup_path: str, properties: Sequence[Property]) -> None:
        """Of the unit that ``cgroup_path`` is of, if it is of one; one that has ended needs nothing.

        Raises: as ``Units.change``.
        """
        name = unit_of(cgroup_path)
        if name and properties:
            with contextlib.suppress(NotFound):
                await self.units.change(name, properties)

    async def remove(self, cgroup_path: str) -> None:
        """The unit that ``cgroup_path`` is of, if it is of one; a slice that others are in stays.

        Raises: as ``Units.stop``.
        """
        name = unit_of(cgroup_path)
        if not name or (is_slice(cgroup_path) and self._is_used(cgroup_path)):
            return
        await self.units.stop(name)
        await self._keepers.end(name)

    async def find(self, instance: str) -> list[str]:
        """Names of the units that a daemon of this name has made."""
        return await self.units.find(*patterns(instance))

    async def _start(self, name: str, cgroup_path: str, properties: Sequence[Property]) -> None:
        keeper = self._keepers.start(name)
        try:
            await self.units.start(name, [*properties, ("PIDs", ("au", [keeper]))])
            place = f"{self._root}{outer(cgroup_path)}/{KEEPER}"
            try:
                os.mkdir(place, 0o755)
            except OSError as error:
                raise HostFault(step=_MAKE, object=place, call="mkdir", errno=error.errno or 0) from error
            # From outside it takes the kernel some milliseconds.
            await asyncio.to_thread(files.write, f"{place}/cgroup.procs", str(keeper), _MAKE)
        except BaseException as error:
            if not isinstance(error, AlreadyExists):
                await self.units.stop(name)
            await self._keepers.end(name)
            raise

    def _is_used(self, cgroup_path: str) -> bool:
        with contextlib.suppress(FileNotFoundError), os.scandir(self._root + cgroup_path) as entries:
            return any(entry.is_dir(follow_symlinks=False) for entry in entries)
        return False


def plan_scope(what: str, parent: str) -> list[Property]:
    """As runc has its scopes. Without a limit of its own a scope would have systemd's DefaultTasksMax."""
    return [
        ("Description", ("s", what)),
        ("Slice", ("s", parent)),
        ("Delegate", ("b", True)),
        ("DefaultDependencies", ("b", False)),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("TimeoutStopUSec", ("t", STOP)),
        ("TasksMax", ("t", INFINITY)),
        *((name, ("b", True)) for name in ACCOUNTED),
    ]


def plan_slice(what: str) -> list[Property]:
    return [
        ("Description", ("s", what)),
        ("DefaultDependencies", ("b", False)),
        ("CollectMode", ("s", "inactive-or-failed")),
        *((name, ("b", True)) for name in ACCOUNTED),
    ]
