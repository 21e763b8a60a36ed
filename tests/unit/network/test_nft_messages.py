from __future__ import annotations

import struct
from ipaddress import ip_address

import pytest

from network import nft_messages
from network.elements import Element
from network.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    Reply,
    attribute,
    iterate_attributes,
    nested,
    parse_attributes,
    text,
)

INSTANCE = "0badcafe"
ONE = Element("pods_v4", ip_address("10.85.0.2").packed, "x")
TWO = Element("pods_v4", ip_address("10.85.0.3").packed)
SIX = Element("pods_v6", ip_address("fd00::2").packed, "x")


def test_adding_is_one_framed_batch_that_tolerates_what_is_there() -> None:
    begin, add, end = nft_messages.plan_add(INSTANCE, [ONE, TWO])
    assert (begin.kind, end.kind, begin.flags, end.flags) == (0x10, 0x11, 0, 0)
    assert begin.body == end.body == struct.pack(">BBH", 0, 0, 10)
    assert (add.kind, add.flags) == (10 << 8 | 12, NLM_F_ACK | NLM_F_CREATE)
    assert add.object == "10.85.0.2, 10.85.0.3 in pods_v4 of crisp_0badcafe"
    found = parse_attributes(add.body[4:])
    assert (found[1], found[2]) == (b"crisp_0badcafe\0", b"pods_v4\0")
    assert nft_messages.parse_elements([Reply(add.kind, 0, 1, add.body)]) == [ONE, TWO]


def test_each_set_has_a_message_of_its_own_in_the_batch() -> None:
    _, four, six, _ = nft_messages.plan_add(INSTANCE, [ONE, SIX, TWO])
    replies = [Reply(0, 0, 1, message.body) for message in (four, six)]
    assert nft_messages.parse_elements(replies) == [ONE, TWO, SIX]


def test_an_element_of_a_map_has_what_it_leads_to() -> None:
    mapped = Element("any_ports_v4", bytes((6, 0, 0, 0, 0, 80, 0, 0)), "x", ip_address("10.85.0.2").packed + bytes(4))
    _, add, _ = nft_messages.plan_add(INSTANCE, [mapped])
    (_, raw), *_ = iterate_attributes(parse_attributes(add.body[4:])[3])
    assert parse_attributes(parse_attributes(raw)[2]) == {1: mapped.data}
    assert nft_messages.parse_elements([Reply(0, 0, 1, add.body)]) == [mapped]
    _, delete, _ = nft_messages.plan_delete(INSTANCE, [mapped])
    (_, raw), *_ = iterate_attributes(parse_attributes(delete.body[4:])[3])
    assert set(parse_attributes(raw)) == {1}


def test_deleting_names_keys_alone() -> None:
    _, delete, _ = nft_messages.plan_delete(INSTANCE, [ONE])
    assert (delete.call, delete.kind, delete.flags) == ("NFT_MSG_DELSETELEM", 10 << 8 | 14, NLM_F_ACK)
    assert nft_messages.parse_elements([Reply(0, 0, 1, delete.body)]) == [Element("pods_v4", ONE.key)]


@pytest.mark.parametrize(("family", "number"), [("inet", 1), ("bridge", 7)])
def test_the_table_is_looked_up_and_deleted_by_name_in_each_family(family: str, number: int) -> None:
    look = nft_messages.plan_look_up(INSTANCE, family)
    _, delete, _ = nft_messages.plan_delete_table(INSTANCE, family)
    assert (look.kind, delete.kind) == (10 << 8 | 1, 10 << 8 | 2)
    for message in (look, delete):
        assert message.body[:4] == struct.pack(">BBH", number, 0, 0)
        assert parse_attributes(message.body[4:])[1] == b"crisp_0badcafe\0"
        assert message.object == f"{family} crisp_0badcafe"


def test_a_set_is_listed_in_the_family_that_it_is_of() -> None:
    for name, number in (("pods_v6", 1), ("senders", 7)):
        listing = nft_messages.plan_list(INSTANCE, name)
        assert (listing.kind, listing.flags) == (10 << 8 | 13, NLM_F_DUMP)
        assert listing.body[:4] == struct.pack(">BBH", number, 0, 0)
        found = parse_attributes(listing.body[4:])
        assert (found[1], found[2]) == (b"crisp_0badcafe\0", name.encode() + b"\0")


def test_a_comment_is_cut_to_what_nft_prints() -> None:
    _, add, _ = nft_messages.plan_add(INSTANCE, [Element("pods_v4", ONE.key, "x" * 500)])
    assert nft_messages.parse_elements([Reply(0, 0, 1, add.body)]) == [Element("pods_v4", ONE.key, "x" * 123)]


def test_user_data_of_other_kinds_is_skipped() -> None:
    userdata = bytes((9, 2, 7, 7)) + bytes((0, 3)) + b"hi\0"
    element = nested(1, attribute(1, ONE.key)) + attribute(6, userdata)
    other = nested(1, attribute(1, TWO.key)) + attribute(6, bytes((9, 0)))
    body = bytes(4) + text(2, "pods_v4") + nested(3, nested(1, element), nested(1, other))
    found = nft_messages.parse_elements([Reply(0, 0, 1, body)])
    assert found == [Element("pods_v4", ONE.key, "hi"), TWO]
