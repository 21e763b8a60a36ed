"""The cgroup of a container or of pause, made and removed by steps, under either driver.

Under the systemd driver there is a unit around it, which the path names (``runtime.systemd.names``):
it comes first and goes last. What limits the cgroup is the unit's properties, too, so that systemd
does not write other values over those of a unit's cgroup.

Invariant: both functions may be repeated; under the cgroupfs driver systemd is not asked.
"""

from __future__ import annotations

from collections.abc import Iterable

from cri.host import Host
from runtime.cgroups import tree
from runtime.cgroups.layout import of_waiting
from runtime.cgroups.resources import Resources, Write, plan_writes
from runtime.systemd.names import is_slice, unit_of
from runtime.systemd.properties import plan_properties


async def make_cgroup(
    host: Host, path: str, owner: str, writes: Iterable[Write] = (), *, waiting: bool = False
) -> None:
    """The cgroup with the controllers of ``writes``, without limits but those of its unit, if it has one.

    ``waiting``: for a process that only waits, which is in fewer trees (``layout.of_waiting``).

    Raises:
        HostFault: it cannot be made.
        Unavailable, DeadlineExceeded: systemd does not do it.
    """
    limits = tuple(writes)
    if unit_of(path):
        await host.scopes.make(path, plan_properties(limits, beside=1), f"crisp: {owner}")
    layout = of_waiting(host.layout) if waiting else host.layout
    tree.create(layout, path, owner, {write.controller for write in limits})


async def make_slice(host: Host, path: str, owner: str, limits: Resources | None) -> None:
    """The slice of a pod that has none of kubelet's; what is limited is written to its files by the caller, too.

    Raises: as ``make_cgroup``.
    """
    writes = plan_writes(limits, host.layout).writes if limits else ()
    await host.scopes.make(path, plan_properties(writes), f"crisp: {owner}")


async def change_unit(host: Host, path: str, writes: Iterable[Write]) -> None:
    """Have the unit that the cgroup is of, if it is of one, say what was written to the cgroup.

    Raises:
        Unavailable, DeadlineExceeded, HostFault: systemd does not do it.
    """
    if unit_of(path):
        await host.scopes.change(path, plan_properties(writes, beside=0 if is_slice(path) else 1))


async def remove_cgroup(host: Host, path: str, seconds: float = 5.0) -> None:
    """Remove it, killing what is in it; absent is fine.

    Raises:
        HostFault: it was still busy after ``seconds``, or its unit cannot be stopped.
        Unavailable, DeadlineExceeded: systemd does not do it.
    """
    if not tree.remove(host.layout, path, ours=True):
        await tree.wait_removed(host.layout, path, seconds)
    if unit_of(path):
        await host.scopes.remove(path)
