"""The profiles that a request names, found before anything is done for it.

``cri.rpc.sandbox_run`` and ``container_create`` ask after validation; ``cri.profile_files`` has
seccomp, ``cri.apparmor`` AppArmor.

Invariant: reads only, but for compiled programs in the cache.
"""

from __future__ import annotations

from collections.abc import Sequence

from cri.host import Host
from cri.plan.security import Confinement, SecurityContext
from cri.profile_files import read_profile


async def confine(host: Host, context: SecurityContext, capabilities: Sequence[str]) -> Confinement:
    """What a process with these capabilities (its bounding set) gets.

    Raises:
        Fault: as ``read_profile`` and ``AppArmorProfiles.profile_of``.
    """
    return Confinement(
        seccomp=await read_profile(context, host.profiles, capabilities),
        apparmor=await host.apparmor.profile_of(context),
    )
