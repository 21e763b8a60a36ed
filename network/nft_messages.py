"""What crisp says to nftables of pods: set elements as nfnetlink messages.

Pure: ``network.nft`` sends it, ``network.nft_table`` has what comes before, the table.
Formats: linux/netfilter/nfnetlink.h and nf_tables.h; how the kernel is spoken to in
between is ``network.netlink``.

Invariant: every message names the instance's own table.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterable, Sequence

from network.elements import OF_BRIDGE, Element, by_set, owner_in
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

_NFPROTO_INET, _NFPROTO_BRIDGE = 1, 7
FAMILIES = {"inet": _NFPROTO_INET, "bridge": _NFPROTO_BRIDGE}
"""The families in which the instance has a table."""
_NFNL_SUBSYS_NFTABLES = 10
_NFNL_MSG_BATCH_BEGIN, _NFNL_MSG_BATCH_END = 0x10, 0x11
_NFT_MSG_GETTABLE, _NFT_MSG_DELTABLE = 1, 2
_NFT_MSG_NEWSETELEM, _NFT_MSG_GETSETELEM, _NFT_MSG_DELSETELEM = 12, 13, 14
_NFTA_TABLE_NAME = 1
_NFTA_SET_ELEM_LIST_TABLE, _NFTA_SET_ELEM_LIST_SET, _NFTA_SET_ELEM_LIST_ELEMENTS = 1, 2, 3
_NFTA_LIST_ELEM = 1
_NFTA_SET_ELEM_KEY, _NFTA_SET_ELEM_DATA, _NFTA_SET_ELEM_USERDATA = 1, 2, 6
_NFTA_DATA_VALUE = 1
_UDATA_COMMENT = 0
"""NFTNL_UDATA_SET_ELEM_COMMENT: what nft prints as ``comment``; libnftnl/udata.h."""
_UDATA_COMMENT_BYTES = 127


def plan_add(instance: str, elements: Sequence[Element]) -> list[Message]:
    """Add ``elements``, all or none; one that is there already stays."""
    return _batch(instance, "NFT_MSG_NEWSETELEM", _NFT_MSG_NEWSETELEM, NLM_F_CREATE, elements)


def plan_delete(instance: str, elements: Sequence[Element]) -> list[Message]:
    """Remove ``elements``, all or none: one that is missing is refused with ENOENT."""
    return _batch(instance, "NFT_MSG_DELSETELEM", _NFT_MSG_DELSETELEM, 0, elements)


def _batch(instance: str, call: str, kind: int, flags: int, elements: Sequence[Element]) -> list[Message]:
    messages = []
    for name, members in by_set(elements).items():
        label = ", ".join(element.describe() for element in members[:3])
        body = plan_header(_family_of(name)) + _set(instance, name)
        body += nested(
            _NFTA_SET_ELEM_LIST_ELEMENTS,
            *(nested(_NFTA_LIST_ELEM, _element(element, kind == _NFT_MSG_NEWSETELEM)) for element in members),
        )
        what = f"{label} in {name} of {table_name(instance)}"
        messages.append(Message(call, what, plan_kind(kind), NLM_F_ACK | flags, body))
    return frame_batch(messages)


def _family_of(name: str) -> int:
    return _NFPROTO_BRIDGE if name in OF_BRIDGE else _NFPROTO_INET


def _set(instance: str, name: str) -> bytes:
    return text(_NFTA_SET_ELEM_LIST_TABLE, table_name(instance)) + text(_NFTA_SET_ELEM_LIST_SET, name)


def _element(element: Element, whole: bool) -> bytes:
    body = nested(_NFTA_SET_ELEM_KEY, attribute(_NFTA_DATA_VALUE, element.key))
    if whole and element.data:
        body += nested(_NFTA_SET_ELEM_DATA, attribute(_NFTA_DATA_VALUE, element.data))
    if whole and element.comment:
        raw = element.comment.encode()[:_UDATA_COMMENT_BYTES] + b"\0"
        body += attribute(_NFTA_SET_ELEM_USERDATA, bytes((_UDATA_COMMENT, len(raw))) + raw)
    return body


def plan_kind(message: int) -> int:
    """The type of an nfnetlink message from its number."""
    return _NFNL_SUBSYS_NFTABLES << 8 | message


def plan_header(family: int, resource: int = 0) -> bytes:
    return struct.pack(">BBH", family, 0, resource)


def frame_batch(messages: Sequence[Message]) -> list[Message]:
    """``messages`` as one transaction."""
    begin = Message("NFNL_MSG_BATCH_BEGIN", messages[0].object, _NFNL_MSG_BATCH_BEGIN, 0, _frame())
    end = Message("NFNL_MSG_BATCH_END", messages[0].object, _NFNL_MSG_BATCH_END, 0, _frame())
    return [begin, *messages, end]


def _frame() -> bytes:
    return plan_header(socket.AF_UNSPEC, _NFNL_SUBSYS_NFTABLES)


def parse_elements(replies: Iterable[Reply]) -> list[Element]:
    """The elements in NFT_MSG_NEWSETELEM answers."""
    found: list[Element] = []
    for reply in replies:
        listing = parse_attributes(reply.body[4:])
        name = listing.get(_NFTA_SET_ELEM_LIST_SET, b"").rstrip(b"\0").decode(errors="replace")
        for _, raw in iterate_attributes(listing.get(_NFTA_SET_ELEM_LIST_ELEMENTS, b"")):
            element = parse_attributes(raw)
            key, data = (
                parse_attributes(element.get(kind, b"")).get(_NFTA_DATA_VALUE, b"")
                for kind in (_NFTA_SET_ELEM_KEY, _NFTA_SET_ELEM_DATA)
            )
            found.append(Element(name, key, owner_in(comment_in(element.get(_NFTA_SET_ELEM_USERDATA, b""))), data))
    return found


def comment_in(userdata: bytes) -> str:
    """Of an element or a rule; '' without one."""
    offset = 0
    while offset + 2 <= len(userdata):
        kind, length = userdata[offset], userdata[offset + 1]
        if kind == _UDATA_COMMENT:
            return userdata[offset + 2 : offset + 2 + length].rstrip(b"\0").decode(errors="replace")
        offset += 2 + length
    return ""


def plan_list(instance: str, name: str) -> Message:
    """A dump of the set called ``name``, for :func:`parse_elements`."""
    body = plan_header(_family_of(name)) + _set(instance, name)
    what = f"{name} of {table_name(instance)}"
    return Message("NFT_MSG_GETSETELEM", what, plan_kind(_NFT_MSG_GETSETELEM), NLM_F_DUMP, body)


def plan_look_up(instance: str, family: str) -> Message:
    """Ask for the table of this family itself."""
    return _table_message(instance, family, "NFT_MSG_GETTABLE", _NFT_MSG_GETTABLE)


def plan_delete_table(instance: str, family: str) -> list[Message]:
    """Delete the table with everything in it."""
    return frame_batch([_table_message(instance, family, "NFT_MSG_DELTABLE", _NFT_MSG_DELTABLE)])


def _table_message(instance: str, family: str, call: str, kind: int) -> Message:
    name = table_name(instance)
    body = plan_header(FAMILIES[family]) + text(_NFTA_TABLE_NAME, name)
    return Message(call, f"{family} {name}", plan_kind(kind), NLM_F_ACK, body)
