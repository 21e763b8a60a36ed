"""Which of an index's images runs on this host.

``manifest`` hands the candidates over; ``config`` has the platform that an image
says it is for.

Invariant: an image for another system or architecture is never chosen.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from runtime.errors import NotFound

_ARCHITECTURES = {
    "x86_64": "amd64",
    "i386": "386",
    "i686": "386",
    "aarch64": "arm64",
    "armv8l": "arm",
    "armv7l": "arm",
    "armv6l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
    "riscv64": "riscv64",
    "loongarch64": "loong64",
    "mips64": "mips64le",
}
_VARIANTS = {"armv8l": "v8", "armv7l": "v7", "armv6l": "v6", "aarch64": "v8"}
_RUNNABLE = {"amd64": ("v1",), "arm64": ("v8",), "arm": ("v8", "v7", "v6", "v5")}


@dataclass(frozen=True, slots=True)
class Platform:
    """As the OCI image index writes it; ``variant`` may be empty."""

    os: str
    architecture: str
    variant: str = ""

    def __str__(self) -> str:
        return "/".join(part for part in (self.os, self.architecture, self.variant) if part)


def host_platform(machine: str = "") -> Platform:
    """The platform of ``machine`` (as uname says it; this host's by default)."""
    machine = machine or os.uname().machine
    return Platform("linux", _ARCHITECTURES.get(machine, machine), _VARIANTS.get(machine, ""))


def rank(candidate: Platform, host: Platform) -> int | None:
    """How well ``candidate`` runs on ``host``: 0 is best, None not at all.

    Source: the compatibility rules of containerd/platforms (a host runs the
    variants below its own; an absent variant is the architecture's base).
    """
    if (candidate.os, candidate.architecture) != (host.os, host.architecture):
        return None
    if candidate.variant == host.variant:
        return 0
    runnable = _RUNNABLE.get(host.architecture, ())
    if host.variant in runnable:
        runnable = runnable[runnable.index(host.variant) :]
    if not candidate.variant:
        return 1
    return 2 + runnable.index(candidate.variant) if candidate.variant in runnable else None


def choose(candidates: Sequence[Platform | None], host: Platform, what: str) -> int:
    """The position of the best candidate; one without a platform serves as the last resort.

    Raises:
        NotFound: none runs on this host; ``what`` names the index.
    """
    ranked = [
        (99 if candidate is None else found, position)
        for position, candidate in enumerate(candidates)
        if (found := 99 if candidate is None else rank(candidate, host)) is not None
    ]
    if not ranked:
        offered = ", ".join(sorted({str(candidate) for candidate in candidates if candidate})) or "nothing"
        raise NotFound(f"no image for {host}, it offers {offered[:300]}", step="choose platform", object=what)
    return min(ranked)[1]
