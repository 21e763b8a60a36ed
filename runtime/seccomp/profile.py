"""Seccomp rules as data, and the RuntimeDefault profile for one container.

``table`` has the names, ``compile`` makes a BPF program of the rules, ``cache``
keeps it. Everything here is pure.

Invariant: the same capabilities, architecture and kernel give equal rules, so that
one compiled program serves all such containers.
"""

from __future__ import annotations

import errno
import functools
from collections.abc import Iterable
from dataclasses import dataclass

from runtime.errors import FailedPrecondition
from runtime.linux.libseccomp import ACT_ALLOW, act_errno
from runtime.seccomp import table

ARCHES = {"x86_64": ("x86_64", "x86", "x32"), "aarch64": ("aarch64", "arm")}
"""By machine (uname -m): what its kernel can execute."""

NEWEST_NAMED = -1
"""See ``Rules.newest``."""


@dataclass(frozen=True, slots=True)
class Arg:
    """A comparison of the call's argument ``index`` with ``value``, 64 bits wide and unsigned.
    ``op`` is NE, LT, LE, EQ, GE, GT or MASKED_EQ (``value`` the mask, ``value_two`` the result)."""

    index: int
    op: str
    value: int
    value_two: int = 0


@dataclass(frozen=True, slots=True)
class Rule:
    """``action`` (SECCOMP_RET_*) for each of ``names`` when all of ``args`` hold."""

    names: tuple[str, ...]
    action: int
    args: tuple[Arg, ...] = ()


@dataclass(frozen=True, slots=True)
class Rules:
    """A whole profile: ``default`` is the action where no rule matches. A call above number
    ``newest`` answers ENOSYS (0: it gets the default like any other; NEWEST_NAMED: above all
    that the rules and ``named``, names without a rule, are about)."""

    default: int
    arches: tuple[str, ...]
    rules: tuple[Rule, ...]
    newest: int = 0
    named: tuple[str, ...] = ()


def plan_profile(capabilities: Iterable[str], arch: str, kernel: tuple[int, int]) -> Rules:
    """RuntimeDefault for a container.

    Args:
        capabilities: its bounding set, with the ``CAP_`` prefix.
        arch: the machine as uname(2) has it.
        kernel: the kernel's version, (6, 1).

    Raises:
        FailedPrecondition: there is no profile for ``arch``.
    """
    if arch not in ARCHES:
        message = f"there is no default profile for {arch}, only for {', '.join(ARCHES)}"
        raise FailedPrecondition(message, step="plan the seccomp profile")
    return _plan(frozenset(capabilities), arch, kernel)


@functools.lru_cache(maxsize=64)
def _plan(held: frozenset[str], arch: str, kernel: tuple[int, int]) -> Rules:
    """Hundreds of names to sort, and nearly always for the same few sets of capabilities."""
    names = {*table.ALLOWED, *table.ALLOWED_BY_ARCH[arch]}
    for capability in held:
        names.update(table.ALLOWED_BY_CAPABILITY.get(capability, ()))
    for version, since in table.ALLOWED_SINCE.items():
        names.update(since if kernel >= version else ())
    rules = [Rule(tuple(sorted(names)), ACT_ALLOW), *_sockets(), *_personalities()]
    if "CAP_SYS_ADMIN" not in held:
        rules += _clones()
    return Rules(act_errno(errno.EPERM), ARCHES[arch], tuple(rules), table.NEWEST)


def _sockets() -> list[Rule]:
    """Every address family but AF_ALG and AF_VSOCK, listed: the kernel reads 32 bits of the
    family, a comparison 64, so "anything but 38" would let 2^32 + 38 through."""
    families = [family for family in range(table.AF_ALG + 1, table.AF_LAST + 1) if family != table.AF_VSOCK]
    below = Rule(("socket",), ACT_ALLOW, (Arg(0, "LT", table.AF_ALG),))
    return [below, *(Rule(("socket",), ACT_ALLOW, (Arg(0, "EQ", family),)) for family in families)]


def _personalities() -> list[Rule]:
    return [Rule(("personality",), ACT_ALLOW, (Arg(0, "EQ", value),)) for value in table.PERSONALITIES]


def _clones() -> list[Rule]:
    """Threads and processes, but no namespaces. clone3 has its flags in memory where no filter
    sees them: ENOSYS makes C libraries use clone."""
    flags = Arg(0, "MASKED_EQ", table.NAMESPACE_FLAGS, 0)
    return [Rule(("clone",), ACT_ALLOW, (flags,)), Rule(("clone3",), act_errno(errno.ENOSYS))]
