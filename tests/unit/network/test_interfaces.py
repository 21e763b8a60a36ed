"""Interface counters out of /proc: which interfaces, which is the default, and of which namespace."""

from __future__ import annotations

from pathlib import Path

import pytest

from network.interfaces import Interface, default_interface, identity, parse_interfaces, read_interfaces

DEV = b"""Inter-|   Receive |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo: 111 1 0 0 0 0 0 0 111 1 0 0 0 0 0 0
crp0123456789ab: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0
  net1: 5 4 3 2 0 0 0 0 6 7 8 9 0 0 0 0
  eth0:1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0
"""
ROUTE = b"""Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0
net1\t00000000\t0100000B\t0003\t0\t0\t50\t00000000\t0\t0\t0
eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with one process, 7, whose namespace is the file ``ns/net``."""
    for name in ("net", "ns"):
        (tmp_path / "7" / name).mkdir(parents=True)
    (tmp_path / "7/net/dev").write_bytes(DEV)
    (tmp_path / "7/net/route").write_bytes(ROUTE)
    (tmp_path / "7/ns/net").touch()
    return tmp_path


def test_the_loopback_and_the_links_of_other_pods_are_left_out() -> None:
    assert parse_interfaces(DEV) == (
        Interface("net1", 5, 4, 3, 2, 6, 7, 8, 9),
        Interface("eth0", 1000, 10, 1, 2, 2000, 20, 3, 4),
    )


def test_the_default_interface_is_that_of_the_cheapest_default_route() -> None:
    assert default_interface(ROUTE) == "net1"
    assert default_interface(b"Iface\n") == ""


def test_a_pods_own_interface_comes_first(proc: Path) -> None:
    found = read_interfaces(7, identity(str(proc / "7/ns/net")), str(proc))
    assert [each.name for each in found] == ["eth0", "net1"]


def test_the_nodes_default_interface_comes_first(proc: Path) -> None:
    assert [each.name for each in read_interfaces(7, None, str(proc))] == ["net1", "eth0"]


def test_another_namespace_or_process_than_the_named_has_no_counters(proc: Path) -> None:
    (proc / "other").touch()
    assert read_interfaces(7, identity(str(proc / "other")), str(proc)) == ()
    assert identity(str(proc / "gone")) is None
    assert read_interfaces(8, None, str(proc)) == ()


def test_the_nodes_interfaces_can_be_read() -> None:
    assert all(each.name != "lo" for each in read_interfaces(1))
