"""Pods of the node's own network."""

from __future__ import annotations

import asyncio
import time
from typing import Any

from network.host import HostNetwork
from network.netthread import NetThread
from network.provider import AttachRequest, Hop, NetworkStatus, Orphan, OrphanKind


def test_a_host_network_pod_has_the_nodes_address_and_changes_nothing(host: Any) -> None:
    host.ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
    host.ip("address", "add", "172.20.0.5/24", "dev", "up0")
    host.ip("link", "set", "up1", "up")
    host.ip("link", "set", "up0", "up")
    host.ip("route", "add", "default", "via", "172.20.0.1")
    while "state UP" not in host.ip("link", "show", "up0") or "state UP" not in host.ip("link", "show", "up1"):
        time.sleep(0.01)  # the kernel notices a moment later that both ends are there
    before = host.ip("-4", "address"), host.ip("route")
    thread = NetThread(host.enter)

    async def cycle() -> None:
        provider = HostNetwork(thread)
        await provider.prepare()
        await provider.set_subnets(["10.0.0.0/8"])
        attachment = await provider.attach(AttachRequest(sandbox_id="ab" * 32, netns_fd=-1, netlink_fd=-1))
        assert attachment.provider == "host"
        assert attachment.addresses == ("172.20.0.5",)
        assert attachment.interface == attachment.host_interface == ""
        assert await provider.status() == NetworkStatus(True)
        assert await provider.explain("ab" * 32, ()) == (Hop("host network", "the node's own", "172.20.0.5"),)
        assert await provider.orphans([]) == ()
        await provider.remove_orphan(Orphan(OrphanKind.LINK, "up0", "ab" * 32))
        await provider.detach("ab" * 32, force=True)
        await provider.teardown()

    try:
        asyncio.run(cycle())
    finally:
        thread.close()
    assert (host.ip("-4", "address"), host.ip("route")) == before


def test_a_node_without_addresses_has_none_to_report(host: Any) -> None:
    thread = NetThread(host.enter)
    try:
        assert asyncio.run(HostNetwork(thread).addresses()) == ()
    finally:
        thread.close()
