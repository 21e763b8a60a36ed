"""Bandwidth annotations as Kubernetes writes quantities, and the buckets of rates."""

from __future__ import annotations

import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.bandwidth import (
    EGRESS,
    HIGHEST,
    INGRESS,
    LOWEST,
    Bandwidth,
    Bucket,
    parse_rate,
    plan_bandwidth,
    plan_bucket,
)
from runtime.errors import InvalidArgument


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10M", 10_000_000),
        ("+10M", 10_000_000),
        ("1Mi", 1 << 20),
        ("1.5G", 1_500_000_000),
        ("1.k", 1000),
        (".001M", 1000),
        ("1000", 1000),
        ("0001000", 1000),
        ("1k", 1000),
        ("1000000m", 1000),
        ("1000000000u", 1000),
        ("1000000000000n", 1000),
        ("5e6", 5_000_000),
        ("5E+6", 5_000_000),
        ("50000e-1", 5000),
        ("1e0000000000006", 1_000_000),
        ("0.001E", 10**15),
        ("1P", 10**15),
        ("2.5Ki", 2560),
        ("999.0000001", 1000),
        ("1000.1", 1001),
        ("1000000000.0000000000000000000000000001", 10**9 + 1),
        ("123456789012345", 123_456_789_012_345),
    ],
)
def test_a_quantity_is_bits_a_second(text: str, rate: int) -> None:
    assert parse_rate(text, INGRESS) == rate


NO_QUANTITIES = (
    *("", " ", "10 M", " 10M", "10M ", "10M\n", "fast", "1MB", "1mi", "1K", "1ki", "1KI", "0x10", "1_000", "1,5M"),
    *(
        "٣M",
        "１M",
        ".",
        "+",
        "-",
        "M",
        ".M",
        "1..5M",
        "1.5.5M",
        "--1M",
        "1e",
        "1e+",
        "1e1.5",
        "1eM",
        "1M5",
        "NaN",
        "inf",
    ),
    *("1" * 65, "1" * 5000, "0" * 64 + "1M", "10M\0"),
)


@pytest.mark.parametrize("text", NO_QUANTITIES, ids=lambda text: repr(text[:20]))
def test_what_is_no_quantity_is_refused_by_name(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"annotation kubernetes\.io/egress-bandwidth: is no bandwidth"):
        parse_rate(text, EGRESS)


@pytest.mark.parametrize(
    "text",
    [
        *("999", "0", "-1M", "-0", "1m", "1n", "998.9", "1e-999999999", "0e99999999"),
        *("1.1P", "1000000000000000.1", "2E", "1Pi", "9e99", "1e999", "1e999999999999", "9" * 64),
    ],
)
def test_a_rate_outside_of_the_bounds_is_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="between 1k and 1P"):
        parse_rate(text, EGRESS)


@given(st.decimals(min_value=1000, max_value=10**15, places=6), st.sampled_from(["", "k", "M", "Ki", "Gi", "e3", "m"]))
def test_a_rate_is_exact_and_rounded_up(number: Decimal, unit: str) -> None:
    factors: dict[str, int | Fraction] = {
        "": 1,
        "k": 1000,
        "M": 10**6,
        "Ki": 1024,
        "Gi": 2**30,
        "e3": 1000,
        "m": Fraction(1, 1000),
    }
    factor = Fraction(factors[unit])
    wanted = math.ceil(Fraction(str(number)) * factor)
    if LOWEST <= wanted <= HIGHEST:
        assert parse_rate(f"{number}{unit}", INGRESS) == wanted
    else:
        with pytest.raises(InvalidArgument):
            parse_rate(f"{number}{unit}", INGRESS)


@given(st.text(max_size=80))
def test_any_text_is_a_rate_within_the_bounds_or_refused(text: str) -> None:
    try:
        assert LOWEST <= parse_rate(text, INGRESS) <= HIGHEST
    except InvalidArgument as fault:
        assert INGRESS in str(fault)


def test_each_annotation_limits_its_direction_alone() -> None:
    assert plan_bandwidth({}) is None and plan_bandwidth({"other": "x"}) is None
    assert plan_bandwidth({INGRESS: "1M", "other": "x"}) == Bandwidth(ingress=10**6)
    assert plan_bandwidth({EGRESS: "2M"}) == Bandwidth(egress=2 * 10**6)
    assert plan_bandwidth({EGRESS: "2M", INGRESS: "1k"}) == Bandwidth(1000, 2 * 10**6)
    with pytest.raises(InvalidArgument, match=INGRESS):
        plan_bandwidth({EGRESS: "2M", INGRESS: ""})


@pytest.mark.parametrize(
    ("rate", "mtu", "bucket"),
    [
        (10_000_000, 1500, Bucket(1_250_000, 62_500, 125_000)),
        (10**9, 1500, Bucket(125_000_000, 6_250_000, 12_500_000)),
        (1000, 1500, Bucket(125, 3028, 24224)),
        (1001, 1500, Bucket(126, 3028, 24224)),
        (10**6, 9000, Bucket(125_000, 18_028, 144_224)),
        (10**15, 1500, Bucket(125 * 10**12, 2**30, 2**31)),
    ],
)
def test_a_bucket_holds_a_twentieth_of_a_second_and_whole_frames(rate: int, mtu: int, bucket: Bucket) -> None:
    assert plan_bucket(rate, mtu) == bucket
