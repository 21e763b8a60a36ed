"""A bridge's port as rtnetlink has it: made of a pod's link, and listed with it (linux/if_link.h, IFLA_BRPORT).

Pure, beside ``network.rtnetlink``; ``network.device`` makes ports, ``network.path_view`` reads them and
``network.bridge_path`` judges.

Invariant: a link that is no bridge's port is None.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass

from network.netlink import NLM_F_ACK, Message, Reply, attribute, nested, parse_attributes, text
from network.rtnetlink import RTM_NEWLINK

_IFINFOMSG = struct.Struct("=BxHiII")
_IFLA_IFNAME, _IFLA_LINK, _IFLA_LINKINFO, _IFLA_IFALIAS = 3, 5, 18, 20
_IFLA_INFO_SLAVE_KIND, _IFLA_INFO_SLAVE_DATA = 4, 5
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


def set_port(name: str, *, index: int = 0, alias: bytes = b"") -> Message:
    """Make the bridge's port ``index``, or ``name`` where the index is 0, hand a frame back to where it came from
    (hairpin): a pod reaches itself by another address where the host's rules see bridged frames."""
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, 0, 0)
    if not index:
        body += text(_IFLA_IFNAME, name)
    if alias:
        body += attribute(_IFLA_IFALIAS, alias)
    port = nested(_IFLA_INFO_SLAVE_DATA, attribute(_IFLA_BRPORT_MODE, b"\1"))
    body += nested(_IFLA_LINKINFO, text(_IFLA_INFO_SLAVE_KIND, "bridge"), port)
    return Message("RTM_NEWLINK", name, RTM_NEWLINK, NLM_F_ACK, body)


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
