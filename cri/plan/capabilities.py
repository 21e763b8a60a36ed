"""Which capabilities a container has.

``cri.validate.capabilities`` has checked the names before; the init process sets
what the spec says.

Invariant: never more than the daemon's bounding set, and nothing inheritable or
ambient. Source: capabilities(7); the default set is containerd's.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

from runtime.capability_names import NAMES
from runtime.spec import Capabilities

DEFAULT = frozenset(
    {
        "CAP_AUDIT_WRITE",
        "CAP_CHOWN",
        "CAP_DAC_OVERRIDE",
        "CAP_FOWNER",
        "CAP_FSETID",
        "CAP_KILL",
        "CAP_MKNOD",
        "CAP_NET_BIND_SERVICE",
        "CAP_NET_RAW",
        "CAP_SETFCAP",
        "CAP_SETGID",
        "CAP_SETPCAP",
        "CAP_SETUID",
        "CAP_SYS_CHROOT",
    }
)

ALL = "ALL"


def capability_name(given: str) -> str:
    """``net_admin``, ``NET_ADMIN`` and ``CAP_NET_ADMIN`` are all ``CAP_NET_ADMIN``; ALL stays."""
    upper = given.upper()
    return upper if upper == ALL or upper.startswith("CAP_") else f"CAP_{upper}"


def plan_capabilities(
    add: Iterable[str], drop: Iterable[str], *, privileged: bool, bounding: Collection[str]
) -> Capabilities:
    """The sets of a container: ALL first, then single names; dropping wins over adding.

    A privileged container has all that the daemon has.
    """
    added, dropped = set(map(capability_name, add)), set(map(capability_name, drop))
    chosen = set(NAMES) if privileged or ALL in added else set(DEFAULT)
    if not privileged:
        chosen = set() if ALL in dropped else chosen
        chosen = (chosen | added) - dropped
    held = [name for name in NAMES if name in chosen and name in bounding]
    return Capabilities(bounding=held, effective=list(held), permitted=list(held), inheritable=[], ambient=[])
