"""Queueing disciplines as the kernel reads them."""

from __future__ import annotations

import socket
import struct

from network import traffic_control
from network.bandwidth import Bucket
from network.netlink import Message, Reply, attribute, parse_attributes

EXCLUSIVE = 0x604
"""NLM_F_CREATE, NLM_F_EXCL and NLM_F_ACK."""


def _tcmsg(body: bytes) -> tuple[int, ...]:
    """Interface, handle, parent and info."""
    return struct.unpack_from("=4xiIII", body)


def test_an_ifb_link_is_made_down_and_in_the_daemons_group() -> None:
    message = traffic_control.new_ifb("cre1", group=7)
    assert (message.call, message.object, message.kind, message.flags) == ("RTM_NEWLINK", "cre1", 16, EXCLUSIVE)
    assert struct.unpack_from("=BxHiII", message.body) == (0, 0, 0, 0, 0)
    found = parse_attributes(message.body[16:])
    assert (found[3], found[27]) == (b"cre1\0", struct.pack("=I", 7))
    assert parse_attributes(found[18]) == {1: b"ifb\0"}


def test_a_bucket_is_the_root_with_its_rate_in_64_bits() -> None:
    message = traffic_control.new_tbf("crp1", 9, Bucket(125 * 10**12, 3028, 24224))
    assert (message.call, message.object, message.kind, message.flags) == ("RTM_NEWQDISC", "crp1", 36, EXCLUSIVE)
    assert _tcmsg(message.body) == (9, 0x10000, 0xFFFFFFFF, 0)
    found = parse_attributes(message.body[20:])
    assert found[1] == b"tbf\0"
    options = parse_attributes(found[2])
    assert struct.unpack("=Q", options[4]) == (125 * 10**12,) and struct.unpack("=I", options[6]) == (3028,)
    parameters = options[1]
    assert len(parameters) == 36
    assert struct.unpack_from("=BBHhHI", parameters) == (0, 1, 0, 0, 0, 0xFFFFFFFF)
    assert parameters[12:24] == bytes(12)
    assert struct.unpack_from("=III", parameters, 24) == (24224, 0, 0)


def test_a_low_rate_is_in_the_32_bits_too() -> None:
    found = parse_attributes(traffic_control.new_tbf("crp1", 9, Bucket(125, 3028, 24224)).body[20:])
    assert struct.unpack_from("=8xI", parse_attributes(found[2])[1]) == (125,)


def test_what_comes_by_a_link_is_redirected_whatever_it_is() -> None:
    place = traffic_control.new_ingress("crp1", 9)
    assert (place.kind, place.flags, _tcmsg(place.body)) == (36, EXCLUSIVE, (9, 0xFFFF0000, 0xFFFFFFF1, 0))
    assert parse_attributes(place.body[20:]) == {1: b"ingress\0"}
    message = traffic_control.new_redirect("crp1", 9, 12)
    assert (message.call, message.kind, message.flags) == ("RTM_NEWTFILTER", 44, EXCLUSIVE)
    assert _tcmsg(message.body) == (9, 0, 0xFFFF0000, 1 << 16 | socket.htons(3))
    found = parse_attributes(message.body[20:])
    assert found[1] == b"u32\0"
    options = parse_attributes(found[2])
    assert options[5] == bytes((1, 0, 1)) + bytes(13 + 16)
    first = parse_attributes(parse_attributes(options[7])[1])
    assert first[1] == b"mirred\0"
    assert struct.unpack("=IIiiiiI", parse_attributes(first[2])[2]) == (0, 0, 4, 0, 0, 1, 12)


def test_both_are_removed_by_their_handles() -> None:
    root, place = traffic_control.delete_root("crp1", 9), traffic_control.delete_ingress("crp1", 9)
    assert (root.kind, root.flags, place.kind, place.flags) == (37, 4, 37, 4)
    assert _tcmsg(root.body) == (9, 0x10000, 0xFFFFFFFF, 0) and _tcmsg(place.body) == (9, 0xFFFF0000, 0xFFFFFFF1, 0)


def _listed(message: Message) -> Reply:
    """The kernel lists what it was given in the same layout."""
    return Reply(message.kind, 0, 1, message.body)


def test_of_what_is_listed_only_a_bucket_for_all_has_a_rate() -> None:
    for rate in (125, 125 * 10**12):
        bucket = traffic_control.new_tbf("crp1", 9, Bucket(rate, 3028, 24224))
        assert traffic_control.parse_rate(_listed(bucket)) == (9, rate)
        inner = bucket.body[:12] + struct.pack("=I", 0x10000) + bucket.body[16:]
        assert traffic_control.parse_rate(Reply(36, 0, 1, inner)) is None
    low = struct.pack("=BBHhHI", 0, 1, 0, 0, 0, 125) + bytes(24)
    options = attribute(1, b"tbf\0") + attribute(2, attribute(1, low))
    assert traffic_control.parse_rate(Reply(36, 0, 1, bucket.body[:20] + options)) == (9, 125)
    assert traffic_control.parse_rate(_listed(traffic_control.new_ingress("crp1", 9))) is None


def test_of_listed_filters_only_a_redirection_leads_to_a_link() -> None:
    redirect = traffic_control.new_redirect("crp1", 9, 12)
    assert traffic_control.parse_redirect(_listed(redirect)) == 12
    assert traffic_control.parse_redirect(Reply(44, 0, 1, redirect.body[:20] + attribute(1, b"u32\0"))) is None
    assert traffic_control.parse_redirect(Reply(44, 0, 1, redirect.body.replace(b"mirred", b"police"))) is None
    assert traffic_control.parse_redirect(Reply(44, 0, 1, redirect.body.replace(b"u32\0", b"bpf\0"))) is None


def test_all_disciplines_are_listed_and_the_filters_of_one_link() -> None:
    disciplines, filters = traffic_control.dump_disciplines(), traffic_control.dump_filters("crp1", 9)
    assert (disciplines.kind, disciplines.flags, _tcmsg(disciplines.body)) == (38, 0x300, (0, 0, 0, 0))
    assert (filters.kind, filters.flags, _tcmsg(filters.body)) == (46, 0x300, (9, 0, 0xFFFF0000, 0))
