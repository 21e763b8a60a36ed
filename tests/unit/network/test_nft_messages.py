from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv4Network

from network import nft_messages
from network.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_DUMP, Reply, attribute, nested, parse_attributes

INSTANCE = "0badcafe"
ONE = IPv4Address("10.85.0.2")


def test_every_line_of_the_table_names_the_instances_own_table() -> None:
    script = nft_messages.plan_table(INSTANCE, [IPv4Network("10.85.0.0/16"), IPv4Network("10.86.0.0/24")])
    lines = script.splitlines()
    assert all(f" ip crisp_{INSTANCE}" in line for line in lines)
    assert f"add element ip crisp_{INSTANCE} subnets_v4 {{ 10.85.0.0/16 }}" in lines
    assert f"add element ip crisp_{INSTANCE} subnets_v4 {{ 10.86.0.0/24 }}" in lines
    assert lines.index(f"flush set ip crisp_{INSTANCE} subnets_v4") < lines.index(
        f"add element ip crisp_{INSTANCE} subnets_v4 {{ 10.85.0.0/16 }}"
    )
    assert not any("flush" in line and "pods_v4" in line for line in lines)


def test_a_table_without_subnets_has_no_elements() -> None:
    assert "add element" not in nft_messages.plan_table(INSTANCE, [])


def test_adding_is_one_framed_batch_that_tolerates_what_is_there() -> None:
    begin, add, end = nft_messages.plan_add(INSTANCE, [(ONE, "pod x"), (IPv4Address("10.85.0.3"), "")])
    assert (begin.kind, end.kind, begin.flags, end.flags) == (0x10, 0x11, 0, 0)
    assert begin.body == end.body == struct.pack(">BBH", 0, 0, 10)
    assert (add.kind, add.flags) == (10 << 8 | 12, NLM_F_ACK | NLM_F_CREATE)
    assert add.object == "10.85.0.2, 10.85.0.3 in crisp_0badcafe"
    found = parse_attributes(add.body[4:])
    assert (found[1], found[2]) == (b"crisp_0badcafe\0", b"pods_v4\0")
    assert nft_messages.parse_elements([Reply(add.kind, 0, 1, add.body)]) == {"10.85.0.2": "pod x", "10.85.0.3": ""}


def test_deleting_is_a_batch_of_one() -> None:
    _, delete, _ = nft_messages.plan_delete(INSTANCE, ONE)
    assert (delete.call, delete.kind, delete.flags) == ("NFT_MSG_DELSETELEM", 10 << 8 | 14, NLM_F_ACK)
    assert nft_messages.parse_elements([Reply(0, 0, 1, delete.body)]) == {"10.85.0.2": ""}


def test_the_table_is_looked_up_listed_and_deleted_by_name() -> None:
    look, listing = nft_messages.plan_look_up(INSTANCE), nft_messages.plan_list(INSTANCE)
    _, delete, _ = nft_messages.plan_delete_table(INSTANCE)
    assert (look.kind, listing.kind, delete.kind) == (10 << 8 | 1, 10 << 8 | 13, 10 << 8 | 2)
    assert listing.flags == NLM_F_DUMP
    for message in (look, listing, delete):
        assert message.body[:4] == struct.pack(">BBH", 2, 0, 0)
        assert parse_attributes(message.body[4:])[1] == b"crisp_0badcafe\0"


def test_a_comment_is_cut_to_what_nft_prints() -> None:
    _, add, _ = nft_messages.plan_add(INSTANCE, [(ONE, "x" * 500)])
    assert nft_messages.parse_elements([Reply(0, 0, 1, add.body)]) == {"10.85.0.2": "x" * 127}


def test_user_data_of_other_kinds_is_skipped() -> None:
    userdata = bytes((9, 2, 7, 7)) + bytes((0, 3)) + b"hi\0"
    element = nested(1, attribute(1, ONE.packed)) + attribute(6, userdata)
    other = nested(1, attribute(1, IPv4Address("10.85.0.3").packed)) + attribute(6, bytes((9, 0)))
    body = bytes(4) + nested(3, nested(1, element), nested(1, other))
    assert nft_messages.parse_elements([Reply(0, 0, 1, body)]) == {"10.85.0.2": "hi", "10.85.0.3": ""}
