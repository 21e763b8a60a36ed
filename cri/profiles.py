"""The compiled seccomp programs that this daemon hands to monitors.

``runtime.seccomp`` plans, compiles and caches; this remembers the answer so that a
request finds it without a look into the disk's files.

Invariant: a path that is returned is a file that exists and was compiled for exactly
these capabilities on this kernel, or for exactly this profile.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import re
from collections.abc import Hashable, Sequence
from pathlib import Path
from typing import NamedTuple

from cri.plan.container import ContainerPlan
from cri.plan.sandbox import PausePlan
from cri.plan.security import RUNTIME_DEFAULT
from runtime.errors import HostFault
from runtime.seccomp.cache import Cached, ensure, ensure_profile
from runtime.seccomp.document import parse_profile
from runtime.seccomp.localhost import flag_bits, resolve_profile
from runtime.seccomp.profile import plan_profile
from runtime.spec import Seccomp

LOG = logging.getLogger("crisp.seccomp")

KNOWN = 256
"""Programs whose paths are remembered."""


class Program(NamedTuple):
    """A filter: the file of its program, None for unconfined, and the flags to load it with."""

    path: str | None
    flags: int = 0


UNCONFINED = Program(None)


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 1) of ``6.1.0-42-amd64``; (0, 0) of what does not begin like that."""
    found = re.match(r"(\d+)\.(\d+)", release, re.ASCII)
    return (int(found[1]), int(found[2])) if found else (0, 0)


class Profiles:
    """``folder`` is ``<root>/cache/seccomp``."""

    def __init__(self, folder: Path) -> None:
        self._folder = str(folder)
        self._known: dict[Hashable, str] = {}
        self._arch, self._kernel = platform.machine(), kernel_version(os.uname().release)

    def of_container(self, plan: ContainerPlan) -> Program:
        """The filter of all processes of a container; what it costs the first time is milliseconds.

        Raises:
            HostFault, FailedPrecondition: as ``default`` and ``localhost``.
        """
        bounding = plan.spec["process"]["capabilities"]["bounding"]
        return self._program(plan.seccomp, bounding, plan.spec["linux"].get("seccomp"))

    def of_pause(self, plan: PausePlan) -> Program:
        """As ``of_container``, of pause, which has no capabilities."""
        return self._program(plan.seccomp, (), plan.profile)

    def default(self, capabilities: Sequence[str]) -> Program:
        """RuntimeDefault for a bounding set (names with ``CAP_``).

        Raises:
            HostFault: libseccomp fails.
            FailedPrecondition: there is no profile for this machine.
        """
        key = frozenset(capabilities)
        known = self._find(key)
        if known is None:
            known = self._keep(key, ensure(self._folder, plan_profile(key, self._arch, self._kernel)))
        return Program(known)

    def localhost(self, profile: Seccomp) -> Program:
        """What a container has got of a profile of the node's.

        Raises:
            HostFault: libseccomp fails.
            FailedPrecondition: the kernel takes no program as long as this one.
        """
        key = hashlib.sha256(json.dumps(profile, sort_keys=True).encode()).digest()
        known = self._find(key)
        if known is None:
            known = self._keep(key, ensure_profile(self._folder, profile))
        return Program(known, flag_bits(profile))

    def read(self, data: bytes, what: str, capabilities: Sequence[str]) -> Seccomp:
        """What a container with these capabilities gets of the profile ``data``, compiled already;
        ``what`` names it in errors. Takes milliseconds.

        Raises:
            ResourceExhausted, FailedPrecondition, HostFault: as ``parse_profile`` and ``localhost``.
        """
        profile = resolve_profile(parse_profile(data, what), capabilities, self._arch, self._kernel)
        self.localhost(profile)
        return profile

    def _program(self, kind: str | None, capabilities: Sequence[str], profile: Seccomp | None) -> Program:
        if kind is None:
            return UNCONFINED
        if kind == RUNTIME_DEFAULT:
            return self.default(capabilities)
        if profile is None:
            raise HostFault("the plan has no such profile", step="find the seccomp program", object=kind)
        return self.localhost(profile)

    def _find(self, key: Hashable) -> str | None:
        path = self._known.get(key)
        return path if path is not None and os.path.exists(path) else None

    def _keep(self, key: Hashable, cached: Cached) -> str:
        for note in cached.notes:
            LOG.info("seccomp profile: %s", note)
        if len(self._known) >= KNOWN:
            self._known.pop(next(iter(self._known)), None)
        self._known[key] = cached.path
        return cached.path
