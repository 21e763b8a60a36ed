"""A bridge's port in what the kernel lists."""

from __future__ import annotations

import struct

import pytest

from network.bridge_port import Port, parse_port, set_port
from network.netlink import NLM_F_ACK, Reply, attribute, nested, parse_attributes, text, u32


def reply(*attributes: bytes) -> Reply:
    return Reply(16, 0, 1, struct.pack("=BxHiII", 0, 1, 7, 0x1003, 0) + b"".join(attributes))


def test_a_port_has_its_state_its_mode_and_the_pairs_other_end() -> None:
    data = nested(5, attribute(1, b"\3"), attribute(4, b"\1"))
    found = parse_port(reply(u32(5, 2), nested(18, text(1, "veth"), text(4, "bridge"), data)))
    assert found == Port(7, 2, 3, True)


def test_what_is_no_bridges_port_is_none() -> None:
    assert parse_port(reply(nested(18, text(1, "veth")))) is None
    assert parse_port(reply(nested(18, text(4, "bond")))) is None
    assert parse_port(reply()) is None


def test_a_port_of_the_bridge_gets_an_alias_and_reflects_in_one_message() -> None:
    message = set_port("crp1", alias=b"crisp:0badcafe:x")
    assert (message.kind, message.flags) == (16, NLM_F_ACK)
    found = parse_attributes(message.body[16:])
    assert (found[3], found[20]) == (b"crp1\0", b"crisp:0badcafe:x")
    info = parse_attributes(found[18])
    assert info[4] == b"bridge\0" and parse_attributes(info[5]) == {4: b"\1"}
    by_index = set_port("crp1", index=9)
    assert struct.unpack_from("=BxHiII", by_index.body) == (0, 0, 9, 0, 0)
    assert set(parse_attributes(by_index.body[16:])) == {18}


@pytest.mark.parametrize(
    ("port", "said", "problem"),
    [
        (Port(7, 2, 3, True), "forwarding, hairpin on", ""),
        (
            Port(7, 2, 3, False),
            "forwarding, hairpin off",
            "hairpin is off: the pod does not reach itself by a host port",
        ),
        (Port(7, 2, 0, True), "disabled, hairpin on", "it does not forward"),
        (Port(7, 2, 9, True), "state 9, hairpin on", "it does not forward"),
    ],
)
def test_a_port_says_what_keeps_frames_from_passing(port: Port, said: str, problem: str) -> None:
    assert port.describe() == said
    assert port.problem().startswith(problem) and bool(port.problem()) == bool(problem)
