"""Looks at what is on a packet's path: a pod's namespace, and the ports of bridges.

Blocking, for the thread of ``network.netthread``; ``network.wiring`` and ``network.cni.provider``
have it look, pure functions say what it means.

Invariant: nothing is changed, and a namespace is looked at through a socket that was opened in it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from network import device, rtnetlink
from network.bridge_port import Port, parse_port
from network.hostnet import HostNetworks
from network.netlink import NetlinkSocket


def read_inside(fds: Sequence[int]) -> HostNetworks | None:
    """The pod's namespace, through a NETLINK_ROUTE socket of it, the first of ``fds``, which is borrowed;
    None without one.

    Raises:
        HostFault: the kernel refuses.
    """
    if not fds:
        return None
    with NetlinkSocket.adopt(os.dup(fds[0])) as inside:
        return device.read_host(inside)


def read_ports(route: NetlinkSocket) -> dict[int, Port]:
    """The ports of all bridges, by the index of their links. Raises HostFault."""
    replies = route.dump(rtnetlink.dump_links(), step="read the bridge's ports")
    return {port.index: port for reply in replies if (port := parse_port(reply)) is not None}
