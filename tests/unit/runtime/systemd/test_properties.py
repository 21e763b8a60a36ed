"""The properties that say what a cgroup's files do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cgroups.resources import Write
from runtime.systemd.properties import INFINITY, SECOND, mask, plan_properties


def planned(file: str, value: str, beside: int = 0) -> dict[str, Any]:
    return {name: value for name, (_, value) in plan_properties([Write("any", file, value)], beside)}


@pytest.mark.parametrize(
    ("file", "value", "properties"),
    [
        ("memory.max", "67108864", {"MemoryMax": 64 << 20}),
        ("memory.max", "max\n", {"MemoryMax": INFINITY}),
        ("memory.high", "1", {"MemoryHigh": 1}),
        ("memory.swap.max", "0", {"MemorySwapMax": 0}),
        ("cpu.weight", "59", {"CPUWeight": 59}),
        ("cpu.max", "50000 100000", {"CPUQuotaPerSecUSec": 500_000, "CPUQuotaPeriodUSec": 100_000}),
        ("cpu.max", "max 20000", {"CPUQuotaPerSecUSec": INFINITY}),
        ("cpu.max", "2000", {"CPUQuotaPerSecUSec": 20_000, "CPUQuotaPeriodUSec": 100_000}),
        ("cpuset.cpus", "0-1,9", {"AllowedCPUs": bytes([0b11, 0b10])}),
        ("cpuset.cpus", "", {"AllowedCPUs": b""}),
        ("cpuset.mems", "0", {"AllowedMemoryNodes": b"\1"}),
        ("pids.max", "10", {"TasksMax": 10}),
        ("pids.max", "max", {"TasksMax": INFINITY}),
        ("hugetlb.2MB.max", "0", {}),
        ("io.max", "8:0 rbps=1", {}),
    ],
)
def test_a_file_becomes_the_property_of_the_same_meaning(file: str, value: str, properties: dict[str, Any]) -> None:
    assert planned(file, value) == properties


def test_the_unit_has_room_for_processes_beside_those_that_are_limited() -> None:
    assert planned("pids.max", "10", beside=1) == {"TasksMax": 11}
    assert planned("pids.max", "max", beside=1) == {"TasksMax": INFINITY}


def test_the_last_write_to_a_file_counts() -> None:
    writes = [Write("memory", "memory.max", "1"), Write("cpu", "cpu.weight", "2"), Write("memory", "memory.max", "3")]
    assert plan_properties(writes) == [("MemoryMax", ("t", 3)), ("CPUWeight", ("t", 2))]


@given(st.integers(1_000, 10_000_000), st.integers(1_000, 1_000_000))
def test_a_quota_is_rounded_up_to_a_percent_and_no_further(quota: int, period: int) -> None:
    share = planned("cpu.max", f"{quota} {period}")["CPUQuotaPerSecUSec"]
    assert share % 10_000 == 0
    assert share * period >= quota * SECOND > (share - 10_000) * period - period


@given(st.sets(st.integers(0, 200)))
def test_a_list_of_numbers_is_a_mask_of_bits(numbers: set[int]) -> None:
    packed = mask(",".join(map(str, sorted(numbers))))
    assert {8 * at + bit for at, byte in enumerate(packed) for bit in range(8) if byte >> bit & 1} == numbers
