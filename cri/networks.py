"""Which network pods that come get, and what is owed to the networks of those that were.

``cri.daemon`` prepares and follows the network, ``cri.recovery`` settles what an earlier daemon
or boot has left, RPCs ask. ``Host.provider`` names the provider of pods that come; each pod's
plan names its own, which also takes it back.

Invariant: pods that run keep their network, whatever the configuration becomes.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence

from cri.changed_sysctls import record_sysctls
from cri.host import Host
from cri.plan.sandbox import BRIDGE, CNI
from cri.state.meta import POD_CIDR
from network.errors import NetworkNotReady
from network.provider import NetworkStatus
from runtime.errors import Fault, HostFault, InvalidArgument

LOG = logging.getLogger("crisp.network")


async def prepare(host: Host) -> None:
    """Early, off the path of the first pod; and follow what CNI is configured to from here on.

    What the host cannot give, or not yet, shows in Status, as NetworkReady false.

    Raises:
        FailedPrecondition: the bridge or the subnet is somebody else's.
    """
    selection = host.cni.selection
    if host.settings.network.provider != BRIDGE:
        selection.on_change = lambda: void(host.tasks.spawn("follow the CNI configuration", follow(host)))
        selection.refresh()
    try:
        await host.network[host.provider].prepare()
        await record_sysctls(host)
    except (HostFault, InvalidArgument, NetworkNotReady) as fault:
        LOG.warning("the network is not ready: %s", fault)


async def follow(host: Host) -> None:
    """The CNI configuration has changed: blank pods may be of another network now."""
    reading = host.cni.selection.reading
    network = f"{reading.conf.name!r} of {reading.file}" if reading.conf else f"none: {reading.problem}"
    LOG.info("new pods get the %s network; the CNI network is %s", host.provider, network)
    await host.ready.wait()
    async with host.pool.emptied():
        try:
            if host.provider == BRIDGE:
                await host.network[BRIDGE].set_subnets(current_subnets(host))
                await record_sysctls(host)
            else:
                await host.cni.collect()
        except Fault as fault:
            LOG.warning("the network is not ready: %s", fault)


async def status(host: Host) -> NetworkStatus:
    """Of the network of pods that come."""
    if host.settings.network.provider != BRIDGE:
        host.cni.selection.refresh()
    return await host.network[host.provider].status()


async def set_subnets(host: Host, subnets: Sequence[str]) -> None:
    """Of pods that come; plugins are told them also if CNI is configured later. Raises as
    ``network.provider.Provider``."""
    await host.cni.set_subnets(subnets)
    if host.provider != CNI:
        await host.network[host.provider].set_subnets(subnets)


def current_subnets(host: Host) -> list[str]:
    """kubelet's, else those of the settings."""
    cidr = host.meta.get(POD_CIDR)
    return cidr.split(",") if cidr else list(host.settings.network.subnets)


async def settle(host: Host) -> None:
    """What earlier daemons and boots left with CNI plugins, which may take their time; then GC."""
    if not host.cni.attached():
        return await collect(host)
    ended = [record for record in host.store.sandboxes if record.boot_id != host.boot_id]
    known = {record.id for record in host.store.sandboxes if not record.stopped} | {*host.pods}
    known |= {operation.object_id for operation in host.store.unfinished()}
    orphans = await host.cni.orphans(known)
    tries = [host.cni.detach(record.id) for record in ended]
    tries += [host.cni.remove_orphan(orphan) for orphan in orphans]
    for outcome in await asyncio.gather(*tries, return_exceptions=True):
        if isinstance(outcome, Fault | OSError):
            LOG.warning("%s", outcome)
        elif outcome is not None:
            raise outcome
    await collect(host)


async def collect(host: Host) -> None:
    if host.provider == CNI:
        await host.cni.collect()


def void(_: object) -> None:
    """For a callback whose result nobody wants."""
