"""The routes to other nodes that are ours, in the state database: ``network.routes.RouteStore``.

``network.other_nodes`` decides which; this remembers.

Invariant: what was saved survives a power cut, after which it names routes that are gone.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from cri.state.meta import ROUTES, Meta
from network.routes import StaticRoute


class RouteRecord:
    """Implements the Protocol; its docstrings say what each method does."""

    def __init__(self, meta: Meta) -> None:
        self._meta = meta

    async def load(self) -> tuple[StaticRoute, ...]:
        pairs: list[list[str]] = json.loads(self._meta.get(ROUTES) or "[]")
        return tuple(StaticRoute(ip_network(to), ip_address(via)) for to, via in pairs)

    async def save(self, routes: Sequence[StaticRoute]) -> None:
        await self._meta.set(ROUTES, json.dumps([[str(route.to), str(route.via)] for route in routes]))
