"""Links, addresses and routes as rtnetlink messages, and the kernel's answers as data.

Pure: ``network.netlink`` carries the messages. Names follow rtnetlink(7) and
linux/if_link.h. Both IP families are encoded alike.

Invariant: every builder asks for an acknowledgement, and none depends on an
interface index that it was not given.
"""

from __future__ import annotations

import socket
import struct
import sys
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network, IPv6Address, IPv6Interface, IPv6Network, ip_address
from ipaddress import ip_network as _ip_network

from network.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    Message,
    Reply,
    attribute,
    nested,
    parse_attributes,
    text,
    u32,
)

Address = IPv4Address | IPv6Address
Interface = IPv4Interface | IPv6Interface
Network = IPv4Network | IPv6Network

RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26

IFF_UP = 0x1
RT_TABLE_MAIN = 254
RTN_UNICAST = 1
RT_SCOPE_UNIVERSE = 0

_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_MASTER, _IFLA_LINKINFO = 1, 3, 4, 10, 18
_IFLA_IFALIAS, _IFLA_GROUP, _IFLA_NET_NS_FD, _IFLA_EXT_MASK = 20, 27, 28, 29
_IFLA_NUM_TX_QUEUES, _IFLA_NUM_RX_QUEUES = 31, 32
_IFLA_INFO_KIND, _IFLA_INFO_DATA = 1, 2
_VETH_INFO_PEER = 1
_RTEXT_FILTER_SKIP_STATS = 8
_IFA_ADDRESS, _IFA_LOCAL = 1, 2
_IFA_F_NODAD = 0x02
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PRIORITY, _RTA_PREFSRC, _RTA_MULTIPATH, _RTA_TABLE = 1, 4, 5, 6, 7, 9, 15
_RTPROT_STATIC = 4

_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")
_RTMSG = struct.Struct("=BBBBBBBBI")
_RTNEXTHOP = struct.Struct("=HBBi")
FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


@dataclass(frozen=True, slots=True)
class Link:
    """An interface; ``master`` is the index of its bridge or 0, ``kind`` '' for hardware."""

    index: int
    name: str
    kind: str
    alias: str
    master: int
    mtu: int
    hardware: bytes
    up: bool
    group: int = 0


@dataclass(frozen=True, slots=True)
class Peer:
    """The other end of a veth pair to be, in the namespace that ``netns_fd`` is open on."""

    name: str
    hardware: bytes
    netns_fd: int


@dataclass(frozen=True, slots=True)
class LinkAddress:
    """An address of the interface ``index``; ``scope`` as in rtnetlink(7), 0 is global."""

    index: int
    interface: Interface
    scope: int


@dataclass(frozen=True, slots=True)
class Route:
    """A route; ``link`` the index of its interface, of several the first (0 for none, as with
    a blackhole), ``source`` the source address that it prefers, ``protocol`` who made it."""

    destination: Network
    link: int
    gateway: Address | None
    metric: int
    source: Address | None
    table: int
    kind: int
    protocol: int = 0


def _ifinfo(index: int = 0, flags: int = 0) -> bytes:
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, index, flags, flags)


def new_veth(name: str, peer: Peer, *, group: int, bridge: int, mtu: int) -> Message:
    """A veth pair: ``name`` here, in ``group``, up and on ``bridge``; ``peer`` elsewhere.

    The peer stays down: the kernel refuses to make it up (ENOTCONN, veth(4)). Each end has one
    queue a direction: a veth uses no more unless told to, but the kernel first makes one a CPU,
    with an entry in sysfs each (0.2 ms on two CPUs).
    """
    queues = u32(_IFLA_NUM_TX_QUEUES, 1) + u32(_IFLA_NUM_RX_QUEUES, 1)
    there = b"".join(
        (
            _ifinfo(),
            text(_IFLA_IFNAME, peer.name),
            u32(_IFLA_MTU, mtu),
            attribute(_IFLA_ADDRESS, peer.hardware),
            u32(_IFLA_NET_NS_FD, peer.netns_fd),
            queues,
        )
    )
    info = nested(
        _IFLA_LINKINFO,
        text(_IFLA_INFO_KIND, "veth"),
        nested(_IFLA_INFO_DATA, attribute(_VETH_INFO_PEER, there)),
    )
    here = text(_IFLA_IFNAME, name) + u32(_IFLA_MTU, mtu) + u32(_IFLA_MASTER, bridge) + u32(_IFLA_GROUP, group)
    flags = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
    return Message("RTM_NEWLINK", name, RTM_NEWLINK, flags, _ifinfo(0, IFF_UP) + here + queues + info)


def new_bridge(name: str, *, hardware: bytes, group: int, mtu: int) -> Message:
    """A bridge, down. A given hardware address stays, whatever ports come and go."""
    body = _ifinfo() + text(_IFLA_IFNAME, name) + u32(_IFLA_MTU, mtu) + u32(_IFLA_GROUP, group)
    body += attribute(_IFLA_ADDRESS, hardware)
    body += nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "bridge"))
    return Message("RTM_NEWLINK", name, RTM_NEWLINK, NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL, body)


def set_link(
    name: str, *, index: int = 0, up: bool = False, alias: bytes = b"", master: int = 0, mtu: int = 0
) -> Message:
    """Change the interface ``index``, or ``name`` where the index is 0; what is not given stays."""
    body = _ifinfo(index, IFF_UP if up else 0)
    if not index:
        body += text(_IFLA_IFNAME, name)
    if alias:
        body += attribute(_IFLA_IFALIAS, alias)
    if master:
        body += u32(_IFLA_MASTER, master)
    if mtu:
        body += u32(_IFLA_MTU, mtu)
    return Message("RTM_SETLINK", name, RTM_SETLINK, NLM_F_ACK, body)


def delete_link(name: str, index: int) -> Message:
    return Message("RTM_DELLINK", name, RTM_DELLINK, NLM_F_ACK, _ifinfo(index))


def get_link(name: str) -> Message:
    body = _ifinfo() + text(_IFLA_IFNAME, name) + u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return Message("RTM_GETLINK", name, RTM_GETLINK, NLM_F_ACK, body)


def dump_links() -> Message:
    body = _ifinfo() + u32(_IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    return Message("RTM_GETLINK", "", RTM_GETLINK, NLM_F_DUMP, body)


def new_address(index: int, interface: Interface) -> Message:
    """Give the interface an address; giving it again is no error.

    An IPv6 one can be used at once: who leases addresses need not ask the link whether another
    has it (RFC 4862, 5.4), which takes more than a second.
    """
    return _address("RTM_NEWADDR", RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, index, interface)


def delete_address(index: int, interface: Interface) -> Message:
    return _address("RTM_DELADDR", RTM_DELADDR, 0, index, interface)


def _address(call: str, kind: int, flags: int, index: int, interface: Interface) -> Message:
    raw = interface.ip.packed
    family, length = FAMILIES[interface.version], interface.network.prefixlen
    body = _IFADDRMSG.pack(family, length, _IFA_F_NODAD if interface.version == 6 else 0, RT_SCOPE_UNIVERSE, index)
    body += attribute(_IFA_LOCAL, raw) + attribute(_IFA_ADDRESS, raw)
    return Message(call, str(interface), kind, flags | NLM_F_ACK, body)


def dump_addresses() -> Message:
    return Message("RTM_GETADDR", "", RTM_GETADDR, NLM_F_DUMP, _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))


def new_default_route(gateway: Address) -> Message:
    return new_route(_ip_network("0.0.0.0/0" if gateway.version == 4 else "::/0"), gateway, _RTPROT_STATIC)


def new_route(destination: Network, gateway: Address, protocol: int) -> Message:
    """A route of the main table; one to the same ``destination`` that is there already is refused."""
    return _route("RTM_NEWROUTE", RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, destination, gateway, protocol)


def delete_route(destination: Network, gateway: Address, protocol: int) -> Message:
    """The same route: one via another gateway or of another protocol stays."""
    return _route("RTM_DELROUTE", RTM_DELROUTE, 0, destination, gateway, protocol)


def _route(call: str, kind: int, flags: int, to: Network, gateway: Address, protocol: int) -> Message:
    family = FAMILIES[to.version]
    body = _RTMSG.pack(family, to.prefixlen, 0, 0, RT_TABLE_MAIN, protocol, RT_SCOPE_UNIVERSE, RTN_UNICAST, 0)
    if to.prefixlen:
        body += attribute(_RTA_DST, to.network_address.packed)
    body += attribute(_RTA_GATEWAY, gateway.packed)
    return Message(call, f"{to if to.prefixlen else 'default'} via {gateway}", kind, flags | NLM_F_ACK, body)


def dump_routes(version: int) -> Message:
    body = _RTMSG.pack(FAMILIES[version], 0, 0, 0, 0, 0, 0, 0, 0)
    return Message("RTM_GETROUTE", "", RTM_GETROUTE, NLM_F_DUMP, body)


def parse_link(reply: Reply) -> Link:
    """The link of an RTM_NEWLINK answer."""
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(reply.body)
    found = parse_attributes(reply.body[_IFINFOMSG.size :])
    info = parse_attributes(found.get(_IFLA_LINKINFO, b""))
    return Link(
        index=index,
        name=_text(found.get(_IFLA_IFNAME, b"")),
        kind=_text(info.get(_IFLA_INFO_KIND, b"")),
        alias=_text(found.get(_IFLA_IFALIAS, b"")),
        master=_number(found.get(_IFLA_MASTER, b"")),
        mtu=_number(found.get(_IFLA_MTU, b"")),
        hardware=found.get(_IFLA_ADDRESS, b""),
        up=bool(flags & IFF_UP),
        group=_number(found.get(_IFLA_GROUP, b"")),
    )


def parse_address(reply: Reply) -> LinkAddress:
    """The address of an RTM_NEWADDR answer; of a point-to-point one the local end."""
    _, length, _, scope, index = _IFADDRMSG.unpack_from(reply.body)
    found = parse_attributes(reply.body[_IFADDRMSG.size :])
    raw = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    return LinkAddress(index, _interface(raw, length), scope)


def parse_route(reply: Reply) -> Route:
    """The route of an RTM_NEWROUTE answer."""
    family, length, _, _, table, protocol, _, kind, _ = _RTMSG.unpack_from(reply.body)
    found = parse_attributes(reply.body[_RTMSG.size :])
    raw = found.get(_RTA_DST, bytes(16 if family == socket.AF_INET6 else 4))
    return Route(
        destination=_ip_network((raw, length), strict=False),
        link=_number(found.get(_RTA_OIF, b"")) or _first_hop(found.get(_RTA_MULTIPATH, b"")),
        gateway=ip_address(found[_RTA_GATEWAY]) if _RTA_GATEWAY in found else None,
        metric=_number(found.get(_RTA_PRIORITY, b"")),
        source=ip_address(found[_RTA_PREFSRC]) if _RTA_PREFSRC in found else None,
        table=_number(found.get(_RTA_TABLE, b"")) or table,
        kind=kind,
        protocol=protocol,
    )


def _first_hop(multipath: bytes) -> int:
    return int(_RTNEXTHOP.unpack_from(multipath)[3]) if len(multipath) >= _RTNEXTHOP.size else 0


def _interface(raw: bytes, length: int) -> Interface:
    return IPv4Interface((raw, length)) if len(raw) == 4 else IPv6Interface((raw, length))


def _text(raw: bytes) -> str:
    return raw.rstrip(b"\0").decode(errors="replace")


def _number(raw: bytes) -> int:
    return int.from_bytes(raw, sys.byteorder) if raw else 0
