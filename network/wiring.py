"""The kernel's side of the built-in bridge: prepare it, wire a pod to it, look after it.

Blocking, one instance a daemon, used in the thread of ``network.netthread`` alone.
``network.bridge`` is the asynchronous side that knows leases and settings.

Invariant: ``prepare`` refuses before it changes anything, and leaves no bridge behind
that it made and then found to collide.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address

from network import device
from network.hostnet import HostNetworks, check_bridge, check_subnet, links_of_pods, uplink_mtu
from network.names import POD_INTERFACE, Alias, check_link_name
from network.netlink import NetlinkSocket
from network.nft import Table
from network.provider import Attachment
from network.rtnetlink import Link
from network.subnet import Pool
from runtime.errors import FailedPrecondition, Fault

_LOG = logging.getLogger("crisp.network")
_COMMENT = "pod "


@dataclass(frozen=True, slots=True)
class Prepared:
    """The bridge that pods are attached to: its link's index and MTU, and new pods' pool."""

    pool: Pool
    bridge: int
    mtu: int


@dataclass(frozen=True, slots=True)
class Survey:
    """This instance's objects in the kernel: links with their sandbox ids ('' where a kill came
    before the alias), and sandbox ids by element."""

    links: tuple[tuple[str, Link], ...]
    elements: dict[str, str]


class Wiring:
    """See the module. The sockets are opened at the first use, by the thread that uses them."""

    def __init__(self, instance: str, root: str, bridge: str, *, nft_path: str | None = None) -> None:
        """``root`` is the real path of the instance's root directory.

        Raises:
            InvalidArgument: ``bridge`` is no interface name.
        """
        self._alias = Alias(instance, root)
        self._bridge = check_link_name(bridge)
        self._nft_path = nft_path
        self._route_socket: NetlinkSocket | None = None
        self._nft_table: Table | None = None
        self.changes: tuple[device.SysctlChange, ...] = ()
        """The sysctls that ``prepare`` found otherwise, each once."""

    @property
    def _route(self) -> NetlinkSocket:
        if self._route_socket is None:
            self._route_socket = device.open_route_socket()
        return self._route_socket

    @property
    def _table(self) -> Table:
        if self._nft_table is None:
            path = self._nft_path
            self._nft_table = Table(self._alias.instance) if path is None else Table(self._alias.instance, path=path)
        return self._nft_table

    def close(self) -> None:
        if self._route_socket is not None:
            self._route_socket.close()
        if self._nft_table is not None:
            self._nft_table.close()
        self._route_socket = self._nft_table = None

    def prepare(self, pool: Pool, older: Sequence[Pool], pods: Sequence[tuple[str, str]]) -> Prepared:
        """Table, forwarding and bridge for ``pool`` and for the ``older`` ones that pods still
        use; ``pods`` are their (address, sandbox id) pairs. Idempotent.

        Raises:
            FailedPrecondition: bridge or subnet belong to somebody else.
            HostFault: the kernel or ``nft`` refuse.
        """
        host = device.read_host(self._route)
        existed = check_bridge(host, self._bridge, self._alias) is not None
        check_subnet(host, pool.network, self._bridge, self._alias)
        pools = [pool, *older]
        self._table.ensure([each.network for each in pools])
        self._note(device.set_sysctl("ipv4/ip_forward", "1"))
        mtu = uplink_mtu(host)
        index = device.ensure_bridge(self._route, host, self._bridge, self._alias, mtu, pools)
        self._check_again(pool, existed)
        device.restore_ports(self._route, host, self._alias, index)
        self._table.add([_element(address, sandbox_id) for address, sandbox_id in pods])
        return Prepared(pool, index, mtu)

    def _check_again(self, pool: Pool, existed: bool) -> None:
        """Two instances that start at once both find the subnet free; the look after it tells."""
        try:
            check_subnet(device.read_host(self._route), pool.network, self._bridge, self._alias)
        except FailedPrecondition:
            if not existed:
                device.delete_owned(self._route, self._bridge, self._alias)
            raise

    def _note(self, change: device.SysctlChange | None) -> None:
        if change is not None and change.name not in {known.name for known in self.changes}:
            self.changes += (change,)
            _LOG.info("set the sysctl %s to %s (was %s)", change.name, change.after, change.before)

    def wire(self, prepared: Prepared, sandbox_id: str, address: str, fds: Sequence[int]) -> Attachment:
        """Give the pod its interface, address, route and set element. ``fds``: the pod's network
        namespace and a NETLINK_ROUTE socket in it, borrowed."""
        netns_fd, netlink_fd = fds
        end = device.PodEnd(prepared.pool.interface(address), prepared.pool.gateway, prepared.mtu)
        name = device.create_pair(self._route, self._pod(sandbox_id), netns_fd, prepared.bridge, end)
        device.configure_pod(netlink_fd, end)
        self._table.add([_element(address, sandbox_id)])
        return Attachment(
            provider="bridge",
            addresses=(address,),
            gateway=str(end.gateway),
            interface=POD_INTERFACE,
            host_interface=name,
            mtu=end.mtu,
        )

    def unwire(self, addresses: Sequence[str]) -> None:
        """Remove the pod's set elements; the link goes with its namespace."""
        for address in addresses:
            self._table.discard(IPv4Address(address))

    def drop_link(self, sandbox_id: str) -> bool:
        """Delete the pod's link if it is there still."""
        return device.delete_pod_link(self._route, self._pod(sandbox_id))

    def drop_lingering_link(self, sandbox_id: str) -> None:
        """The same in the background, where a failure has nobody to tell but the log."""
        try:
            if self.drop_link(sandbox_id):
                _LOG.warning("deleted the link of sandbox %s: something keeps its namespace", sandbox_id)
        except Fault as fault:
            _LOG.warning("the link of sandbox %s stays: %s", sandbox_id, fault)

    def problem(self, prepared: Prepared) -> str:
        """What is missing of what ``prepare`` made, in words; '' if nothing is."""
        link = device.find_link(self._route, self._bridge)
        if link is None or link.index != prepared.bridge:
            return f"the bridge {self._bridge} was removed"
        if not link.up:
            return f"the bridge {self._bridge} is down"
        if not self._table.exists():
            return f"the nftables table {self._table.name} was removed"
        return ""

    def survey(self) -> Survey:
        host: HostNetworks = device.read_host(self._route)
        comments = self._table.elements() or {}
        elements = {address: comment.removeprefix(_COMMENT) for address, comment in comments.items()}
        return Survey(tuple(links_of_pods(host.links, self._alias)), elements)

    def drop_orphan_link(self, name: str, sandbox_id: str) -> None:
        device.delete_owned(self._route, name, self._pod(sandbox_id))

    def teardown(self) -> None:
        """Remove bridge and table. Forwarding stays on: others may rely on it by now."""
        device.delete_owned(self._route, self._bridge, self._alias)
        self._table.delete()

    def _pod(self, sandbox_id: str) -> Alias:
        return Alias(self._alias.instance, sandbox_id)


def _element(address: str, sandbox_id: str) -> tuple[IPv4Address, str]:
    return IPv4Address(address), f"{_COMMENT}{sandbox_id}"
