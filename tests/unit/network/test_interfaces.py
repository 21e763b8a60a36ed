"""Interface counters out of /proc: which interfaces, which is the default, and of which namespace."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from network.interfaces import MOST, Interface, PodInterfaces, default_interface, parse_interfaces, read_node
from tests.descriptors import open_descriptors

DEV = b"""Inter-|   Receive |  Transmit
 face |bytes packets errs drop fifo frame compressed multicast|bytes packets errs drop fifo colls carrier compressed
    lo: 111 1 0 0 0 0 0 0 111 1 0 0 0 0 0 0
veth1: 8 8 8 8 0 0 0 0 8 8 8 8 0 0 0 0
crp0123456789ab: 9 9 9 9 0 0 0 0 9 9 9 9 0 0 0 0
  net1: 5 4 3 2 0 0 0 0 6 7 8 9 0 0 0 0
  eth0:1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0
"""
ALL = ["eth0", "veth1", "crp0123456789ab", "net1"]
"""What a pod has of them."""
ROUTE = b"""Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100000A\t0003\t0\t0\t100\t00000000\t0\t0\t0
net1\t00000000\t0100000B\t0003\t0\t0\t50\t00000000\t0\t0\t0
eth0\t0000000A\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0
"""


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A /proc with one process, 7, whose namespace is the file ``ns/net``."""
    make_process(tmp_path / "7", DEV)
    return tmp_path


def make_process(folder: Path, counters: bytes) -> None:
    for name in ("net", "ns"):
        (folder / name).mkdir(parents=True)
    (folder / "net/dev").write_bytes(counters)
    (folder / "net/route").write_bytes(ROUTE)
    (folder / "ns/net").touch()


@pytest.fixture
def interfaces(proc: Path) -> Iterator[PodInterfaces]:
    """Ends with nothing open."""
    before = open_descriptors()
    made = PodInterfaces(str(proc))
    yield made
    made.close()
    assert open_descriptors() == before


def names(found: tuple[Interface, ...]) -> list[str]:
    return [each.name for each in found]


def test_the_loopback_and_on_the_node_the_links_of_pods_are_left_out() -> None:
    assert parse_interfaces(DEV, "net1", leave_out=("veth", "crp")) == (
        Interface("net1", 5, 4, 3, 2, 6, 7, 8, 9),
        Interface("eth0", 1000, 10, 1, 2, 2000, 20, 3, 4),
    )
    assert names(parse_interfaces(DEV, "eth0")) == ALL


def test_so_many_are_told_that_no_pod_spoils_the_answer_for_all() -> None:
    lines = [f"  x{number}: {' 1' * 16}".encode() for number in range(1000)]
    found = parse_interfaces(b"\n".join([b"", b"", *lines, b"eth0: " + b"1 " * 16]), "eth0")
    assert names(found)[:2] == ["eth0", "x0"] and len(found) == MOST


def test_the_default_interface_is_that_of_the_cheapest_default_route() -> None:
    assert default_interface(ROUTE) == "net1"
    assert default_interface(b"Iface\n") == ""


def test_a_pods_own_interface_comes_first(interfaces: PodInterfaces, proc: Path) -> None:
    for _ in range(2):
        assert names(interfaces.read("s1", 7, f"{proc}/7/ns/net")) == ALL


def test_the_nodes_default_interface_comes_first(proc: Path) -> None:
    assert names(read_node(f"{proc}/7")) == ["net1", "eth0"]
    assert read_node(f"{proc}/8") == ()


def test_another_namespace_or_process_than_the_named_has_no_counters(interfaces: PodInterfaces, proc: Path) -> None:
    (proc / "other").touch()
    assert interfaces.read("s1", 7, f"{proc}/other") == ()
    assert interfaces.read("s1", 7, f"{proc}/gone") == ()
    assert interfaces.read("s1", 8, f"{proc}/7/ns/net") == ()


def test_who_has_the_pid_later_is_not_taken_for_the_pod(interfaces: PodInterfaces, proc: Path) -> None:
    pin = proc / "pin"
    pin.hardlink_to(proc / "7/ns/net")
    assert names(interfaces.read("s1", 7, str(pin))) == ALL
    (proc / "7").rename(proc / "gone")
    make_process(proc / "7", DEV.replace(b"eth0", b"eth9"))
    assert names(interfaces.read("s1", 7, str(pin))) == ALL
    interfaces.forget("s1")
    assert interfaces.read("s1", 7, str(pin)) == ()


def test_a_process_that_has_ended_has_no_counters_and_nothing_is_kept_of_it() -> None:
    before = open_descriptors()
    found = PodInterfaces()
    with subprocess.Popen(["sleep", "1000"]) as process:
        assert found.read("s1", process.pid, "/proc/self/ns/net") == found.read("s1", process.pid, "/proc/self/ns/net")
        assert len(open_descriptors() - before) == 1
        process.kill()
    assert found.read("s1", process.pid, "/proc/self/ns/net") == ()
    assert open_descriptors() == before


def test_the_nodes_interfaces_can_be_read() -> None:
    assert all(each.name != "lo" for each in read_node())
