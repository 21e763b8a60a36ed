"""The compiled seccomp programs that this daemon hands to monitors, by capabilities.

``runtime.seccomp`` plans, compiles and caches; this remembers the answer so that a
request finds it without a look at the disk.

Invariant: a path that is returned is a file that exists and was compiled for
exactly these capabilities on this kernel.
"""

from __future__ import annotations

import logging
import os
import platform
import re
from collections.abc import Sequence
from pathlib import Path

from runtime.seccomp.cache import ensure
from runtime.seccomp.profile import plan_profile

LOG = logging.getLogger("crisp.seccomp")


def kernel_version(release: str) -> tuple[int, int]:
    """(6, 1) of ``6.1.0-42-amd64``; (0, 0) of what does not begin like that."""
    found = re.match(r"(\d+)\.(\d+)", release, re.ASCII)
    return (int(found[1]), int(found[2])) if found else (0, 0)


class Profiles:
    """``folder`` is ``<root>/cache/seccomp``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._known: dict[frozenset[str], str] = {}

    def path(self, capabilities: Sequence[str]) -> str:
        """The program of RuntimeDefault for a bounding set (names with ``CAP_``).

        Raises:
            HostFault: libseccomp fails.
            FailedPrecondition: there is no profile for this machine.
        """
        key = frozenset(capabilities)
        found = self._known.get(key)
        if found is None or not os.path.exists(found):
            kernel = kernel_version(os.uname().release)
            cached = ensure(str(self._folder), plan_profile(key, platform.machine(), kernel))
            for note in cached.notes:
                LOG.info("seccomp profile: %s", note)
            found = self._known[key] = cached.path
        return found
