"""The bridge and its veth pairs, in the kernel: made, found again, removed.

Blocking, for the thread of ``network.netthread``; ``network.bridge`` decides what is
to be done, ``network.rtnetlink`` encodes it.

Invariant: every link made here says from its first moment whose it is, and nothing is
deleted or changed that is not ours.
"""

from __future__ import annotations

import errno
import os
from dataclasses import dataclass

from network import rtnetlink
from network.bridge_port import set_port
from network.hostnet import HostNetworks, belongs_to, check_bridge, links_of_pods
from network.names import POD_INTERFACE, Alias, hardware_address, host_link_name
from network.netlink import NETLINK_ROUTE, NetlinkSocket
from network.routes import PROTOCOL, STEP, RoutePlan, StaticRoute
from network.rtnetlink import RT_SCOPE_UNIVERSE, Address, Interface, Link, Peer
from network.subnet import Pool
from network.sysctls import set_sysctl
from runtime.errors import FailedPrecondition, HostFault

_LOOPBACK = 1
"""The index of lo: it is the first interface of every namespace."""


@dataclass(frozen=True, slots=True)
class PodEnd:
    """What is configured inside a pod: its addresses with prefix, the gateway of each, the MTU."""

    interfaces: tuple[Interface, ...]
    gateways: tuple[Address, ...]
    mtu: int

    @property
    def hardware(self) -> bytes:
        """The MAC address; it follows from the IPv4 address, where there is one."""
        return hardware_address(min(self.interfaces, key=lambda interface: interface.version).ip)


def read_host(route: NetlinkSocket) -> HostNetworks:
    """Links, addresses and routes of the socket's namespace."""
    step = "read the host's networks"
    return HostNetworks(
        links=tuple(map(rtnetlink.parse_link, route.dump(rtnetlink.dump_links(), step=step))),
        addresses=tuple(map(rtnetlink.parse_address, route.dump(rtnetlink.dump_addresses(), step=step))),
        routes=tuple(
            rtnetlink.parse_route(reply)
            for version in (4, 6)
            for reply in route.dump(rtnetlink.dump_routes(version), step=step)
            if reply.body[0] == rtnetlink.FAMILIES[version]  # a kernel without IPv6 lists the others again
        ),
    )


def find_link(route: NetlinkSocket, name: str) -> Link | None:
    """The interface called ``name`` in the socket's namespace, if there is one."""
    try:
        replies = route.transact([rtnetlink.get_link(name)], step="look up the link")
    except HostFault as fault:
        if fault.errno == errno.ENODEV:
            return None
        raise
    return rtnetlink.parse_link(replies[0])


def ensure_bridge(route: NetlinkSocket, host: HostNetworks, name: str, ours: Alias, mtu: int, pools: list[Pool]) -> int:
    """The bridge with each pool's gateway on it, and the index that it has.

    The first pool decides its hardware address. Gateways of other subnets go.

    Raises:
        FailedPrecondition: the name is not ours (``network.hostnet.check_bridge``).
    """
    step = "prepare the bridge"
    link = check_bridge(host, name, ours)
    if link is None:
        hardware = hardware_address(pools[0].gateway)
        route.transact([rtnetlink.new_bridge(name, hardware=hardware, group=ours.group, mtu=mtu)], step=step)
        link = find_link(route, name)
        if link is None:
            raise HostFault("gone at once after it was made", step=step, object=name, call="RTM_GETLINK")
    set_sysctl(f"ipv6/conf/{name}/accept_ra", "0")
    if any(pool.version == 6 for pool in pools):  # hosts may have it off for links that come
        set_sysctl(f"ipv6/conf/{name}/disable_ipv6", "0")
    wanted = {pool.gateway_interface for pool in pools}
    stale = [
        address.interface
        for address in host.addresses
        if address.index == link.index and address.scope == RT_SCOPE_UNIVERSE and address.interface not in wanted
    ]
    messages = [rtnetlink.set_link(name, index=link.index, up=True, alias=ours.encode(), mtu=mtu)]
    messages += [rtnetlink.new_address(link.index, pool.gateway_interface) for pool in pools]
    messages += [rtnetlink.delete_address(link.index, interface) for interface in stale]
    route.transact(messages, step=step)
    return link.index


def restore_ports(route: NetlinkSocket, host: HostNetworks, ours: Alias, bridge: int) -> None:
    """Put this instance's pod links on the bridge that is there now; a new one has no ports."""
    ends = [link for _, link in links_of_pods(host.links, ours) if link.kind == "veth"]
    strays = [link for link in ends if link.master != bridge]
    for link in strays:
        messages = [
            rtnetlink.set_link(link.name, index=link.index, up=True, master=bridge),
            set_port(link.name, index=link.index),
        ]
        try:
            route.transact(messages, step="put the pod's link back on the bridge")
        except HostFault as fault:
            if fault.errno != errno.ENODEV:  # its namespace has just ended
                raise


def create_pair(route: NetlinkSocket, pod: Alias, netns_fd: int, bridge: int, end: PodEnd) -> str:
    """The veth pair of a pod, its host end up, named and on the bridge. Returns that name.

    A pair that a broken-off attempt left under this id is replaced.

    Raises:
        FailedPrecondition: an interface of this name is not ours.
    """
    name, step = host_link_name(pod.subject), "create the veth pair"
    peer = Peer(POD_INTERFACE, end.hardware, netns_fd)
    create = rtnetlink.new_veth(name, peer, group=pod.group, bridge=bridge, mtu=end.mtu)
    try:
        route.transact([create], step=step)
    except HostFault as fault:
        if fault.errno != errno.EEXIST:
            raise
        link = find_link(route, name)
        if link is not None and not belongs_to(link, pod):
            raise FailedPrecondition("the interface exists and is not this pod's", step=step, object=name) from fault
        delete_pod_link(route, pod)
        route.transact([create], step=step)
    # Not in one batch with the creation: after a failed one it would name a stranger's link.
    route.transact([set_port(name, alias=pod.encode())], step=step)
    return name


def configure_pod(netlink_fd: int, end: PodEnd) -> None:
    """lo and eth0 up, the addresses and the default routes; through a socket of the pod's namespace."""
    step = "configure the pod's interface"
    with NetlinkSocket.adopt(os.dup(netlink_fd)) as pod:
        link = find_link(pod, POD_INTERFACE)
        if link is None:
            raise HostFault(
                "not in the pod's namespace", step=step, object=POD_INTERFACE, call="RTM_GETLINK", errno=errno.ENODEV
            )
        messages = [
            rtnetlink.set_link("lo", index=_LOOPBACK, up=True),
            rtnetlink.set_link(POD_INTERFACE, index=link.index, up=True),
            *(rtnetlink.new_address(link.index, interface) for interface in end.interfaces),
            *(rtnetlink.new_default_route(gateway) for gateway in end.gateways),
        ]
        pod.transact(messages, step=step)


def delete_pod_link(route: NetlinkSocket, pod: Alias) -> bool:
    """Delete the pod's pair, if it is there. Waits for the kernel: some 30 ms."""
    return delete_owned(route, host_link_name(pod.subject), pod)


def delete_owned(route: NetlinkSocket, name: str, owner: Alias) -> bool:
    """Delete the link ``name`` if it is ``owner``'s; True if it was there."""
    link = find_link(route, name)
    if link is None or not belongs_to(link, owner):
        return False
    try:
        route.transact([rtnetlink.delete_link(link.name, link.index)], step="delete the link")
    except HostFault as fault:
        if fault.errno != errno.ENODEV:
            raise
        return False
    return True


def apply_routes(route: NetlinkSocket, plan: RoutePlan) -> dict[StaticRoute, HostFault]:
    """Remove and make routes to other nodes; those that the kernel would not make, and why.

    Raises:
        HostFault: one cannot be removed.
    """
    for each in plan.remove:
        try:
            route.transact([rtnetlink.delete_route(each.to, each.via, PROTOCOL)], step=STEP)
        except HostFault as fault:
            if fault.errno != errno.ESRCH:  # it went with its link
                raise
    refused: dict[StaticRoute, HostFault] = {}
    for each in plan.add:
        try:
            route.transact([rtnetlink.new_route(each.to, each.via, PROTOCOL)], step=STEP)
        except HostFault as fault:
            refused[each] = fault
    return refused


def open_route_socket() -> NetlinkSocket:
    return NetlinkSocket.open(NETLINK_ROUTE)
