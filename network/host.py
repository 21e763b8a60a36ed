"""Pods in the node's own network: nothing to attach, and the node's address to report.

The other provider beside ``network.bridge``. The addresses are read anew each time,
as a node may get others while a pod runs.

Invariant: it changes nothing on the host.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Sequence

from network.device import open_route_socket, read_host
from network.hostnet import node_addresses
from network.netthread import NetThread
from network.provider import Attachment, AttachRequest, Hop, NetworkStatus, Orphan, PortMapping


class HostNetwork:
    """A ``network.provider.Provider`` that leaves everything as it is."""

    name = "host"

    def __init__(self, thread: NetThread) -> None:
        self._thread = thread

    async def prepare(self) -> None:
        return None

    def reserve(
        self, sandbox_id: str, port_mappings: Sequence[PortMapping]
    ) -> contextlib.AbstractAsyncContextManager[None]:
        """The pod's ports are the node's own: its programs find out."""
        return contextlib.nullcontext()

    async def attach(self, request: AttachRequest) -> Attachment:
        return Attachment(provider=self.name, addresses=await self.addresses())

    async def detach(self, sandbox_id: str, *, force: bool = False) -> None:
        return None

    async def status(self) -> NetworkStatus:
        return NetworkStatus(ready=True)

    async def set_subnets(self, subnets: Sequence[str]) -> None:
        return None

    async def orphans(self, known: Collection[str]) -> tuple[Orphan, ...]:
        return ()

    async def remove_orphan(self, orphan: Orphan) -> None:
        return None

    async def explain(self, sandbox_id: str, fds: Sequence[int]) -> tuple[Hop, ...]:
        return (Hop("host network", "the node's own", ", ".join(await self.addresses()) or "without an address"),)

    async def teardown(self) -> None:
        return None

    async def addresses(self) -> tuple[str, ...]:
        """The node's primary address, or none if it has none."""
        return await self._thread.run(_read_addresses)


def _read_addresses() -> tuple[str, ...]:
    with open_route_socket() as route:
        return node_addresses(read_host(route))
