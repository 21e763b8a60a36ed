"""Bandwidth annotations as Kubernetes writes quantities."""

from __future__ import annotations

import pytest

from network.cni.bandwidth import BURST, EGRESS, INGRESS, parse_rate, plan_bandwidth
from runtime.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10M", 10_000_000),
        ("1Mi", 1 << 20),
        ("1.5G", 1_500_000_000),
        ("1000", 1000),
        ("1k", 1000),
        ("5e6", 5_000_000),
        ("1P", 10**15),
        ("2.5Ki", 2560),
    ],
)
def test_a_quantity_is_bits_a_second(text: str, rate: int) -> None:
    assert parse_rate(text, INGRESS) == rate


@pytest.mark.parametrize("text", ["", "10 M", "-1M", "fast", "1MB", "0x10", "٣M", "1" * 30, "1e999", "1m"])
def test_what_is_no_quantity_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"annotation kubernetes\.io/egress-bandwidth: is no bandwidth"):
        parse_rate(text, EGRESS)


@pytest.mark.parametrize("text", ["999", "0", "1.1P", "2E", "9e99"])
def test_a_rate_outside_of_the_bounds_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="between 1k and 1P"):
        parse_rate(text, EGRESS)


def test_each_annotation_limits_its_direction_alone() -> None:
    assert plan_bandwidth({}) == {}
    assert plan_bandwidth({INGRESS: "1M", "other": "x"}) == {"ingressRate": 10**6, "ingressBurst": BURST}
    assert plan_bandwidth({EGRESS: "2M"}) == {"egressRate": 2 * 10**6, "egressBurst": BURST}
