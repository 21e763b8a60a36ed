from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from network.names import (
    IFALIASZ,
    IFNAMSIZ,
    Alias,
    check_link_name,
    egress_link_name,
    hardware_address,
    host_link_name,
    parse_alias,
    table_name,
)
from runtime.errors import InvalidArgument


@given(st.integers(0, 2**32 - 1), st.text(min_size=1))
def test_an_alias_is_read_as_it_was_written(instance: int, subject: str) -> None:
    alias = Alias(f"{instance:08x}", subject)
    assert parse_alias(str(alias)) == alias
    assert alias.group == instance


@pytest.mark.parametrize(
    "text", ["", "crisp", "crisp:", "crisp:0badcafe", "crisp:0badcafe:", "crisp:0BADCAFE:x", "x:0badcafe:y"]
)
def test_a_strangers_alias_is_nobodys(text: str) -> None:
    assert parse_alias(text) is None


def test_a_path_makes_it_a_bridges_alias() -> None:
    assert Alias("0badcafe", "/var/lib/crisp").is_bridge
    assert not Alias("0badcafe", "ab" * 32).is_bridge


def test_a_long_path_is_cut_to_what_the_kernel_holds() -> None:
    raw = Alias("0badcafe", "/" + "é" * 300).encode()
    assert len(raw) == IFALIASZ - 1 and raw.startswith(b"crisp:0badcafe:/")


def test_a_pods_link_name_fits_the_kernel() -> None:
    name = host_link_name("0123456789abcdef" * 4)
    assert name == "crp0123456789ab" and len(name) == IFNAMSIZ - 1
    assert check_link_name(name) == name


def test_a_pods_two_links_have_names_that_differ_and_fit_the_kernel() -> None:
    name = egress_link_name("0123456789abcdef" * 4)
    assert name == "cre0123456789ab" and check_link_name(name) == name


def test_the_table_carries_the_instance() -> None:
    assert table_name("0badcafe") == "crisp_0badcafe"


@pytest.mark.parametrize(("address", "hardware"), [("10.85.0.1", "0a580a550001"), ("fd00::1:2", "0a5800010002")])
def test_a_hardware_address_follows_from_the_address_and_is_local_unicast(address: str, hardware: str) -> None:
    made = hardware_address(ip_address(address))
    assert made.hex() == hardware
    assert made[0] & 0b11 == 0b10


@pytest.mark.parametrize("name", ["", ".", "..", "-x", "a/b", "a b", "x" * 16, "br0\n", "bré", "crisp0:1"])
def test_a_name_that_no_interface_can_have_is_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="not an interface name"):
        check_link_name(name)
