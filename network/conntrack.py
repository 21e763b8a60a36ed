"""Flows of UDP as the kernel's connection tracking lists and forgets them.

Pure; ``network.udp_flows`` sends the messages. Formats: linux/netfilter/nfnetlink_conntrack.h. The
kernel filters the listing itself (CTA_FILTER, Linux 5.8); of a deletion it understands that from
6.10 on alone, so each flow is deleted by its own tuple.

Invariant: what is deleted is exactly a flow that was listed: its tuple and its id are the kernel's own bytes.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import ip_address

from network.netlink import NLM_F_ACK, NLM_F_DUMP, Message, Reply, attribute, nested, parse_attributes, u32
from network.nft_messages import plan_header
from network.rtnetlink import FAMILIES, Address

UDP = 17
_NFNL_SUBSYS_CTNETLINK = 1
_IPCTNL_MSG_CT_GET, _IPCTNL_MSG_CT_DELETE = 1, 2
_CTA_TUPLE_ORIG, _CTA_TUPLE_REPLY, _CTA_ID, _CTA_ZONE, _CTA_FILTER = 1, 2, 12, 18, 25
_CTA_TUPLE_IP, _CTA_TUPLE_PROTO = 1, 2
_CTA_IP_SOURCES, _CTA_IP_DESTINATIONS = (1, 3), (2, 4)
_CTA_PROTO_NUM, _CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT = 1, 2, 3
_CTA_FILTER_ORIG_FLAGS = 1
_BY_PROTOCOL, _BY_DESTINATION_PORT = 1 << 3, 1 << 5
"""What of the tuple the filter compares (nf_internals.h, CTA_FILTER_F_*)."""
_NESTED = 0x8000


@dataclass(frozen=True, slots=True)
class Flow:
    """``destination`` and ``port`` are what the sender has named, ``answers_from`` is where it is led to.
    ``identity`` are the attributes that name the flow to the kernel, encoded."""

    destination: Address
    port: int
    answers_from: tuple[Address, int]
    identity: bytes


def plan_list(version: int, port: int | None = None) -> Message:
    """A dump of UDP's flows of this IP version, to ``port`` alone if one is named, for :func:`parse_flows`."""
    protocol, by = attribute(_CTA_PROTO_NUM, bytes((UDP,))), _BY_PROTOCOL
    if port is not None:
        protocol, by = protocol + attribute(_CTA_PROTO_DST_PORT, struct.pack(">H", port)), by | _BY_DESTINATION_PORT
    body = plan_header(FAMILIES[version])
    body += nested(_CTA_TUPLE_ORIG, nested(_CTA_TUPLE_PROTO, protocol))
    body += nested(_CTA_FILTER, u32(_CTA_FILTER_ORIG_FLAGS, by))
    return Message("IPCTNL_MSG_CT_GET", f"udp {port or '*'}", _plan_kind(_IPCTNL_MSG_CT_GET), NLM_F_DUMP, body)


def parse_flows(replies: Iterable[Reply]) -> list[Flow]:
    """Those in IPCTNL_MSG_CT_NEW answers."""
    found = []
    for reply in replies:
        flow = parse_attributes(reply.body[4:])
        _, destination, _, port = _parse_tuple(flow[_CTA_TUPLE_ORIG])
        source, _, source_port, _ = _parse_tuple(flow[_CTA_TUPLE_REPLY])
        identity = attribute(_CTA_TUPLE_ORIG | _NESTED, flow[_CTA_TUPLE_ORIG])
        identity += b"".join(attribute(kind, flow[kind]) for kind in (_CTA_ID, _CTA_ZONE) if kind in flow)
        found.append(Flow(destination, port, (source, source_port), identity))
    return found


def plan_delete(flow: Flow) -> Message:
    what = f"udp to {flow.destination} {flow.port}"
    body = plan_header(FAMILIES[flow.destination.version]) + flow.identity
    return Message("IPCTNL_MSG_CT_DELETE", what, _plan_kind(_IPCTNL_MSG_CT_DELETE), NLM_F_ACK, body)


def _plan_kind(message: int) -> int:
    return _NFNL_SUBSYS_CTNETLINK << 8 | message


def _parse_tuple(raw: bytes) -> tuple[Address, Address, int, int]:
    """Source and destination, and the ports of either."""
    parts = parse_attributes(raw)
    addresses, ports = parse_attributes(parts[_CTA_TUPLE_IP]), parse_attributes(parts[_CTA_TUPLE_PROTO])
    source, destination = (
        next(ip_address(addresses[kind]) for kind in kinds if kind in addresses)
        for kinds in (_CTA_IP_SOURCES, _CTA_IP_DESTINATIONS)
    )
    first, second = (int.from_bytes(ports[kind], "big") for kind in (_CTA_PROTO_SRC_PORT, _CTA_PROTO_DST_PORT))
    return source, destination, first, second
