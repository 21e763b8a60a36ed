"""The host's settings that pod networking needs otherwise, and what was changed.

Blocking, for the thread of ``network.netthread``; ``network.wiring`` and
``network.device`` call it. Source: the kernel's Documentation/networking/ip-sysctl.rst.

Invariant: a setting is written only where it differs, and each change is told.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import HostFault

_SYSCTLS = Path("/proc/sys/net")
_TO_DOTTED = str.maketrans("/.", "./")
"""sysctl.d(5): where the separator is a dot, one within a link's name is a slash."""


@dataclass(frozen=True, slots=True)
class SysctlChange:
    """A host setting that crisp needed otherwise; ``crisp check`` explains it."""

    name: str
    before: str
    after: str


def set_sysctl(name: str, value: str) -> SysctlChange | None:
    """Set ``net/<name>`` of the calling thread's namespace; the change, if it was one.

    A setting that the kernel does not have (no IPv6, say) is none.

    Raises:
        HostFault: it may not be read or written.
    """
    path = _SYSCTLS / name
    try:
        before = path.read_text().strip()
        if before == value:
            return None
        path.write_text(value)
    except FileNotFoundError:
        return None
    except OSError as error:
        call = "write" if error.errno in (errno.EPERM, errno.EACCES, errno.EROFS) else "open"
        raise HostFault(step="set the sysctl", object=str(path), call=call, errno=error.errno or 0) from error
    return SysctlChange(dotted(name), before, value)


def plan_sysctls(versions: Collection[int], bridge: str, loopback: bool) -> dict[str, str]:
    """What pods of these IP versions on ``bridge`` need, ``loopback`` host ports through 127.0.0.1."""
    needed = {"ipv4/ip_forward": "1"} if 4 in versions else {}
    needed |= {"ipv6/conf/all/forwarding": "1"} if 6 in versions else {}
    return {**needed, f"ipv4/conf/{bridge}/route_localnet": str(int(loopback))}


def enable_forwarding(versions: Collection[int], listening: Iterable[str]) -> list[SysctlChange]:
    """Have the host forward packets of these IP versions between its links.

    A host that forwards IPv6 is a router and takes no router advertisements, unless accept_ra
    is 2: those of the links in ``listening`` that took some go on, or the host would lose its
    own way out.

    Raises:
        HostFault: a setting may not be written, or the kernel has no IPv6.
    """
    changes = [set_sysctl("ipv4/ip_forward", "1")] if 4 in versions else []
    if 6 in versions and read_sysctl("ipv6/conf/all/forwarding") != "1":
        if not (_SYSCTLS / "ipv6").exists():
            message = "this kernel runs without IPv6; take the IPv6 subnet out of [network] subnets"
            raise HostFault(message, step="prepare the bridge", object=str(_SYSCTLS / "ipv6"))
        for link in listening:
            here = f"ipv6/conf/{link}"
            if (read_sysctl(f"{here}/accept_ra"), read_sysctl(f"{here}/forwarding")) == ("1", "0"):
                changes.append(set_sysctl(f"{here}/accept_ra", "2"))
        changes.append(set_sysctl("ipv6/conf/all/forwarding", "1"))
    return [change for change in changes if change is not None]


def dotted(name: str) -> str:
    """``net/<name>`` as sysctl(8) writes it."""
    return f"net/{name}".translate(_TO_DOTTED)


def read_sysctl(name: str) -> str:
    """``net/<name>`` of the calling thread's namespace; '' where the kernel has none."""
    try:
        return (_SYSCTLS / name).read_text().strip()
    except OSError:
        return ""
