"""Other programs' tables: what they refuse is found, and nothing but our rules is touched."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from network.foreign import Others
from network.netlink import NETLINK_NETFILTER, NetlinkSocket

DOCKER = """
table ip filter {
    chain DOCKER-USER { counter return; }
    chain FORWARD { type filter hook forward priority 0; policy drop; jump DOCKER-USER; }
}
"""
WALL = "table inet wall { chain passing { type filter hook forward priority 10; policy accept; counter drop; }; }"
SIX = "table ip6 filter { chain FORWARD { type filter hook forward priority 0; policy drop; }; }"
OPEN = """
table ip open { chain FORWARD { type filter hook forward priority 0; policy accept; tcp dport 25 drop; }; }
table ip local { chain INPUT { type filter hook input priority 0; policy drop; }; }
table inet crisp_deadbeef { chain forward { type filter hook forward priority 0; policy drop; }; }
"""


@pytest.fixture
def others(host: Any) -> Iterator[Others]:
    with host.do(lambda: NetlinkSocket.open(NETLINK_NETFILTER)) as netfilter:
        yield Others(netfilter, "0badcafe", "crt0")


def _found(others: Others, *versions: int) -> list[tuple[str, str]]:
    return [(str(each.chain), str(each.entry)) for each in others.obstacles(versions)]


def _ruleset(host: Any) -> str:
    return str(host.run("nft", "-s", "list", "ruleset").stdout)


def _use(host: Any, text: str) -> None:
    done = host.run("nft", text)
    assert done.returncode == 0, done.stderr


def test_a_host_that_lets_everything_through_has_no_obstacle(host: Any, others: Others) -> None:
    assert _found(others, 4, 6) == []
    _use(host, OPEN)
    assert _found(others, 4, 6) == []


def test_what_refuses_by_policy_or_by_its_last_rule_is_found_for_the_families_that_count(
    host: Any, others: Others
) -> None:
    for text in (DOCKER, WALL, SIX):
        _use(host, text)
    docker, wall, six = (
        ("ip filter FORWARD", "ip filter DOCKER-USER"),
        ("inet wall passing", "inet wall passing"),
        ("ip6 filter FORWARD", "ip6 filter FORWARD"),
    )
    assert set(_found(others, 4, 6)) == {docker, wall, six}
    assert set(_found(others, 4)) == {docker, wall}
    assert set(_found(others, 6)) == {wall, six}
    said = " ".join(each.describe("crt0") for each in others.obstacles({4}))
    assert 'nft insert rule ip filter DOCKER-USER iifname "crt0" accept' in said


def test_a_rule_that_names_the_bridge_is_respected(host: Any, others: Others) -> None:
    _use(host, DOCKER)
    _use(host, 'insert rule ip filter FORWARD iifname "crt0" accept')
    assert _found(others, 4) == []
    _use(host, WALL)
    _use(host, 'insert rule inet wall passing iifname "crt01" accept')
    assert _found(others, 4) == [("inet wall passing", "inet wall passing")]


def test_entries_remove_the_obstacle_and_leave_no_trace_when_they_go(host: Any, others: Others) -> None:
    for text in (DOCKER, WALL, SIX):
        _use(host, text)
    before = _ruleset(host)
    _use(host, others.plan_entries(others.obstacles({4, 6})))
    assert _found(others, 4, 6) == []
    for side in ("iifname", "oifname"):
        assert _ruleset(host).count(f'{side} "crt0" counter accept comment "crisp 0badcafe"') == 3
    assert others.remove_entries() == 6
    assert others.remove_entries() == 0
    assert _ruleset(host) == before
