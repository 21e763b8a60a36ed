"""A bridge's port as the kernel lists it with its link (linux/if_link.h, IFLA_BRPORT).

Pure; ``network.path_view`` reads, ``network.bridge_path`` judges.

Invariant: a link that is no bridge's port is None.
"""

from __future__ import annotations

import struct
import sys
from dataclasses import dataclass

from network.netlink import Reply, parse_attributes

_IFINFOMSG = struct.Struct("=BxHiII")
_IFLA_LINK, _IFLA_LINKINFO, _IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 5, 18, 4, 5
_IFLA_BRPORT_STATE, _IFLA_BRPORT_MODE = 1, 4
_FORWARDING = 3
_STATES = {0: "disabled", 1: "listening", 2: "learning", _FORWARDING: "forwarding", 4: "blocking"}


@dataclass(frozen=True, slots=True)
class Port:
    """``index`` is the link's, ``peer`` that of a veth's other end in its own namespace (0 for none);
    ``hairpin`` whether a frame may go back to where it came from."""

    index: int
    peer: int
    state: int
    hairpin: bool

    def describe(self) -> str:
        return f"{_STATES.get(self.state, f'state {self.state}')}, hairpin {'on' if self.hairpin else 'off'}"

    def problem(self) -> str:
        """In words; '' if it carries a pod's frames as it has to."""
        if self.state != _FORWARDING:
            return "it does not forward"
        return "" if self.hairpin else "hairpin is off: the pod does not reach itself by a host port"


def parse_port(reply: Reply) -> Port | None:
    """The port of an RTM_NEWLINK answer."""
    _, _, index, _, _ = _IFINFOMSG.unpack_from(reply.body)
    found = parse_attributes(reply.body[_IFINFOMSG.size :])
    info = parse_attributes(found.get(_IFLA_LINKINFO, b""))
    if info.get(_IFLA_INFO_SLAVE_KIND, b"").rstrip(b"\0") != b"bridge":
        return None
    port = parse_attributes(info.get(_IFLA_INFO_SLAVE_DATA, b""))
    state, mode = (port.get(kind, b"\0")[0] for kind in (_IFLA_BRPORT_STATE, _IFLA_BRPORT_MODE))
    return Port(index, int.from_bytes(found.get(_IFLA_LINK, b""), sys.byteorder), state, bool(mode))
