"""The step of a pod's birth that keeps its traffic to the rates that it asks for.

``cri.steps.sandbox`` plans it, for pods that ask and that the built-in bridge has attached.

Invariant: it comes after the pod's link and before any container, so nothing of the pod's
ever runs without its limits.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from network.bandwidth import Bandwidth

if TYPE_CHECKING:
    from cri.host import Host


class LimitBandwidth(msgspec.Struct, frozen=True, tag="limit_bandwidth"):
    """Token buckets at the host's end of the pod's link. What is behind that link goes with it; the
    link of its own through which the pod sends does not, and is what undo removes."""

    sandbox: str
    bandwidth: Bandwidth
    name = "limit_bandwidth"

    def describe(self) -> str:
        rates = {"receives": self.bandwidth.ingress, "sends": self.bandwidth.egress}
        words = " and ".join(f"{verb} {rate} bit/s" for verb, rate in rates.items() if rate)
        return f"limit the pod's bandwidth: it {words} at most"

    async def apply(self, host: Host) -> None:
        await host.bridge.limit(self.sandbox, self.bandwidth)

    async def undo(self, host: Host) -> None:
        if self.bandwidth.egress:
            await host.bridge.unlimit(self.sandbox)
