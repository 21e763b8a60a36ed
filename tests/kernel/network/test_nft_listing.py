"""Chains and rules as a real kernel lists them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from network.netlink import NETLINK_NETFILTER, NetlinkSocket
from network.nft_listing import (
    DROP,
    FORWARD,
    Chain,
    Rule,
    parse_chains,
    parse_rules,
    plan_delete_rule,
    plan_list_chains,
    plan_list_rules,
)

TABLE = """
table ip filter {
    chain FORWARD { type filter hook forward priority 0; policy drop; jump USER; }
    chain USER { tcp dport 80 accept comment "the web"; counter; }
}
table inet wall {
    chain forward { type filter hook forward priority 10; policy accept; meta l4proto tcp accept; counter drop; }
    chain input { type filter hook input priority 0; policy accept; }
}
"""
USER = Chain(2, "filter", "USER")


@pytest.fixture
def netfilter(host: Any) -> Iterator[NetlinkSocket]:
    assert host.run("nft", TABLE).returncode == 0
    with host.do(lambda: NetlinkSocket.open(NETLINK_NETFILTER)) as opened:
        yield opened


def _rules(netfilter: NetlinkSocket, chain: Chain) -> list[Rule]:
    return parse_rules(netfilter.dump(plan_list_rules(chain), step="list"))


def test_chains_are_listed_with_hook_and_policy(netfilter: NetlinkSocket) -> None:
    assert set(parse_chains(netfilter.dump(plan_list_chains(), step="list"))) == {
        Chain(2, "filter", "FORWARD", FORWARD, DROP),
        USER,
        Chain(1, "wall", "forward", FORWARD, 1),
        Chain(1, "wall", "input", 1, 1),
    }
    assert str(USER) == "ip filter USER"


def test_rules_are_listed_in_their_order_with_comment(netfilter: NetlinkSocket) -> None:
    web, counting = _rules(netfilter, USER)
    assert (web.comment, counting.comment) == ("the web", "") and web.handle < counting.handle


@pytest.mark.parametrize(
    ("rule", "refuses"),
    [
        ("drop", True),
        ("counter drop", True),
        ('log prefix "no" counter drop', True),
        ("counter", False),
        ("accept", False),
        ("tcp dport 80 drop", False),
        ("jump USER", False),
    ],
)
def test_a_rule_that_refuses_everything_is_known(host: Any, netfilter: NetlinkSocket, rule: str, refuses: bool) -> None:
    assert host.run("nft", "add", "rule", "inet", "wall", "input", rule.replace("USER", "forward")).returncode in (0, 1)
    listed = _rules(netfilter, Chain(1, "wall", "input"))
    assert [each.refuses for each in listed] == ([refuses] if listed else [])
    assert _rules(netfilter, Chain(1, "wall", "forward"))[-1].refuses


def test_a_rule_is_deleted_and_no_other(netfilter: NetlinkSocket) -> None:
    web, counting = _rules(netfilter, USER)
    netfilter.transact(plan_delete_rule(USER, web), step="delete")
    assert _rules(netfilter, USER) == [counting]
