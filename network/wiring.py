"""The kernel's side of the built-in bridge: prepare it, wire a pod to it, look after it.

Blocking, one instance a daemon, used in the thread of ``network.netthread`` alone.
``network.bridge`` is the asynchronous side that knows leases and settings.

Invariant: ``prepare`` refuses before it changes anything, and leaves no bridge behind
that it made and then found to collide.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace

from network import device, rtnetlink, shaping, shaping_path
from network.bandwidth import Bandwidth
from network.bridge_path import Expected, Seen
from network.elements import Pod, plan_elements
from network.forward_rules import ForwardRules
from network.holdings import Survey
from network.hostnet import HostNetworks, check_bridge, check_subnet, links_of_pods, listening_links, uplink_mtu
from network.names import POD_INTERFACE, Alias, check_link_name
from network.netlink import NetlinkSocket
from network.nft import Table
from network.nft_table import Rules
from network.path_view import read_inside, read_ports
from network.provider import Attachment
from network.routes import RoutePlan, StaticRoute, plan_routes
from network.rtnetlink import Network, parse_address
from network.subnet import Pool
from network.sysctls import SysctlChange, dotted, enable_forwarding, plan_sysctls, read_sysctl, set_sysctl
from network.udp_flows import UdpFlows
from runtime.errors import FailedPrecondition, Fault, HostFault

_LOG = logging.getLogger("crisp.network")


@dataclass(frozen=True, slots=True)
class Prepared:
    """The bridge that pods are attached to: its link's index and MTU, and new pods' pools."""

    pools: tuple[Pool, ...]
    bridge: int
    mtu: int


class Wiring:
    """See the module. The sockets are opened at the first use, by the thread that uses them."""

    def __init__(
        self,
        instance: str,
        root: str,
        bridge: str,
        *,
        loopback: bool = True,
        host_ports: tuple[tuple[str, int], ...] | None = None,
        forward_rule: bool = False,
        elsewhere: tuple[Network, ...] = (),
        nft_path: str | None = None,
    ) -> None:
        """``root`` is the real path of the instance's root directory; for ``forward_rule``
        see ``network.forward_rules``, for the rest ``nft_table.Rules``.

        Raises:
            InvalidArgument: ``bridge`` is no interface name.
        """
        self._alias = Alias(instance, root)
        self._bridge = check_link_name(bridge)
        self._rules = Rules(self._bridge, loopback=loopback, host_ports=host_ports, elsewhere=elsewhere)
        self._forward_rules = ForwardRules(bridge, wanted=forward_rule)
        self._versions: frozenset[int] = frozenset()
        self._nft_path = nft_path
        self._route_socket: NetlinkSocket | None = None
        self._nft_table: Table | None = None
        self._flows = UdpFlows()
        self.changes: tuple[SysctlChange, ...] = ()
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
        self._flows.close()
        self._route_socket = self._nft_table = None

    def prepare(self, pools: Sequence[Pool], older: Sequence[Pool], pods: Sequence[Pod]) -> Prepared:
        """Table, forwarding and bridge for ``pools`` and for the ``older`` ones that ``pods``, who are
        there already, still use. Idempotent.

        Raises:
            FailedPrecondition: bridge or subnet belong to somebody else.
            HostFault: the kernel or ``nft`` refuse.
        """
        host = device.read_host(self._route)
        existed = check_bridge(host, self._bridge, self._alias) is not None
        self._check_subnets(host, pools)
        everyones = [*pools, *older]
        versions = {pool.version for pool in everyones}
        stood = self._table.exists()
        self._table.ensure(replace(self._rules, subnets=tuple(pool.network for pool in everyones)))
        self._note(enable_forwarding(versions, listening_links(host)))
        mtu = uplink_mtu(host, versions)
        index = device.ensure_bridge(self._route, host, self._bridge, self._alias, mtu, everyones)
        set_sysctl(f"ipv4/conf/{self._bridge}/route_localnet", str(int(self._rules.loopback)))
        self._check_again(pools, existed)
        device.restore_ports(self._route, host, self._alias, index)
        self._table.add([element for pod in pods for element in plan_elements(pod)])
        for pod in () if stood else pods:  # while there was none, UDP senders were led elsewhere
            self._flows.port_came(pod, self._route)
        self._versions = frozenset(versions)
        self._forward_rules.settle(self._table, self._versions)
        return Prepared(tuple(pools), index, mtu)

    def plan_routes(
        self, wanted: Sequence[StaticRoute], recorded: Sequence[StaticRoute], subnets: Sequence[Network]
    ) -> RoutePlan:
        """See ``network.routes``."""
        return plan_routes(device.read_host(self._route), wanted, recorded, subnets, self._bridge)

    def apply_routes(self, plan: RoutePlan) -> dict[StaticRoute, HostFault]:
        """See ``network.device``. Raises HostFault."""
        return device.apply_routes(self._route, plan)

    def notes(self) -> tuple[str, ...]:
        """What others do that keeps pods from the outside, in words."""
        return self._forward_rules.notes(self._table, self._versions)

    def _check_subnets(self, host: HostNetworks, pools: Sequence[Pool]) -> None:
        for pool in pools:
            check_subnet(host, pool.network, self._bridge, self._alias)

    def _check_again(self, pools: Sequence[Pool], existed: bool) -> None:
        """Two instances that start at once both find the subnet free; the look after it tells."""
        try:
            self._check_subnets(device.read_host(self._route), pools)
        except FailedPrecondition:
            if not existed:
                device.delete_owned(self._route, self._bridge, self._alias)
            raise

    def _note(self, changes: Sequence[SysctlChange]) -> None:
        known = {change.name for change in self.changes}
        for change in changes:
            if change.name not in known:
                self.changes += (change,)
                _LOG.info("set the sysctl %s to %s (was %s)", change.name, change.after, change.before)

    def wire(self, prepared: Prepared, pod: Pod, fds: Sequence[int]) -> Attachment:
        """Give the pod its interface, addresses (in the order of the pools), routes and set elements.
        ``fds``: the pod's network namespace and a NETLINK_ROUTE socket in it, borrowed."""
        netns_fd, netlink_fd = fds
        end = device.PodEnd(
            tuple(pool.interface(address) for pool, address in zip(prepared.pools, pod.addresses, strict=True)),
            tuple(pool.gateway for pool in prepared.pools),
            prepared.mtu,
        )
        name = device.create_pair(self._route, self._pod(pod.sandbox_id), netns_fd, prepared.bridge, end)
        device.configure_pod(netlink_fd, end)
        self._table.add(plan_elements(pod))
        self._flows.port_came(pod, self._route)
        return Attachment(
            provider="bridge",
            addresses=pod.addresses,
            gateway=str(end.gateways[0]),
            interface=POD_INTERFACE,
            host_interface=name,
            mtu=end.mtu,
        )

    def unwire(self, pod: Pod) -> None:
        """Remove the pod's set elements; the link goes with its namespace."""
        self._table.discard(plan_elements(pod))
        self._flows.port_went(pod)

    def limit(self, sandbox_id: str, bandwidth: Bandwidth) -> None:
        """See ``network.shaping``; the pod is wired."""
        shaping.limit(self._route, self._pod(sandbox_id), bandwidth)

    def unlimit(self, sandbox_id: str) -> None:
        shaping.unlimit(self._route, self._pod(sandbox_id))

    def look_at_limits(self, sandbox_id: str) -> shaping_path.Seen:
        return shaping.look(self._route, sandbox_id)

    def drop_orphan_element(self, name: str, sandbox_id: str) -> None:
        """Remove what a survey has found, by what it is called and who it says it belongs to."""
        found = self._table.elements() or ()
        self._table.discard([each for each in found if (each.describe(), each.owner) == (name, sandbox_id)])

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
        return self._lost_gateway(prepared) or self._lost_sysctl()

    def _lost_gateway(self, prepared: Prepared) -> str:
        replies = self._route.dump(rtnetlink.dump_addresses(), step="read the bridge's addresses")
        found = {address.interface for reply in replies if (address := parse_address(reply)).index == prepared.bridge}
        lost = [str(gateway) for pool in prepared.pools if (gateway := pool.gateway_interface) not in found]
        return f"the address {lost[0]} was taken from the bridge {self._bridge}" if lost else ""

    def _lost_sysctl(self) -> str:
        needed = plan_sysctls(self._versions, self._bridge, self._rules.loopback)
        lost = [f"{dotted(name)} is no longer {value}" for name, value in needed.items() if read_sysctl(name) != value]
        return f"the sysctl {lost[0]}" if lost else ""

    def survey(self) -> Survey:
        host: HostNetworks = device.read_host(self._route)
        return Survey(tuple(links_of_pods(host.links, self._alias)), tuple(self._table.elements() or ()))

    def look(self, expected: Expected, fds: Sequence[int]) -> Seen:
        """What there is of a pod's path. ``fds``: a NETLINK_ROUTE socket of its namespace, borrowed, or nothing."""
        sets = {element.set for element in plan_elements(expected.pod)}
        listed = [element for name in sorted(sets) for element in self._table.listed(name) or ()]
        return Seen(
            inside=read_inside(fds),
            host=device.read_host(self._route),
            ports=read_ports(self._route),
            elements={element.identity: element for element in listed},
            sysctls={name: read_sysctl(name) for name in expected.sysctls},
            notes=self.notes(),
        )

    def drop_orphan_link(self, name: str, sandbox_id: str) -> None:
        device.delete_owned(self._route, name, self._pod(sandbox_id))

    def teardown(self) -> None:
        """Remove bridge and table. Forwarding stays on: others may rely on it by now."""
        self._forward_rules.remove(self._table)
        device.delete_owned(self._route, self._bridge, self._alias)
        self._table.delete()

    def _pod(self, sandbox_id: str) -> Alias:
        return Alias(self._alias.instance, sandbox_id)
