"""What crisp says to nftables: the table's text, and set elements as nfnetlink messages.

Pure: ``network.nft`` sends it. Formats: nft(8), linux/netfilter/nfnetlink.h and
nf_tables.h; how the kernel is spoken to in between is ``network.netlink``.

Set and chain names end in ``_v4`` where they are of one family, so that the table can
become one of family ``inet``.

Invariant: every message and every line of text names the instance's own table.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence
from ipaddress import IPv4Address, IPv4Network

from network.names import table_name
from network.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    Message,
    Reply,
    attribute,
    iterate_attributes,
    nested,
    parse_attributes,
    text,
)

PODS_SET = "pods_v4"
SUBNETS_SET = "subnets_v4"
_MOST_PODS = 16384
"""With a size the kernel takes a hash that never grows (256 KiB). One that grows, in the
background, leaves elements out of a listing meanwhile, and leaks would go unseen."""
_MULTICAST = "224.0.0.0/4"

_NFNL_SUBSYS_NFTABLES = 10
_NFNL_MSG_BATCH_BEGIN, _NFNL_MSG_BATCH_END = 0x10, 0x11
_NFT_MSG_GETTABLE, _NFT_MSG_DELTABLE = 1, 2
_NFT_MSG_NEWSETELEM, _NFT_MSG_GETSETELEM, _NFT_MSG_DELSETELEM = 12, 13, 14
_NFTA_TABLE_NAME = 1
_NFTA_SET_ELEM_LIST_TABLE, _NFTA_SET_ELEM_LIST_SET, _NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
_NFTA_LIST_ELEM = 1
_NFTA_SET_ELEM_KEY, _NFTA_SET_ELEM_USERDATA = 1, 6
_NFTA_DATA_VALUE = 1
_UDATA_COMMENT = 0
"""NFTNL_UDATA_SET_ELEM_COMMENT: what nft prints as ``comment``; libnftnl/udata.h."""
_UDATA_COMMENT_BYTES = 127


def plan_table(instance: str, subnets: Iterable[IPv4Network]) -> str:
    """The input of ``nft -f -``: one transaction, right on a bare host and on its own result.

    Pods reach each other (``subnets``) and multicast groups with their own addresses, all
    else with the node's.
    """
    table = f"ip {table_name(instance)}"
    lines = [
        f"add table {table}",
        f"add set {table} {PODS_SET} {{ type ipv4_addr; size {_MOST_PODS}; }}",
        f"add set {table} {SUBNETS_SET} {{ type ipv4_addr; flags interval; }}",
        f"add chain {table} postrouting {{ type nat hook postrouting priority 100; policy accept; }}",
        f"flush chain {table} postrouting",
        f"flush set {table} {SUBNETS_SET}",
        *(f"add element {table} {SUBNETS_SET} {{ {subnet} }}" for subnet in subnets),
        f"add rule {table} postrouting ip saddr @{PODS_SET} ip daddr != @{SUBNETS_SET} "
        f'ip daddr != {_MULTICAST} masquerade comment "pods leave with the address of the node"',
    ]
    return "\n".join(lines) + "\n"


def plan_add(instance: str, elements: Sequence[tuple[IPv4Address, str]]) -> list[Message]:
    """Add (address, comment) pairs to the set of pods; one that is there already stays."""
    listed = [_element(address, comment) for address, comment in elements]
    label = ", ".join(str(address) for address, _ in elements[:3])
    return _batch(_elements_message(instance, "NFT_MSG_NEWSETELEM", label, listed))


def plan_delete(instance: str, address: IPv4Address) -> list[Message]:
    """Remove one address from the set of pods; a batch of its own, as one that is missing
    would undo the others'."""
    return _batch(_elements_message(instance, "NFT_MSG_DELSETELEM", str(address), [_element(address, "")]))


def _elements_message(instance: str, call: str, label: str, elements: Sequence[bytes]) -> Message:
    new = call == "NFT_MSG_NEWSETELEM"
    body = _nfgenmsg(socket.AF_INET) + _set_of_pods(instance)
    body += nested(_NFTA_SET_ELEM_LIST_ELEMENTS, *(nested(_NFTA_LIST_ELEM, element) for element in elements))
    kind = _subsystem(_NFT_MSG_NEWSETELEM if new else _NFT_MSG_DELSETELEM)
    return Message(call, f"{label} in {table_name(instance)}", kind, NLM_F_ACK | (NLM_F_CREATE if new else 0), body)


def _set_of_pods(instance: str) -> bytes:
    return text(_NFTA_SET_ELEM_LIST_TABLE, table_name(instance)) + text(_NFTA_SET_ELEM_LIST_SET, PODS_SET)


def _element(address: IPv4Address, comment: str) -> bytes:
    element = nested(_NFTA_SET_ELEM_KEY, attribute(_NFTA_DATA_VALUE, address.packed))
    if comment:
        raw = comment.encode()[:_UDATA_COMMENT_BYTES] + b"\0"
        element += attribute(_NFTA_SET_ELEM_USERDATA, bytes((_UDATA_COMMENT, len(raw))) + raw)
    return element


def _subsystem(message: int) -> int:
    return _NFNL_SUBSYS_NFTABLES << 8 | message


def _nfgenmsg(family: int, resource: int = 0) -> bytes:
    return struct.pack(">BBH", family, 0, resource)


def _batch(message: Message) -> list[Message]:
    begin = Message("NFNL_MSG_BATCH_BEGIN", message.object, _NFNL_MSG_BATCH_BEGIN, 0, _frame())
    end = Message("NFNL_MSG_BATCH_END", message.object, _NFNL_MSG_BATCH_END, 0, _frame())
    return [begin, message, end]


def _frame() -> bytes:
    return _nfgenmsg(socket.AF_UNSPEC, _NFNL_SUBSYS_NFTABLES)


def parse_elements(replies: Iterable[Reply]) -> dict[str, str]:
    """The elements in NFT_MSG_NEWSETELEM answers: address to comment ('' without one)."""
    found: dict[str, str] = {}
    for reply in replies:
        listing = parse_attributes(reply.body[4:])
        for _, raw in iterate_attributes(listing.get(_NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
            element = parse_attributes(raw)
            key = parse_attributes(element.get(_NFTA_SET_ELEM_KEY, b"")).get(_NFTA_DATA_VALUE, b"")
            found[str(IPv4Address(key))] = _comment(element.get(_NFTA_SET_ELEM_USERDATA, b""))
    return found


def _comment(userdata: bytes) -> str:
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _UDATA_COMMENT:
            return userdata[offset + 2 : offset + 2 + length].rstrip(b"\0").decode(errors="replace")
        offset += 2 + length
    return ""


def plan_list(instance: str) -> Message:
    """A dump of the set of pods, for :func:`parse_elements`."""
    body = _nfgenmsg(socket.AF_INET) + _set_of_pods(instance)
    return Message("NFT_MSG_GETSETELEM", table_name(instance), _subsystem(_NFT_MSG_GETSETELEM), NLM_F_DUMP, body)


def plan_look_up(instance: str) -> Message:
    """Ask for the table itself."""
    return _table_message(instance, "NFT_MSG_GETTABLE", _NFT_MSG_GETTABLE)


def plan_delete_table(instance: str) -> list[Message]:
    """Delete the table with everything in it."""
    return _batch(_table_message(instance, "NFT_MSG_DELTABLE", _NFT_MSG_DELTABLE))


def _table_message(instance: str, call: str, kind: int) -> Message:
    name = table_name(instance)
    body = _nfgenmsg(socket.AF_INET) + text(_NFTA_TABLE_NAME, name)
    return Message(call, name, _subsystem(kind), NLM_F_ACK, body)
