"""Who reaches whom, and as whom."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.kernel.network.nodes import (
    DUAL,
    NODE_ADDRESSES,
    ONE,
    OUTSIDE,
    TWO,
    Node,
    ask_briefly,
    reach_outside,
)
from tests.kernel.network.talk import FAMILIES, KINDS, ask, end, listen, pick


@FAMILIES
@KINDS
def test_pods_reach_each_other_and_the_host_both_ways_with_their_own_addresses(
    run_node: Callable[..., None], kind: int, family: int
) -> None:
    async def test(node: Node) -> None:
        (one, first), (two, second) = await node.attach(ONE), await node.attach(TWO)
        assert first.addresses == ("10.91.0.2", "fd00:91::2") and second.addresses == ("10.91.0.3", "fd00:91::3")
        assert (first.gateway, first.interface, first.host_interface) == ("10.91.0.1", "eth0", "crp1a1a1a1a1a1a")
        gateway, here, there = (
            pick(pair, family) for pair in (("10.91.0.1", "fd00:91::1"), first.addresses, second.addresses)
        )
        in_pod, on_host = listen(two, kind, family), listen(node.host, kind, family)
        try:
            assert ask(one, there, in_pod, kind) == here
            assert ask(two, there, in_pod, kind) == there
            assert ask(node.host, there, in_pod, kind) == gateway
            assert ask(one, gateway, on_host, kind) == here
        finally:
            end(in_pod)
            end(on_host)

    run_node(test, DUAL)


@FAMILIES
@KINDS
def test_beyond_a_router_a_pod_has_the_nodes_address(run_node: Callable[..., None], kind: int, family: int) -> None:
    """The outside host knows no way to the pods' subnet: without masquerade nothing comes back."""

    async def test(node: Node) -> None:
        _, outside = reach_outside(node)
        pod, _ = await node.attach(ONE)
        server = listen(outside, kind, family)
        beyond, seen = (pick(pair, family) for pair in (OUTSIDE, NODE_ADDRESSES))
        try:
            assert ask(pod, beyond, server, kind) == seen
            await node.provider.detach(ONE)
            with pytest.raises(OSError):
                ask_briefly(pod, beyond, server, kind)
        finally:
            end(server)

    run_node(test, DUAL)
