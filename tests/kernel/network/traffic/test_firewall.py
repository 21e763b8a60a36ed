"""What pods may use of the node, and what tables of others leave to them."""

from __future__ import annotations

import socket
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from network.provider import NetworkStatus
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
from tests.kernel.network.talk import FAMILIES, ask, end, listen, pick

FOREIGN = """
table inet wall {
    chain passing { type filter hook forward priority 10; policy drop; }
}
"""


def test_a_pod_never_reaches_what_the_node_serves_on_its_loopback_alone(run_node: Callable[..., None]) -> None:
    """With route_localnet its packets to 127.0.0.1 would be taken from the bridge (CVE-2020-8558)."""

    async def test(node: Node) -> None:
        pod, _ = await node.attach(ONE)
        pod.run("sysctl", "-q", "-w", "net.ipv4.conf.all.route_localnet=1")
        pod.ip("address", "delete", "127.0.0.1/8", "dev", "lo")
        pod.ip("route", "add", "127.0.0.0/8", "via", "10.91.0.1", "dev", "eth0", "src", "10.91.0.2")
        server = listen(node.host)
        try:
            assert node.host.run("nft", "flush", "chain", "inet", "crisp_0badcafe", "guard").returncode == 0
            assert ask(pod, "127.0.0.1", server) == "10.91.0.2"
            await node.provider.prepare()
            with pytest.raises(TimeoutError):
                ask_briefly(pod, "127.0.0.1", server, socket.SOCK_STREAM)
        finally:
            end(server)

    run_node(test)


@FAMILIES
def test_with_deny_a_pod_uses_of_the_node_what_is_listed_and_the_node_uses_pods(
    run_node: Callable[..., None], make_netns: Callable[[], Any], host: Any, family: int
) -> None:
    listed, other = listen(host, family=family), listen(host, family=family)

    async def test(node: Node) -> None:
        _, outside = reach_outside(node)
        pod, attachment = await node.attach(ONE)
        gateway, here = (pick(pair, family) for pair in (("10.91.0.1", "fd00:91::1"), attachment.addresses))
        in_pod, beyond = listen(pod, family=family), listen(outside, family=family)
        try:
            assert ask(pod, gateway, listed) == here
            assert ask(node.host, here, in_pod) == gateway
            assert ask(pod, pick(OUTSIDE, family), beyond) == pick(NODE_ADDRESSES, family)
            with pytest.raises(TimeoutError):
                ask_briefly(pod, gateway, other, socket.SOCK_STREAM)
        finally:
            end(in_pod)
            end(beyond)

    try:
        run_node(test, replace(DUAL, host_ports=(("tcp", listed.getsockname()[1]),)))
    finally:
        end(listed)
        end(other)


@FAMILIES
def test_a_foreign_chain_that_drops_is_explained_and_opened_where_the_settings_say_so(
    run_node: Callable[..., None], host: Any, make_netns: Callable[[], Any], family: int
) -> None:
    assert host.run("nft", FOREIGN).returncode == 0
    beyond, reached = pick(OUTSIDE, family), []

    async def shut(node: Node) -> None:
        reached.append(reach_outside(node)[1])
        pod, _ = await node.attach(ONE)
        server = listen(reached[0], family=family)
        try:
            with pytest.raises(TimeoutError):
                ask_briefly(pod, beyond, server, socket.SOCK_STREAM)
        finally:
            end(server)
        status = await node.provider.status()
        assert status.ready and "the chain inet wall passing drops what none of its rules accepts" in status.message
        await node.provider.detach(ONE, force=True)

    async def opened(node: Node) -> None:
        pod, _ = await node.attach(TWO)
        server = listen(reached[0], family=family)
        try:
            assert ask(pod, beyond, server) == pick(NODE_ADDRESSES, family)
        finally:
            end(server)
        assert await node.provider.status() == NetworkStatus(True)
        await node.provider.detach(TWO, force=True)
        await node.provider.teardown()
        assert "crt0" not in node.host.run("nft", "list", "ruleset").stdout

    run_node(shut, DUAL)
    run_node(opened, replace(DUAL, forward_rule=True))
