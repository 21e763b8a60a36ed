"""Senders of UDP that go on from one port, led anew when a host port comes or goes.

The kernel remembers where it has led a flow (connection tracking), and for UDP it does so until
its sender pauses, for 30 to 120 seconds. So what it remembers of a host port is forgotten when the
port is mapped and when it is mapped no more. ``network.conntrack`` has the messages,
``network.wiring`` calls; of a pod without a UDP host port nothing is asked.

Invariant: only flows to an address of this node, or to the pod, are forgotten; a kernel that cannot
keeps no pod from starting or ending.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Collection, Iterable, Iterator, Sequence
from ipaddress import ip_address

from network import conntrack, rtnetlink
from network.conntrack import Flow
from network.elements import Pod
from network.netlink import NETLINK_NETFILTER, NetlinkSocket
from network.ports import is_any, versions_of
from network.provider import PortMapping
from network.rtnetlink import Address
from runtime.errors import HostFault

_STEP = "forget flows of a host port"
_A_BATCH = 64
"""Deletions at once: the socket has room for their acknowledgements."""

_LOG = logging.getLogger("crisp.network")


class UdpFlows:
    """Blocking; of the thread and the namespace that use it first."""

    def __init__(self) -> None:
        self._netfilter: NetlinkSocket | None = None
        self._told = False

    def close(self) -> None:
        if self._netfilter is not None:
            self._netfilter.close()
            self._netfilter = None

    def port_came(self, pod: Pod, route: NetlinkSocket) -> None:
        """What was led elsewhere, to a program of the node say, is the pod's from now on. ``route``: a
        NETLINK_ROUTE socket."""
        mapped = list(_udp(pod))
        if not mapped:
            return
        try:
            own = _own_addresses(route)
        except HostFault as fault:
            return self._tell(fault)
        for target, mappings in mapped:
            flows = [flow for flow in self._flows(target, mappings) if _is_for(flow, mappings, own)]
            self._forget([flow for flow in flows if not _leads_to(flow, target, mappings)])

    def port_went(self, pod: Pod) -> None:
        """What was led to the pod goes where it did before the pod had the port."""
        for target, mappings in _udp(pod):
            self._forget([flow for flow in self._flows(target, mappings) if _leads_to(flow, target, mappings)])

    def _flows(self, target: Address, mappings: Sequence[PortMapping]) -> list[Flow]:
        """To the host ports, and maybe others, in the IP version of ``target``; none where the kernel does not
        tell. It looks at its whole table for each listing (10 ms), so there is one for all ports."""
        port = mappings[0].host_port if len(mappings) == 1 else None
        try:
            if self._netfilter is None:
                self._netfilter = NetlinkSocket.open(NETLINK_NETFILTER)
            listed = self._netfilter.dump(conntrack.plan_list(target.version, port), step=_STEP)
            return conntrack.parse_flows(listed)
        except (HostFault, OSError) as fault:
            self._tell(fault)
            return []

    def _forget(self, flows: Sequence[Flow]) -> None:
        if self._netfilter is None:
            return
        for begin in range(0, len(flows), _A_BATCH):
            messages = [conntrack.plan_delete(flow) for flow in flows[begin : begin + _A_BATCH]]
            try:
                self._netfilter.transact(messages, step=_STEP)
            except HostFault as fault:
                if fault.errno != errno.ENOENT:  # it has ended by itself, and the others were deleted
                    self._tell(fault)

    def _tell(self, fault: Exception) -> None:
        """Once: it would be the same with each pod."""
        if not self._told:
            _LOG.warning("UDP senders are led to where they were, until they pause: %s", fault)
        self._told = True


def _udp(pod: Pod) -> Iterator[tuple[Address, list[PortMapping]]]:
    """Each address of the pod that UDP host ports lead to, with those."""
    for address in map(ip_address, pod.addresses):
        found = [each for each in pod.ports if each.protocol == "udp" and address.version in versions_of(each)]
        if found:
            yield address, found


def _is_for(flow: Flow, mappings: Iterable[PortMapping], own: Collection[Address]) -> bool:
    """Whether it was sent to one of the host ports."""
    return any(
        each.host_port == flow.port and flow.destination in (own if is_any(each) else (ip_address(each.host_ip),))
        for each in mappings
    )


def _leads_to(flow: Flow, target: Address, mappings: Iterable[PortMapping]) -> bool:
    """Whether one of the host ports has led it to the pod."""
    led = ((each.host_port, (target, each.container_port)) for each in mappings)
    return (flow.port, flow.answers_from) in led


def _own_addresses(route: NetlinkSocket) -> set[Address]:
    replies = route.dump(rtnetlink.dump_addresses(), step=_STEP)
    return {rtnetlink.parse_address(reply).interface.ip for reply in replies}
