"""Pods whose bandwidth is limited, measured on real sockets, and what a limit leaves behind."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import Any

import pytest

from network.bandwidth import Bandwidth
from network.provider import OrphanKind
from tests.kernel.network.nodes import DUAL, ONE, TWO, Node, ask_briefly
from tests.kernel.network.talk import FAMILIES, SECONDS, ask, end, let_speak_at_once, listen, pick
from tests.rates import LACKING, measure

RATES = pytest.mark.skipif(bool(LACKING), reason=LACKING)
TEN = 10_000_000
"""Bits a second."""


def _connected(client: Any, address: str, server: Any) -> tuple[socket.socket, socket.socket]:
    """Both ends of a TCP connection from ``client`` to ``server``, which has ``address``."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with server.open_socket(family) as listener:
        listener.settimeout(SECONDS)
        listener.bind(("", 0))
        listener.listen()
        near = client.open_socket(family)
        near.settimeout(SECONDS)
        near.connect((address, listener.getsockname()[1]))
        far, _ = listener.accept()
        far.setblocking(True)
        near.setblocking(True)
    return near, far


@RATES
@FAMILIES
@pytest.mark.parametrize("direction", ["receives", "sends"])
def test_a_limited_pod_keeps_to_ten_mbit_a_second(run_node: Callable[..., None], direction: str, family: int) -> None:
    """Within 20 %, of what is left of the rate by headers; from the node, and to it."""

    async def test(node: Node) -> None:
        let_speak_at_once(node.host)
        pod, attachment = await node.attach(ONE)
        await node.provider.limit(ONE, Bandwidth(TEN, TEN))
        address = pick(attachment.addresses, family)
        near, far = _connected(node.host, address, pod)
        ends = (near, far) if direction == "receives" else (far, near)
        assert 8 <= await asyncio.to_thread(measure, *ends, 8) <= 12
        await node.provider.unlimit(ONE)

    run_node(test, DUAL)


@RATES
def test_a_rate_of_one_direction_leaves_the_other_and_other_pods_alone(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        (one, first), (two, second) = await node.attach(ONE), await node.attach(TWO)
        await node.provider.limit(ONE, Bandwidth(egress=TEN))
        assert 8 <= await asyncio.to_thread(measure, *_connected(one, second.addresses[0], two), 8) <= 12
        assert await asyncio.to_thread(measure, *_connected(two, first.addresses[0], one), 60) >= 60
        await node.provider.unlimit(ONE)

    run_node(test)


@RATES
def test_a_pod_whose_limit_somebody_removed_sends_nothing_until_it_is_limited_again(
    run_node: Callable[..., None],
) -> None:
    async def test(node: Node) -> None:
        pod, attachment = await node.attach(ONE)
        await node.provider.limit(ONE, Bandwidth(egress=TEN))
        server = listen(node.host)
        try:
            assert ask(pod, attachment.gateway, server) == attachment.addresses[0]
            node.host.ip("link", "delete", "cre1a1a1a1a1a1a")
            with pytest.raises(TimeoutError):
                ask_briefly(pod, attachment.gateway, server, socket.SOCK_STREAM)
            await node.provider.limit(ONE, Bandwidth(egress=TEN))
            assert ask(pod, attachment.gateway, server) == attachment.addresses[0]
        finally:
            end(server)
            await node.provider.unlimit(ONE)

    run_node(test)


@RATES
def test_what_limits_a_pod_is_taken_back_and_its_link_found_where_it_was_not(run_node: Callable[..., None]) -> None:
    async def test(node: Node) -> None:
        for sandbox_id in (ONE, TWO):
            await node.attach(sandbox_id)
            await node.provider.limit(sandbox_id, Bandwidth(TEN, TEN))
        assert await node.provider.orphans([ONE, TWO]) == ()
        await node.provider.detach(TWO, force=True)
        (orphan,) = await node.provider.orphans([ONE])
        assert (orphan.kind, orphan.name, orphan.owner) == (OrphanKind.LINK, "cre2b2b2b2b2b2b", TWO)
        for _ in range(2):
            await node.provider.remove_orphan(orphan)
        assert await node.provider.orphans([ONE]) == ()
        for _ in range(2):
            await node.provider.unlimit(ONE)
        assert not [name for name in node.names() if name.startswith("cre")] and node.links() == 1

    run_node(test)
