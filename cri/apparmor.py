"""Which AppArmor profile a process gets: crisp's own, one that the node has loaded, or none.

``cri.daemon`` has ``crisp-default`` loaded in the background when it starts; what needs it
waits for that. ``runtime.lsm`` knows the kernel's part.

Invariant: what a request names is there, or the request fails; nothing that was asked for
is left out.
"""

from __future__ import annotations

import asyncio
import logging

from cri.plan.security import SecurityContext, plan_apparmor
from cri.tasks import Tasks
from runtime.errors import FailedPrecondition, Fault
from runtime.lsm.apparmor import is_loaded, load_default
from runtime.lsm.apparmor_profile import NAME

LOG = logging.getLogger("crisp.apparmor")


class AppArmorProfiles:
    """``enabled``: the kernel has AppArmor, and it is on."""

    def __init__(self, enabled: bool, tasks: Tasks) -> None:
        self.enabled = enabled
        self._tasks = tasks
        self._loading: asyncio.Task[str] | None = None

    async def profile_of(self, context: SecurityContext) -> str:
        """The name of the profile for a valid request's process, empty for none.

        Raises:
            FailedPrecondition: it is not loaded.
            HostFault: nobody can tell.
        """
        if not self.enabled:
            return ""
        wanted = plan_apparmor(context)
        if wanted.profile == NAME:
            obstacle = await self.load()
            if obstacle and wanted.required:
                raise FailedPrecondition(f"the AppArmor profile is not loaded: {obstacle}", object=NAME)
            return "" if obstacle else NAME
        if wanted.profile and not await asyncio.to_thread(is_loaded, wanted.profile):
            raise FailedPrecondition("there is no such AppArmor profile loaded", object=wanted.profile)
        return wanted.profile

    async def load(self) -> str:
        """Load ``crisp-default``, once; why that cannot be, or empty."""
        if not self.enabled:
            return "the kernel has no AppArmor"
        if self._loading is None:
            self._loading = self._tasks.spawn("load the AppArmor profile", self._load())
        return await asyncio.shield(self._loading)

    async def _load(self) -> str:
        try:
            await asyncio.to_thread(load_default)
        except Fault as fault:
            LOG.warning("containers that ask for no AppArmor profile run without one: %s", fault)
            return str(fault)
        return ""
