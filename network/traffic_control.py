"""Queueing disciplines as rtnetlink messages: a token bucket, and a redirection to an ifb link; and as listed.

Pure: ``network.shaping`` sends them. Names and layouts follow linux/rtnetlink.h,
linux/pkt_sched.h, linux/pkt_cls.h and linux/tc_act/tc_mirred.h; what they do is in
tc-tbf(8), tc-u32(8) and tc-mirred(8).

Invariant: every builder asks for an acknowledgement, and refuses to take the place of what is there.
"""

from __future__ import annotations

import socket
import struct

from network.bandwidth import Bucket
from network.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_EXCL,
    Message,
    Reply,
    attribute,
    nested,
    parse_attributes,
    text,
    u32,
)
from network.rtnetlink import RTM_NEWLINK

RTM_NEWQDISC, RTM_DELQDISC, RTM_GETQDISC = 36, 37, 38
RTM_NEWTFILTER, RTM_GETTFILTER = 44, 46

_IFLA_IFNAME, _IFLA_LINKINFO, _IFLA_GROUP = 3, 18, 27
_IFLA_INFO_KIND = 1
_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_BURST = 1, 4, 6
_TCA_U32_SEL, _TCA_U32_ACT = 5, 7
_TCA_ACT_KIND, _TCA_ACT_OPTIONS = 1, 2
_TCA_MIRRED_PARMS = 2

_TC_H_ROOT, _TC_H_INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
_ROOT_HANDLE, _INGRESS_HANDLE = 0x00010000, 0xFFFF0000
_PRIORITY = 1 << 16
_ETH_P_ALL = 0x0003
_TC_LINKLAYER_ETHERNET = 1
_TC_U32_TERMINAL = 1
_TC_ACT_STOLEN = 4
_TCA_EGRESS_REDIR = 1

_IFINFOMSG = struct.Struct("=BxHiII")
_TCMSG = struct.Struct("=BxxxiIII")
_RATESPEC = struct.Struct("=BBHhHI")
_TBF_TAIL = struct.Struct("=III")
_U32_SEL = struct.Struct("=BBBxHHhhI")
_U32_KEY = struct.Struct("=IIii")
_MIRRED = struct.Struct("=IIiiiiI")

_NEW = NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL
_LARGEST_U32 = 0xFFFFFFFF


def new_ifb(name: str, *, group: int) -> Message:
    """An ifb link, down. What is redirected to it goes through its queue, and then on where it came from."""
    body = _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0) + text(_IFLA_IFNAME, name) + u32(_IFLA_GROUP, group)
    body += nested(_IFLA_LINKINFO, text(_IFLA_INFO_KIND, "ifb"))
    return Message("RTM_NEWLINK", name, RTM_NEWLINK, _NEW, body)


def new_tbf(name: str, index: int, bucket: Bucket) -> Message:
    """A token bucket for what leaves by the link ``index``. ``name`` is for the message of a fault."""
    rate = _RATESPEC.pack(0, _TC_LINKLAYER_ETHERNET, 0, 0, 0, min(bucket.rate, _LARGEST_U32))
    parameters = rate + bytes(_RATESPEC.size) + _TBF_TAIL.pack(bucket.queue, 0, 0)
    options = attribute(_TCA_TBF_PARMS, parameters) + u32(_TCA_TBF_BURST, bucket.burst)
    options += attribute(_TCA_TBF_RATE64, struct.pack("=Q", bucket.rate))
    return _qdisc("RTM_NEWQDISC", name, RTM_NEWQDISC, _NEW, (index, _ROOT_HANDLE, _TC_H_ROOT), "tbf", options)


def delete_root(name: str, index: int) -> Message:
    """Remove the token bucket, and what waits in it."""
    place = index, _ROOT_HANDLE, _TC_H_ROOT
    return _qdisc("RTM_DELQDISC", name, RTM_DELQDISC, NLM_F_ACK, place, "tbf")


def new_ingress(name: str, index: int) -> Message:
    """The place for filters of what comes by the link ``index``."""
    place = index, _INGRESS_HANDLE, _TC_H_INGRESS
    return _qdisc("RTM_NEWQDISC", name, RTM_NEWQDISC, _NEW, place, "ingress")


def delete_ingress(name: str, index: int) -> Message:
    """Remove that place with its filters."""
    place = index, _INGRESS_HANDLE, _TC_H_INGRESS
    return _qdisc("RTM_DELQDISC", name, RTM_DELQDISC, NLM_F_ACK, place, "ingress")


def new_redirect(name: str, index: int, target: int) -> Message:
    """Lead all that comes by the link ``index`` out through the link ``target``."""
    info = _PRIORITY | socket.htons(_ETH_P_ALL)
    everything = _U32_SEL.pack(_TC_U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + _U32_KEY.pack(0, 0, 0, 0)
    mirred = _MIRRED.pack(0, 0, _TC_ACT_STOLEN, 0, 0, _TCA_EGRESS_REDIR, target)
    first = nested(1, text(_TCA_ACT_KIND, "mirred"), nested(_TCA_ACT_OPTIONS, attribute(_TCA_MIRRED_PARMS, mirred)))
    body = _TCMSG.pack(socket.AF_UNSPEC, index, 0, _INGRESS_HANDLE, info) + text(_TCA_KIND, "u32")
    body += nested(_TCA_OPTIONS, attribute(_TCA_U32_SEL, everything), nested(_TCA_U32_ACT, first))
    return Message("RTM_NEWTFILTER", name, RTM_NEWTFILTER, _NEW, body)


def dump_disciplines() -> Message:
    """Those of all links, for :func:`parse_rate`."""
    return Message("RTM_GETQDISC", "", RTM_GETQDISC, NLM_F_DUMP, _TCMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))


def parse_rate(reply: Reply) -> tuple[int, int] | None:
    """The link's index and the bytes a second of an RTM_NEWQDISC answer, None for what is no token bucket
    that all goes through."""
    _, index, _, parent, _ = _TCMSG.unpack_from(reply.body)
    found = parse_attributes(reply.body[_TCMSG.size :])
    if parent != _TC_H_ROOT or found.get(_TCA_KIND) != b"tbf\0":
        return None
    options = parse_attributes(found[_TCA_OPTIONS])
    if _TCA_TBF_RATE64 in options:  # the kernel tells it where 32 bits do not hold the rate
        return index, int(struct.unpack("=Q", options[_TCA_TBF_RATE64])[0])
    return index, int(_RATESPEC.unpack_from(options[_TCA_TBF_PARMS])[-1])


def dump_filters(name: str, index: int) -> Message:
    """Those of what comes by the link ``index``, for :func:`parse_redirect`."""
    body = _TCMSG.pack(socket.AF_UNSPEC, index, 0, _INGRESS_HANDLE, 0)
    return Message("RTM_GETTFILTER", name, RTM_GETTFILTER, NLM_F_DUMP, body)


def parse_redirect(reply: Reply) -> int | None:
    """The index of the link to which a filter such as :func:`new_redirect` leads, 0 if that is gone; None for
    another."""
    found = parse_attributes(reply.body[_TCMSG.size :])
    actions = parse_attributes(found.get(_TCA_OPTIONS, b"")) if found.get(_TCA_KIND) == b"u32\0" else {}
    first = parse_attributes(parse_attributes(actions.get(_TCA_U32_ACT, b"")).get(1, b""))
    if first.get(_TCA_ACT_KIND) != b"mirred\0":
        return None
    return int(_MIRRED.unpack(parse_attributes(first[_TCA_ACT_OPTIONS])[_TCA_MIRRED_PARMS])[-1])


def _qdisc(
    call: str, name: str, kind: int, flags: int, place: tuple[int, int, int], what: str, options: bytes = b""
) -> Message:
    index, handle, parent = place
    body = _TCMSG.pack(socket.AF_UNSPEC, index, handle, parent, 0) + text(_TCA_KIND, what)
    return Message(call, name, kind, flags, body + (nested(_TCA_OPTIONS, options) if options else b""))
