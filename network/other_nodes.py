"""The way to other nodes' pods, kept: routes of the settings, ours alone, for as long as pods need them.

``network.bridge`` says when, ``network.routes`` plans, ``network.wiring`` has the kernel's side.
A way that the kernel refuses (its gateway is not reached from here yet, say) or that somebody has
removed keeps no pod from starting: it is tried again, and Status tells of it meanwhile.

Invariant: a route is recorded before it is made and until it is removed, so whoever follows a
killed daemon knows which are ours.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import math
import time
from collections.abc import Sequence

from network.netthread import NetThread
from network.routes import RoutePlan, RouteStore, StaticRoute
from network.rtnetlink import Network
from network.wiring import Wiring
from runtime.errors import Fault

AGAIN_SECONDS = 30.0
"""Between two looks whether all are there still: the kernel drops those of a link that goes down."""

_LOG = logging.getLogger("crisp.network")


class OtherNodes:
    """Of one event loop. ``routes`` are those of the settings."""

    def __init__(self, routes: Sequence[StaticRoute], store: RouteStore, thread: NetThread, wiring: Wiring) -> None:
        self._routes = tuple(routes)
        self._store = store
        self._thread = thread
        self._wiring = wiring
        self._subnets: tuple[Network, ...] = ()
        self._alone = asyncio.Lock()
        self._seen = -math.inf
        self._notes: tuple[str, ...] = ()

    async def clear(self, subnets: Sequence[Network]) -> None:
        """Before pods get ``subnets``: see that no route is in their way, and remove ours that are wanted no more.

        Raises:
            FailedPrecondition: the first that ``network.routes.plan_routes`` refuses; nothing was done.
            HostFault: the kernel refuses, or the record cannot be read or written.
        """
        async with self._alone:
            self._subnets = tuple(subnets)
            recorded = await self._store.load()
            if self._routes or recorded:
                plan = await self._plan(self._routes, recorded)
                for refusal in plan.refused:
                    raise refusal
                await self._carry_out(RoutePlan(kept=plan.kept, remove=plan.remove), recorded)

    async def settle(self) -> None:
        """Make those that are not there; what cannot be is told by ``notes``, and keeps no other from being made.
        Raises nothing but bugs."""
        if not self._routes:
            return
        async with self._alone:
            try:
                recorded = await self._store.load()
                plan = await self._plan(self._routes, recorded)
                notes = (*map(str, plan.refused), *await self._carry_out(plan, recorded))
            except Fault as fault:
                notes = (str(fault),)
            for note in notes:
                if note not in self._notes:
                    _LOG.warning("%s", note)
            self._notes, self._seen = notes, time.monotonic()

    async def notes(self) -> tuple[str, ...]:
        """Why pods of other nodes are not reached, in words; looked for anew after AGAIN_SECONDS."""
        if time.monotonic() - self._seen >= AGAIN_SECONDS:
            await self.settle()
        return self._notes

    async def remove(self) -> None:
        """Remove what is recorded as ours. Idempotent."""
        async with self._alone:
            if recorded := await self._store.load():
                await self._carry_out(await self._plan((), recorded), recorded)

    async def _plan(self, wanted: Sequence[StaticRoute], recorded: Sequence[StaticRoute]) -> RoutePlan:
        return await self._thread.run(self._wiring.plan_routes, wanted, recorded, self._subnets)

    async def _carry_out(self, plan: RoutePlan, recorded: Sequence[StaticRoute]) -> tuple[str, ...]:
        """Returns why some could not be made; raises for one that cannot be removed."""
        await self._save(plan.ours, recorded)
        refused = await self._thread.run(self._wiring.apply_routes, plan)
        others = {route for route, fault in refused.items() if fault.errno == errno.EEXIST}
        await self._save([*plan.kept, *(route for route in plan.add if route not in others)], plan.ours)
        return tuple(f"pods in {route.to} are not reached: {fault}" for route, fault in refused.items())

    async def _save(self, routes: Sequence[StaticRoute], saved: Sequence[StaticRoute]) -> None:
        if set(routes) != set(saved):
            await self._store.save(routes)
