"""The nftables table in a private network namespace, by the nft command and without it."""

from __future__ import annotations

import errno
import json
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from pathlib import Path
from typing import Any

import pytest

from network.elements import Element, Pod, plan_elements
from network.nft import Table
from network.nft_table import Rules
from network.provider import PortMapping
from runtime.errors import HostFault

INSTANCE = "0badcafe"
SUBNET = IPv4Network("10.91.0.0/24")
SUBNET_V6 = IPv6Network("fd00:91::/64")
ONE = Element("pods_v4", IPv4Address("10.91.0.2").packed, "one")
TWO = Element("pods_v4", IPv4Address("10.91.0.3").packed)
SIX = Element("pods_v6", IPv6Address("fd00:91::2").packed, "one")


@pytest.fixture
def table(host: Any) -> Iterator[Table]:
    made: Table = host.do(lambda: Table(INSTANCE))
    yield made
    made.close()


def _ruleset(host: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(host.run("nft", "-j", "list", "ruleset").stdout)["nftables"]
    return found


def test_the_table_masquerades_pods_and_is_the_same_when_made_again(host: Any, table: Table) -> None:
    host.do(
        lambda: table.ensure(
            Rules(
                "crt0",
                (
                    SUBNET,
                    SUBNET_V6,
                ),
            )
        )
    )
    first = host.run("nft", "-s", "list", "ruleset").stdout
    host.do(
        lambda: table.ensure(
            Rules(
                "crt0",
                (
                    SUBNET,
                    SUBNET_V6,
                ),
            )
        )
    )
    assert host.run("nft", "-s", "list", "ruleset").stdout == first
    assert "ip saddr @pods_v4 ip daddr != @subnets_v4" in first and "masquerade" in first
    assert "ip6 saddr @pods_v6 ip6 daddr != @subnets_v6" in first
    assert {entry["table"]["name"] for entry in _ruleset(host) if "table" in entry} == {f"crisp_{INSTANCE}"}


def test_subnets_follow_and_elements_stay_when_the_table_is_made_again(host: Any, table: Table) -> None:
    host.do(lambda: table.ensure(Rules("crt0", (SUBNET,))))
    table.add([ONE, SIX])
    host.do(
        lambda: table.ensure(
            Rules(
                "crt0",
                (
                    IPv4Network("10.92.0.0/24"),
                    SUBNET,
                ),
            )
        )
    )
    assert table.elements() == [ONE, SIX]
    listed = host.run("nft", "list", "set", "inet", table.name, "subnets_v4").stdout
    assert "10.91.0.0/24" in listed and "10.92.0.0/24" in listed
    host.do(lambda: table.ensure(Rules("crt0")))
    assert "elements" not in host.run("nft", "list", "set", "inet", table.name, "subnets_v4").stdout


def test_adding_and_removing_an_element_may_be_repeated(host: Any, table: Table) -> None:
    host.do(lambda: table.ensure(Rules("crt0", (SUBNET,))))
    for _ in range(2):
        table.add([ONE, TWO, SIX])
    assert sorted(table.elements() or (), key=str) == [ONE, TWO, SIX]
    assert 'comment "pod one"' in host.run("nft", "list", "table", "inet", table.name).stdout
    assert table.discard([ONE]) and not table.discard([ONE]) and table.discard([])
    assert sorted(table.elements() or (), key=str) == [TWO, SIX]


def test_thousands_of_elements_come_and_go(host: Any, table: Table) -> None:
    """More than one netlink attribute holds (CVE-2021-43784 is of one that was too long)."""
    host.do(lambda: table.ensure(Rules("crt0", (SUBNET,))))
    ports = tuple(PortMapping("tcp", port, port, "") for port in range(1, 3001))
    many = plan_elements(Pod("one" * 20, ("10.91.0.2",), ports))
    table.add(many)
    assert len(table.elements() or ()) == len(many)
    assert table.discard(many) and table.elements() == []


def test_of_several_elements_those_that_are_there_go(host: Any, table: Table) -> None:
    host.do(lambda: table.ensure(Rules("crt0", (SUBNET,))))
    table.add([ONE, SIX])
    assert not table.discard([ONE, TWO, SIX])
    assert table.elements() == []


def test_a_thousand_elements_go_in_and_come_out(host: Any, table: Table) -> None:
    host.do(lambda: table.ensure(Rules("crt0", (SUBNET,))))
    first = int(IPv4Address("10.93.0.0"))
    wanted = {Element("pods_v4", IPv4Address(first + number).packed, f"{number:064x}") for number in range(1000)}
    table.add(list(wanted))
    listed = table.elements() or []
    assert (set(listed), len(listed)) == (wanted, 1000)


def test_without_a_table_adding_fails_and_everything_else_says_it_is_gone(table: Table) -> None:
    with pytest.raises(HostFault) as caught:
        table.add([ONE])
    assert (caught.value.call, caught.value.errno) == ("NFT_MSG_NEWSETELEM", errno.ENOENT)
    assert "10.91.0.2 in pods_v4 of crisp_0badcafe" in str(caught.value)
    assert table.elements() is None
    assert not table.exists() and not table.discard([ONE]) and not table.delete()


def test_deleting_the_table_leaves_other_tables_alone(host: Any, table: Table) -> None:
    host.run("nft", "add", "table", "ip", "crisp_other")
    host.do(lambda: table.ensure(Rules("crt0", (SUBNET,))))
    assert table.exists() and table.delete() and not table.exists()
    assert {entry["table"]["name"] for entry in _ruleset(host) if "table" in entry} == {"crisp_other"}


def test_a_missing_nft_command_is_named(host: Any, tmp_path: Path) -> None:
    table = host.do(lambda: Table(INSTANCE, path=str(tmp_path)))
    try:
        with pytest.raises(HostFault, match=f"nft: no nft command in {tmp_path}; install the package nftables"):
            table.ensure(Rules("crt0", (SUBNET,)))
    finally:
        table.close()


@pytest.mark.parametrize(
    ("script", "said"),
    [
        (
            "cat >/dev/null; echo '/dev/stdin:1:1-3: Error: Could not process rule: Not supported' >&2; exit 1",
            "could not",
        ),
        ("cat >/dev/null; echo 'no netlink for you' >&2; exit 1", "nft: no netlink for you"),
        ("cat >/dev/null; exit 3", "nft: exit status 3"),
    ],
)
def test_what_nft_says_is_in_the_fault(host: Any, tmp_path: Path, script: str, said: str) -> None:
    command = tmp_path / "nft"
    command.write_text(f"#!/bin/sh\nPATH=/usr/bin:/bin\n{script}\n")
    command.chmod(0o755)
    table = host.do(lambda: Table(INSTANCE, path=str(tmp_path)))
    try:
        with pytest.raises(HostFault, match=said):
            table.ensure(Rules("crt0", (SUBNET,)))
        command.write_text("not a program")
        with pytest.raises(HostFault) as caught:
            table.ensure(Rules("crt0", (SUBNET,)))
        assert caught.value.errno == errno.ENOEXEC
    finally:
        table.close()
