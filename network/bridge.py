"""The built-in provider: one bridge a daemon, one address lease and veth pair a pod.

The asynchronous side: leases, settings and the order of things. ``network.wiring`` does
the blocking part in the net thread, a ``LeaseStore`` of ``cri.state`` remembers.

Invariant: a pod's set element is gone before its lease is released, and a released
address rests for longer than its old link can live on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Network

from network.device import SysctlChange
from network.errors import NetworkNotReady
from network.lease import REST_SECONDS, Lease, Leases, LeaseStore
from network.names import host_link_name
from network.netthread import NetThread
from network.provider import Attachment, AttachRequest, NetworkStatus, Orphan, OrphanKind
from network.subnet import Pool, parse_subnets
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

    ``rest`` (s) is how long released addresses rest, ``linger`` (s) see LINGER_SECONDS.
    """

    instance: str
    root: str
    bridge: str = DEFAULT_BRIDGE
    subnets: tuple[str, ...] = DEFAULT_SUBNETS
    rest: float = REST_SECONDS
    linger: float = LINGER_SECONDS
    nft_path: str | None = None


class BridgeProvider:
    """A ``network.provider.Provider``; of one event loop."""

    name = "bridge"

    def __init__(self, settings: BridgeSettings, store: LeaseStore, thread: NetThread) -> None:
        """Touches nothing on the host.

        Raises:
            InvalidArgument: the bridge's name or a subnet.
        """
        self._settings = settings
        self._thread = thread
        self._leases = Leases(store, rest=settings.rest)
        self._wiring = Wiring(settings.instance, settings.root, settings.bridge, nft_path=settings.nft_path)
        self._subnets = parse_subnets(settings.subnets)
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
            if self._prepared is old and self._subnets.pool is not None:
                self._prepared = None
                self._prepared = await self._prepare(self._subnets.pool)
            return self._prepared

    async def set_subnets(self, subnets: Sequence[str]) -> None:
        parsed = parse_subnets(subnets)
        async with self._preparing:
            # Where it fails, the next attach or status puts the old subnets' gateway back.
            self._prepared = None
            prepared = await self._prepare(parsed.pool) if parsed.pool is not None else None
            self._subnets, self._prepared = parsed, prepared

    async def _prepare(self, pool: Pool) -> Prepared:
        held = await self._leases.held()
        older = {lease.pool for lease in held} - {pool.name}
        pools = [Pool(IPv4Network(name)) for name in sorted(older)]
        pods = [(lease.address, lease.owner) for lease in held]
        return await self._thread.run(self._wiring.prepare, pool, pools, pods)

    async def attach(self, request: AttachRequest) -> Attachment:
        """See ``Provider``. Repeated for the same sandbox it makes the pair anew, with the same address.

        Raises:
            NetworkNotReady: no subnet has come yet.
            ResourceExhausted: the pool is used up.
            FailedPrecondition, HostFault: see ``prepare``; or the kernel's refusal.
        """
        prepared = await self._ready()
        self._forget_departure(request.sandbox_id)
        address = await self._leases.acquire(prepared.pool, request.sandbox_id)
        try:
            return await self._wire(prepared, request, address)
        except HostFault:
            if not await self._thread.run(self._wiring.problem, prepared):
                raise
        # Somebody removed the bridge or flushed all tables; the pods of before get theirs back too.
        renewed = await self._renew(prepared)
        return await self._wire(renewed or prepared, request, address)

    async def _ready(self) -> Prepared:
        prepared = self._prepared or await self._renew(None)
        if prepared is None:
            raise NetworkNotReady(_NO_SUBNET, reason="NoPodSubnet", step="attach the pod to the network")
        return prepared

    async def _wire(self, prepared: Prepared, request: AttachRequest, address: str) -> Attachment:
        fds = (request.netns_fd, request.netlink_fd)
        return await self._thread.run_with_fds(
            fds, lambda copies: self._wiring.wire(prepared, request.sandbox_id, address, copies)
        )

    async def detach(self, sandbox_id: str, *, force: bool = False) -> None:
        held = await self._leases.held_by(sandbox_id)
        if held:
            await self._thread.run(self._wiring.unwire, [lease.address for lease in held])
        if force:
            self._forget_departure(sandbox_id)
            await self._thread.run(self._wiring.drop_link, sandbox_id)
        else:
            self._expect_departure(sandbox_id)
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
        if self._subnets.pool is None:
            return NetworkStatus(False, "NoPodSubnet", "; ".join((_NO_SUBNET, *self._subnets.notes)))
        prepared = self._prepared
        try:
            missing = await self._thread.run(self._wiring.problem, prepared) if prepared else "everything"
            if missing:
                await self._renew(prepared)
        except Fault as fault:
            return NetworkStatus(False, "NetworkNotPrepared", str(fault))
        return NetworkStatus(True, message="; ".join(self._subnets.notes))

    async def orphans(self, known: Collection[str]) -> tuple[Orphan, ...]:
        held = await self._leases.held()
        survey = await self._thread.run(self._wiring.survey)
        rightful = {lease.address for lease in held if lease.owner in known}
        expected = {host_link_name(sandbox_id) for sandbox_id in known}
        links = [
            Orphan(OrphanKind.LINK, link.name, owner)
            for owner, link in survey.links
            if owner not in known and owner not in self._departures and link.name not in expected
        ]
        elements = [
            Orphan(OrphanKind.ELEMENT, address, owner)
            for address, owner in survey.elements.items()
            if address not in rightful
        ]
        return (*links, *elements, *_orphaned(held, known))

    async def remove_orphan(self, orphan: Orphan) -> None:
        if orphan.kind is OrphanKind.LINK:
            await self._thread.run(self._wiring.drop_orphan_link, orphan.name, orphan.owner)
        elif orphan.kind is OrphanKind.ELEMENT:
            await self._thread.run(self._wiring.unwire, [orphan.name])
        else:
            await self._leases.release(orphan.owner)

    async def teardown(self) -> None:
        held = await self._leases.held()
        if held:
            raise FailedPrecondition(
                f"{len(held)} pods still have addresses", step="remove the bridge", object=self._settings.bridge
            )
        async with self._preparing:
            self._prepared = None
            await self._thread.run(self._wiring.teardown)

    async def close(self) -> None:
        """Let go of sockets and timers; pods and bridge stay. The thread is the caller's."""
        for sandbox_id in list(self._departures):
            self._forget_departure(sandbox_id)
        await self._thread.run(self._wiring.close)


def _orphaned(held: Sequence[Lease], known: Collection[str]) -> list[Orphan]:
    return [Orphan(OrphanKind.LEASE, lease.address, lease.owner) for lease in held if lease.owner not in known]
