"""Who reaches whom and as whom: every way, over IPv4 and IPv6, TCP and UDP, with each provider.

The network is made once for all ways of a row; a server answers with the address that it sees.
"""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from network.cni.provider import CniProvider, CniSettings
from network.lease import MemoryLeaseStore
from network.netthread import NetThread
from network.ports import MemoryPortStore
from network.provider import PortMapping
from tests import reference_cni
from tests.kernel.network.nodes import (
    DUAL,
    NODE_ADDRESSES,
    ONE,
    OUTSIDE,
    TWO,
    Node,
    ask_briefly,
    providing,
    reach_outside,
    set_bridge_filter,
)
from tests.kernel.network.talk import FAMILIES, KINDS, ask, end, let_speak_at_once, listen, pick

BUILT_IN, FILTERED, CNI = "built-in", "built-in, bridged frames filtered", "CNI bridge and portmap"
PORT = 8080
REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Way:
    """``asks`` is who talks to whom (``serves``) ``at`` which address; ``seen`` is as whom. With ``by_port`` it
    is a host port that leads to the pod. A way is of some ``families`` and ``kinds`` of sockets."""

    asks: str
    at: str
    serves: str
    seen: str
    by_port: bool = False
    families: tuple[int, ...] = (socket.AF_INET, socket.AF_INET6)
    kinds: tuple[int, ...] = (socket.SOCK_STREAM, socket.SOCK_DGRAM)


WAYS = {
    "from pod to pod": Way("other", at="pod", serves="pod", seen="other"),
    "from a pod to itself": Way("pod", at="pod", serves="pod", seen="pod"),
    "from the pod to the host": Way("pod", at="gateway", serves="host", seen="pod"),
    "from the pod to the host's own address": Way(
        "pod", at="host", serves="host", seen="pod", kinds=(socket.SOCK_STREAM,)
    ),  # a server of datagrams that is bound to no address answers from the nearest
    "from the host to the pod": Way("host", at="pod", serves="pod", seen="gateway"),
    "from the pod beyond a router": Way("pod", at="outside", serves="outside", seen="host"),
    "host port, from outside": Way("outside", at="host", serves="pod", seen="outside", by_port=True),
    "host port, from the host": Way("host", at="host", serves="pod", seen="host", by_port=True),
    "host port, from the pod itself": Way("pod", at="host", serves="pod", seen="gateway", by_port=True),
    "host port, from another pod": Way("other", at="host", serves="pod", seen="gateway", by_port=True),
    "host port, through the loopback": Way(
        "host", at="loopback", serves="pod", seen="gateway", by_port=True, families=(socket.AF_INET,)
    ),
    "host port, through ::1": Way(
        "host", at="loopback", serves="pod", seen=REFUSED, by_port=True, families=(socket.AF_INET6,)
    ),
}
"""Whoever is answered through the node keeps his address; who would be answered past it does not."""


@asynccontextmanager
async def node_of(which: str, host: Any, make_netns: Callable[[], Any], folder: Path) -> AsyncIterator[Node]:
    """Inside of ``host``: where the loop is, plugins are."""
    set_bridge_filter(host, "1" if which == FILTERED else "0")
    if which != CNI:
        async with providing(host, DUAL, MemoryLeaseStore(), MemoryPortStore()) as provider:
            yield Node(host, provider, make_netns)
        return
    (folder / "net.d").mkdir()
    (folder / "net.d" / "10-ref.conflist").write_text(json.dumps(reference_cni.conflist(folder, DUAL.subnets)))
    settings = CniSettings(conf_dir=str(folder / "net.d"), bin_dir=reference_cni.PLUGINS, root=folder)
    thread = NetThread(host.enter)
    plugins: Any = CniProvider(settings, thread, refuse_debts)
    plugins.selection.refresh()
    try:
        yield Node(host, plugins, make_netns)
        assert reference_cni.leases(folder) == []
    finally:
        plugins.close()
        thread.close()


def refuse_debts(_name: str, work: Coroutine[Any, Any, None]) -> None:
    work.close()
    pytest.fail("a DEL has failed three times")


@FAMILIES
@KINDS
@pytest.mark.parametrize("which", [BUILT_IN, FILTERED, CNI])
def test_everyone_is_reached_by_every_way_as_long_as_the_pod_is_attached(
    host: Any, make_netns: Callable[[], Any], tmp_path: Path, which: str, kind: int, family: int
) -> None:
    """The outside host knows no way to the pods' subnet: without masquerade nothing comes back."""
    if which == CNI and reference_cni.missing():
        pytest.skip(reference_cni.missing())

    async def main() -> None:
        async with asyncio.timeout(120), node_of(which, host, make_netns, tmp_path) as node:
            # What is for ::1 the plugin sends on its way to the pod, and the kernel takes it from there.
            beside = {"host port, through ::1"} if which == CNI else set()
            await go_all_ways(node, {name: way for name, way in WAYS.items() if name not in beside}, kind, family)

    host.do(lambda: asyncio.run(main()))


def test_a_port_of_sctp_is_a_rule_of_portmap_as_the_others_are(
    host: Any, make_netns: Callable[[], Any], tmp_path: Path
) -> None:
    if reference_cni.missing():
        pytest.skip(reference_cni.missing())

    async def main() -> None:
        async with asyncio.timeout(120), node_of(CNI, host, make_netns, tmp_path) as node:
            await node.attach(ONE, None, PortMapping("sctp", 9899, 80, ""))
            rules = [line for line in host.run("iptables-save").stdout.splitlines() if "sctp" in line]
            assert [line for line in rules if "9899" in line] and [line for line in rules if "10.91.0.2:80" in line]
            await node.provider.detach(ONE)
            assert "sctp" not in host.run("iptables-save").stdout

    host.do(lambda: asyncio.run(main()))


async def go_all_ways(node: Node, table: dict[str, Way], kind: int, family: int) -> None:
    let_speak_at_once(node.host)
    _, outside = reach_outside(node)
    pod, other = node.make_netns(), node.make_netns()
    for each in (pod, other):
        let_speak_at_once(each)
    places = {"pod": pod, "other": other, "host": node.host, "outside": outside}
    servers = {name: listen(places[name], kind, family) for name in ("pod", "host", "outside")}
    try:
        protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
        mapping = PortMapping(protocol, PORT, servers["pod"].getsockname()[1], "")
        (_, one), (_, two) = await node.attach(ONE, pod, mapping), await node.attach(TWO, other)
        pairs = {"pod": one.addresses, "other": two.addresses, "host": NODE_ADDRESSES, "outside": OUTSIDE}
        pairs |= {"gateway": ("10.91.0.1", "fd00:91::1"), "loopback": ("127.0.0.1", "::1")}
        addresses = {name: pick(pair, family) for name, pair in pairs.items()} | {REFUSED: REFUSED}
        assert (one.gateway, one.interface) == ("10.91.0.1", "eth0")
        ways = {name: way for name, way in table.items() if family in way.families and kind in way.kinds}
        seen = {name: go(way, places, addresses, servers, kind) for name, way in ways.items()}
        assert seen == {name: addresses[way.seen] for name, way in ways.items()}
        await node.provider.detach(ONE)
        with pytest.raises(OSError):
            ask_briefly(pod, addresses["outside"], servers["outside"], kind)
        with pytest.raises(ConnectionRefusedError):
            ask(outside, addresses["host"], servers["pod"], kind, PORT)
        await node.provider.detach(TWO)
    finally:
        for server in servers.values():
            end(server)


def go(
    way: Way, places: dict[str, Any], addresses: dict[str, str], servers: dict[str, socket.socket], kind: int
) -> str:
    try:
        return ask(places[way.asks], addresses[way.at], servers[way.serves], kind, PORT if way.by_port else 0)
    except ConnectionRefusedError:
        return REFUSED
    except TimeoutError:
        return "no answer"
