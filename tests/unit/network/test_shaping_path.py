"""What limits a pod, told from what was seen, piece by piece."""

from __future__ import annotations

from dataclasses import replace

import pytest

from network.bandwidth import Bandwidth
from network.provider import Hop
from network.rtnetlink import Link
from network.shaping_path import Seen, plan_limits

SANDBOX = "5a" * 32
LINK = Link(7, "crp5a5a5a5a5a5a", "veth", "", 4, 1500, bytes(6), True)
IFB = Link(8, "cre5a5a5a5a5a5a", "ifb", "", 0, 1500, bytes(6), True)
BOTH = Bandwidth(10_000_000, 20_000_001)
SEEN = Seen(LINK, IFB, {7: 1_250_000, 8: 2_500_001}, frozenset({8}))


def test_of_sound_limits_each_piece_is_told_and_nothing_is_missing() -> None:
    assert plan_limits(SANDBOX, BOTH, SEEN) == (
        Hop("bandwidth", "receives 10000000 bit/s at most", "tbf of crp5a5a5a5a5a5a"),
        Hop("egress link", "cre5a5a5a5a5a5a", "index 8, up, mtu 1500"),
        Hop("redirection", "crp5a5a5a5a5a5a to cre5a5a5a5a5a5a", "all that the pod sends"),
        Hop("bandwidth", "sends 20000001 bit/s at most", "tbf of cre5a5a5a5a5a5a"),
    )


@pytest.mark.parametrize(("bandwidth", "hops"), [(Bandwidth(ingress=1000), 1), (Bandwidth(egress=1000), 3)])
def test_a_direction_without_a_rate_has_no_hop(bandwidth: Bandwidth, hops: int) -> None:
    assert len(plan_limits(SANDBOX, bandwidth, SEEN)) == hops


REDIRECTION, SENDS = "crp5a5a5a5a5a5a to cre5a5a5a5a5a5a", "sends 20000001 bit/s at most"


@pytest.mark.parametrize(
    ("seen", "told"),
    [
        (
            replace(SEEN, rates={8: 2_500_001}),
            {"receives 10000000 bit/s at most": "no token bucket on crp5a5a5a5a5a5a"},
        ),
        (replace(SEEN, rates={7: 1_250_000, 8: 5}), {SENDS: "its rate is 40 bit/s"}),
        (replace(SEEN, target=replace(IFB, up=False)), {"cre5a5a5a5a5a5a": "it is down"}),
        (
            replace(SEEN, target=replace(IFB, kind="dummy")),
            {"cre5a5a5a5a5a5a": "there is no ifb link of this name"},
        ),
        (
            replace(SEEN, redirects=frozenset()),
            {REDIRECTION: "there is none: what the pod sends is not limited"},
        ),
        (
            replace(SEEN, target=None, redirects=frozenset({0})),
            {
                "cre5a5a5a5a5a5a": "there is no ifb link of this name",
                REDIRECTION: "it leads to a link that is gone: what the pod sends is dropped",
                SENDS: "no token bucket on cre5a5a5a5a5a5a",
            },
        ),
    ],
)
def test_what_is_broken_is_told_and_nothing_else(seen: Seen, told: dict[str, str]) -> None:
    assert {hop.name: hop.missing for hop in plan_limits(SANDBOX, BOTH, seen) if hop.missing} == told
