"""What networking calls the things that it makes on the host, and how it knows them again.

Used by every module of ``network``; pure. A link says whose it is by its alias,
``crisp:<instance>:<subject>``, where the subject is a sandbox id for a pod's link
and the real path of the root directory for a bridge. ``ip link`` shows it. The kernel
takes an alias only after it has made the link, so the link's group, which it takes at
once, says whose a link is that a kill has left without its alias.

Invariant: two instances of crisp on one host never derive the same alias or table
name, and what carries no alias of ours is never taken for ours.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

from runtime.errors import InvalidArgument

IFNAMSIZ = 16
"""Bytes of an interface name with its final NUL (linux/if.h)."""
IFALIASZ = 256
"""Bytes of an alias with its final NUL (linux/if.h)."""
POD_INTERFACE = "eth0"
"""The interface's name inside the pod, the one that CNI gives as well."""

_INSTANCE = re.compile(r"[0-9a-f]{8}")
_LINK_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,14}")


@dataclass(frozen=True, slots=True)
class Alias:
    """Whose a link is: ``subject`` is a sandbox id, or a path (a bridge's root)."""

    instance: str
    subject: str

    @property
    def is_bridge(self) -> bool:
        return self.subject.startswith("/")

    @property
    def group(self) -> int:
        """The instance as a link group (IFLA_GROUP)."""
        return int(self.instance, 16)

    def __str__(self) -> str:
        return f"crisp:{self.instance}:{self.subject}"

    def encode(self) -> bytes:
        """The alias as the kernel stores it: cut to 255 bytes, which only a path can exceed."""
        return str(self).encode(errors="replace")[: IFALIASZ - 1]


def parse_alias(text: str) -> Alias | None:
    """The alias that :class:`Alias` wrote, or None for anything else."""
    project, _, rest = text.partition(":")
    instance, _, subject = rest.partition(":")
    if project != "crisp" or not _INSTANCE.fullmatch(instance) or not subject:
        return None
    return Alias(instance, subject)


def host_link_name(sandbox_id: str) -> str:
    """The host's end of a pod's veth pair: 15 characters, the most that the kernel takes."""
    return f"crp{sandbox_id[:12]}"


def egress_link_name(sandbox_id: str) -> str:
    """The ifb link through which goes what a pod sends, where that is limited."""
    return f"cre{sandbox_id[:12]}"


def table_name(instance: str) -> str:
    """The one nftables table of an instance, in whatever family."""
    return f"crisp_{instance}"


def hardware_address(address: IPv4Address | IPv6Address) -> bytes:
    """A locally administered MAC address that follows from the IP address.

    A neighbour's cache then stays right when an address goes to another pod, and
    the bridge's own does not change with the ports that come and go. The prefix is
    the one that CNI's bridge uses.
    """
    return b"\x0a\x58" + address.packed[-4:]


def check_link_name(name: str) -> str:
    """``name`` if an interface can be called so and it needs no quoting anywhere.

    Raises:
        InvalidArgument: longer than 15 characters, or other than letters, digits, ``_.-``.
    """
    if not _LINK_NAME.fullmatch(name):
        raise InvalidArgument("not an interface name: 1 to 15 letters, digits, '_', '.', '-'", object=repr(name))
    return name
