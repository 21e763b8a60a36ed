from __future__ import annotations

from ipaddress import IPv4Network, IPv6Network, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.errors import NetworkNotReady
from network.subnet import Pool, parse_subnet, parse_subnets, refuse_overlaps
from runtime.errors import InvalidArgument


@st.composite
def pools(draw: st.DrawFn) -> Pool:
    length = draw(st.integers(22, 30))
    base = draw(st.integers(0, 2**24 - 1)) | 10 << 24
    return Pool(IPv4Network((base, length), strict=False))


@given(pools(), st.integers(0, 2**32 - 1))
def test_candidates_are_each_pod_address_once_whatever_came_before(pool: Pool, after: int) -> None:
    listed = list(pool.candidates(str(ip_address(after))))
    assert len(listed) == len(set(listed)) == pool.size
    taken = {str(pool.network.network_address), str(pool.network.broadcast_address), str(pool.gateway)}
    assert not taken & set(listed)
    assert all(ip_address(address) in pool.network for address in listed)


def test_candidates_begin_behind_the_last_and_go_round() -> None:
    pool = Pool(IPv4Network("10.85.0.0/29"))
    assert list(pool.candidates()) == [f"10.85.0.{host}" for host in (2, 3, 4, 5, 6)]
    assert list(pool.candidates("10.85.0.4")) == [f"10.85.0.{host}" for host in (5, 6, 2, 3, 4)]
    assert next(pool.candidates("10.85.0.6")) == "10.85.0.2"


def test_a_pool_names_gateway_and_interfaces_with_the_subnets_prefix() -> None:
    pool = Pool(IPv4Network("10.85.0.0/16"))
    assert (pool.name, str(pool.gateway), str(pool.gateway_interface)) == ("10.85.0.0/16", "10.85.0.1", "10.85.0.1/16")
    assert str(pool.interface("10.85.3.4")) == "10.85.3.4/16"
    assert Pool(IPv4Network("10.85.0.0/30")).size == 1


def test_an_ipv6_pool_has_no_broadcast_address_and_its_first_addresses_only() -> None:
    pool = Pool(IPv6Network("fd00:85::/126"))
    assert (list(pool.candidates()), pool.size) == (["fd00:85::2", "fd00:85::3"], 2)
    assert (str(pool.gateway), str(pool.gateway_interface)) == ("fd00:85::1", "fd00:85::1/126")
    large = Pool(IPv6Network("fd00:85::/64"))
    assert (large.version, large.size, next(large.candidates())) == (6, 65534, "fd00:85::2")
    assert next(large.candidates("fd00:85::ffff")) == "fd00:85::2"
    assert str(large.interface("fd00:85::7")) == "fd00:85::7/64"


def test_a_twin_stands_where_the_other_address_stands() -> None:
    four, six = Pool(IPv4Network("10.85.0.0/16")), Pool(IPv6Network("fd00:85::/64"))
    assert six.twin("10.85.1.7", four) == "fd00:85::107"
    assert Pool(IPv6Network("fd00:85::/126")).twin("10.85.1.7", four) == ""


def test_subnets_are_pools_in_their_order() -> None:
    assert parse_subnets([]) == parse_subnets(["", " "]) == ()
    four, six = Pool(IPv4Network("10.85.0.0/16")), Pool(IPv6Network("fd00:85::/64"))
    assert parse_subnets(["fd00:85::/64", "", "10.85.0.0/16"]) == (six, four)
    assert parse_subnets(["fd00:85::/64"]) == (six,)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("10.85.0.1/16", "host bits set"),
        ("10.85.0.0", "needs its prefix length"),
        ("pods", "not a subnet in CIDR notation"),
        ("10.85.0.0/33", "not a subnet in CIDR notation"),
        ("10.85.0.0/31", "too small"),
        ("10.85.0.0/32", "too small"),
        ("127.0.0.0/24", "not a subnet that pods can have"),
        ("224.0.0.0/24", "not a subnet that pods can have"),
        ("169.254.0.0/24", "not a subnet that pods can have"),
        ("0.0.0.0/0", "not a subnet that pods can have"),
        ("240.0.0.0/8", "reserved"),
        ("fd00::/127", "too small"),
        ("fe80::/64", "not a subnet that pods can have"),
        ("\uff11\uff10.0.0.0/8", "not a subnet in CIDR notation"),
    ],
)
def test_what_pods_cannot_have_is_refused(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        parse_subnets([text])


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        ("10.85.0.0/16", "10.86.0.0/16", r"10\.85\.0\.0/16, 10\.86\.0\.0/16: .*name one IPv4 subnet"),
        ("fd00:85::/64", "fd00:86::/64", r"fd00:85::/64, fd00:86::/64: .*name one IPv6 subnet"),
    ],
)
def test_two_subnets_of_one_family_are_refused_by_name(one: str, other: str, said: str) -> None:
    with pytest.raises(InvalidArgument, match=said):
        parse_subnets([one, other])


@pytest.mark.parametrize(
    ("new", "old"), [("10.85.0.0/16", "10.85.4.0/24"), ("10.85.4.0/24", "10.85.0.0/16"), ("fd00::/64", "fd00::/80")]
)
def test_a_pool_that_overlaps_one_of_pods_that_are_there_is_refused_with_both_names(new: str, old: str) -> None:
    pool, other = Pool(parse_subnet(new)), Pool(parse_subnet(old))
    with pytest.raises(NetworkNotReady, match=f"subnet {new}: overlaps with {old}, of which pods still have addresses"):
        refuse_overlaps([pool], [Pool(parse_subnet("10.99.0.0/16")), other])
    refuse_overlaps([pool], [pool, Pool(parse_subnet("10.86.0.0/16")), Pool(parse_subnet("fd01::/64"))])
