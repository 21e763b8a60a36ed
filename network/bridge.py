"""The built-in provider: one bridge a daemon, a veth pair and an address lease or two a pod.

The asynchronous side: leases, settings and the order of things. ``network.wiring`` does
the blocking part in the net thread, a ``LeaseStore``, a ``PortStore`` and a
``RouteStore`` of ``cri.state`` remember.

Invariant: a pod's set elements are gone before its leases are released, and a released
address rests for longer than its old link can live on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Collection, Sequence
from dataclasses import dataclass
from ipaddress import ip_network

from network.bandwidth import Bandwidth
from network.bridge_path import plan_expected, plan_path
from network.elements import Pod
from network.errors import NetworkNotReady
from network.holdings import Holdings
from network.lease import REST_SECONDS, Leases, LeaseStore
from network.netthread import NetThread
from network.other_nodes import OtherNodes
from network.ports import HostPorts, PortStore, refuse_loopback, refuse_versions
from network.provider import Attachment, AttachRequest, Hop, NetworkStatus, Orphan, OrphanKind, PortMapping
from network.routes import RouteStore, StaticRoute
from network.shaping_path import plan_limits
from network.subnet import Pool, parse_subnets, refuse_overlaps
from network.sysctls import SysctlChange
from network.wiring import Prepared, Wiring
from runtime.errors import FailedPrecondition, Fault, HostFault

DEFAULT_BRIDGE = "crisp0"
DEFAULT_SUBNETS = ("10.85.0.0/16",)
LINGER_SECONDS = 1.0
"""How long after detach a link may stay before we delete it. The kernel takes up to 0.1 s to
remove it with its namespace; deleting it ourselves waits for RCU."""

_NO_SUBNET = "no pod subnet yet: kubelet sends one, or [network] subnets names one"


@dataclass(frozen=True, slots=True, kw_only=True)
class BridgeSettings:
    """``instance`` is the daemon's 8 hex digits, ``root`` the real path of its root directory.

    ``forward_rule``: whether chains of others that drop what they do not know get rules for pods.
    ``host_ports`` are what pods may use of the node, None for everything. ``loopback_ports``:
    whether host ports are reached through 127.0.0.1, too. ``routes`` lead to other nodes' pods.
    ``rest`` (s) is how long released addresses rest, ``linger`` (s) see LINGER_SECONDS.
    """

    instance: str
    root: str
    bridge: str = DEFAULT_BRIDGE
    subnets: tuple[str, ...] = DEFAULT_SUBNETS
    forward_rule: bool = False
    host_ports: tuple[tuple[str, int], ...] | None = None
    loopback_ports: bool = True
    routes: tuple[StaticRoute, ...] = ()
    rest: float = REST_SECONDS
    linger: float = LINGER_SECONDS
    nft_path: str | None = None


class BridgeProvider:
    """A ``network.provider.Provider``; of one event loop."""

    name = "bridge"

    def __init__(
        self, settings: BridgeSettings, store: LeaseStore, ports: PortStore, routes: RouteStore, thread: NetThread
    ) -> None:
        """Touches nothing on the host.

        Raises:
            InvalidArgument: the bridge's name or a subnet.
        """
        self._settings = settings
        self._thread = thread
        self._leases = Leases(store, rest=settings.rest)
        self._ports = HostPorts(ports)
        self._wiring = Wiring(
            settings.instance,
            settings.root,
            settings.bridge,
            loopback=settings.loopback_ports,
            host_ports=settings.host_ports,
            forward_rule=settings.forward_rule,
            elsewhere=tuple(route.to for route in settings.routes),
            nft_path=settings.nft_path,
        )
        self._other_nodes = OtherNodes(settings.routes, routes, thread, self._wiring)
        self._pools = parse_subnets(settings.subnets)
        self._prepared: Prepared | None = None
        self._preparing = asyncio.Lock()
        self._departures: dict[str, asyncio.TimerHandle] = {}

    @property
    def sysctl_changes(self) -> tuple[SysctlChange, ...]:
        """What this daemon changed in the host's settings."""
        return self._wiring.changes

    async def prepare(self) -> None:
        """See ``Provider.prepare``. Without a subnet there is nothing to prepare."""
        await self._renew(self._prepared)

    async def _renew(self, old: Prepared | None) -> Prepared | None:
        """Prepare again in place of ``old``; who waited while another did so takes its result."""
        async with self._preparing:
            if self._prepared is old and self._pools:
                self._prepared = None
                self._prepared = await self._prepare(self._pools)
            return self._prepared

    async def set_subnets(self, subnets: Sequence[str]) -> None:
        pools = parse_subnets(subnets)
        async with self._preparing:
            # Where it fails, the next attach or status puts the old subnets' gateway back.
            self._prepared = None
            prepared = await self._prepare(pools) if pools else None
            self._pools, self._prepared = pools, prepared

    async def _prepare(self, pools: Sequence[Pool]) -> Prepared:
        holdings = await self._holdings()
        names = {lease.pool for lease in holdings.leases} - {pool.name for pool in pools}
        older = [Pool(ip_network(name)) for name in sorted(names)]
        refuse_overlaps(pools, older)
        await self._other_nodes.clear([pool.network for pool in (*pools, *older)])
        prepared = await self._thread.run(self._wiring.prepare, pools, older, holdings.pods())
        await self._other_nodes.settle()
        return prepared

    async def _holdings(self) -> Holdings:
        return Holdings(await self._leases.held(), await self._ports.claims())

    @contextlib.asynccontextmanager
    async def reserve(self, sandbox_id: str, port_mappings: Sequence[PortMapping]) -> AsyncIterator[None]:
        self._check_ports(port_mappings)
        async with self._ports.reserve(sandbox_id, port_mappings):
            yield

    def _check_ports(self, mappings: Sequence[PortMapping]) -> None:
        refuse_versions(mappings, {pool.version for pool in self._pools})
        refuse_loopback(mappings, allowed=self._settings.loopback_ports)

    async def attach(self, request: AttachRequest) -> Attachment:
        """See ``Provider``. Repeated for the same sandbox it makes the pair anew, with the same address.

        Raises:
            NetworkNotReady: no subnet has come yet, or pods of an earlier one that overlaps are still there.
            ResourceExhausted: the pool is used up.
            FailedPrecondition: another pod has a host port, or pods here cannot have it.
            FailedPrecondition, HostFault: see ``prepare``; or the kernel's refusal.
        """
        prepared = await self._ready()
        self._forget_departure(request.sandbox_id)
        self._check_ports(request.port_mappings)
        ports = await self._ports.claim(request.sandbox_id, request.port_mappings)
        pod = Pod(request.sandbox_id, await self._lease(prepared.pools, request.sandbox_id), ports)
        try:
            return await self._wire(prepared, request, pod)
        except HostFault:
            if not await self._thread.run(self._wiring.problem, prepared):
                raise
        # Somebody removed the bridge or flushed all tables; the pods of before get theirs back too.
        renewed = await self._renew(prepared)
        return await self._wire(renewed or prepared, request, pod)

    async def _lease(self, pools: Sequence[Pool], sandbox_id: str) -> tuple[str, ...]:
        """An address of each pool, where it can be in the same place in both: the MAC address follows
        from the IPv4 one, and a neighbour that remembers it for the IPv6 one stays right as well."""
        first = min(pools, key=lambda pool: pool.version)
        leased = {first: await self._leases.acquire(first, sandbox_id)}
        for pool in pools:
            if pool != first:
                leased[pool] = await self._leases.acquire(pool, sandbox_id, pool.twin(leased[first], first))
        return tuple(leased[pool] for pool in pools)

    async def _ready(self) -> Prepared:
        prepared = self._prepared or await self._renew(None)
        if prepared is None:
            raise NetworkNotReady(_NO_SUBNET, reason="NoPodSubnet", step="attach the pod to the network")
        return prepared

    async def _wire(self, prepared: Prepared, request: AttachRequest, pod: Pod) -> Attachment:
        fds = (request.netns_fd, request.netlink_fd)
        return await self._thread.run_with_fds(fds, lambda copies: self._wiring.wire(prepared, pod, copies))

    async def limit(self, sandbox_id: str, bandwidth: Bandwidth) -> None:
        """Keep a pod that was attached to these rates. May be repeated; ``unlimit`` is owed before ``detach``.

        Raises:
            FailedPrecondition, HostFault: see ``network.shaping.limit``.
        """
        await self._thread.run(self._wiring.limit, sandbox_id, bandwidth)

    async def unlimit(self, sandbox_id: str) -> None:
        """Take that back, as far as it does not go with the pod's link. Idempotent."""
        await self._thread.run(self._wiring.unlimit, sandbox_id)

    async def detach(self, sandbox_id: str, *, force: bool = False) -> None:
        held = await self._leases.held_by(sandbox_id)
        for pod in Holdings(held, await self._ports.claims()).pods():
            await self._thread.run(self._wiring.unwire, pod)
        if force:
            self._forget_departure(sandbox_id)
            await self._thread.run(self._wiring.drop_link, sandbox_id)
        else:
            self._expect_departure(sandbox_id)
        await self._ports.release(sandbox_id)
        if held:
            await self._leases.release(sandbox_id)

    def _expect_departure(self, sandbox_id: str) -> None:
        self._forget_departure(sandbox_id)
        loop = asyncio.get_running_loop()
        self._departures[sandbox_id] = loop.call_later(self._settings.linger, self._end_departure, sandbox_id)

    def _end_departure(self, sandbox_id: str) -> None:
        self._departures.pop(sandbox_id, None)
        self._thread.submit(self._wiring.drop_lingering_link, sandbox_id)

    def _forget_departure(self, sandbox_id: str) -> None:
        timer = self._departures.pop(sandbox_id, None)
        if timer is not None:
            timer.cancel()

    async def status(self) -> NetworkStatus:
        if not self._pools:
            return NetworkStatus(False, "NoPodSubnet", _NO_SUBNET)
        prepared = self._prepared
        try:
            missing = await self._thread.run(self._wiring.problem, prepared) if prepared else "everything"
            if missing:
                await self._renew(prepared)
            notes = await self._thread.run(self._wiring.notes) + await self._other_nodes.notes()
        except Fault as fault:
            return NetworkStatus(False, "NetworkNotPrepared", str(fault))
        return NetworkStatus(True, message="; ".join(notes))

    async def orphans(self, known: Collection[str]) -> tuple[Orphan, ...]:
        holdings = await self._holdings()
        departing = set(self._departures)  # whose second ends while the thread looks is deleted right after
        survey = await self._thread.run(self._wiring.survey)
        return holdings.find_orphans(known, survey, departing.union(self._departures))

    async def remove_orphan(self, orphan: Orphan) -> None:
        if orphan.kind is OrphanKind.LINK:
            await self._thread.run(self._wiring.drop_orphan_link, orphan.name, orphan.owner)
        elif orphan.kind is OrphanKind.ELEMENT:
            await self._thread.run(self._wiring.drop_orphan_element, orphan.name, orphan.owner)
        elif orphan.kind is OrphanKind.HOST_PORT:
            await self._ports.release(orphan.owner)
        else:
            await self._leases.release(orphan.owner)

    async def explain(self, sandbox_id: str, fds: Sequence[int]) -> tuple[Hop, ...]:
        held, claims = await self._leases.held_by(sandbox_id), await self._ports.claims()
        ports, own = claims.get(sandbox_id, ()), self._settings
        names, loopback = (own.instance, own.bridge), own.loopback_ports
        expected = plan_expected(sandbox_id, held, ports, names, own.routes, loopback=loopback)
        seen = await self._thread.run_with_fds(fds, lambda copies: self._wiring.look(expected, copies))
        return plan_path(expected, seen)

    async def explain_limits(self, sandbox_id: str, bandwidth: Bandwidth) -> tuple[Hop, ...]:
        """What there is of the limits that a pod was given. Raises HostFault."""
        return plan_limits(sandbox_id, bandwidth, await self._thread.run(self._wiring.look_at_limits, sandbox_id))

    async def teardown(self) -> None:
        held = await self._leases.held()
        if held:
            raise FailedPrecondition(
                f"{len(held)} pods still have addresses", step="remove the bridge", object=self._settings.bridge
            )
        async with self._preparing:
            self._prepared = None
            await self._other_nodes.remove()
            await self._thread.run(self._wiring.teardown)

    async def close(self) -> None:
        """Let go of sockets and timers; pods and bridge stay. The thread is the caller's.

        A link of a pod that has just gone, nobody looks for any more: it is deleted, if it is there still.
        """
        for sandbox_id in list(self._departures):
            self._forget_departure(sandbox_id)
            with contextlib.suppress(Fault):  # the next start looks for what belongs to nobody
                await self._thread.run(self._wiring.drop_link, sandbox_id)
        await self._thread.run(self._wiring.close)
