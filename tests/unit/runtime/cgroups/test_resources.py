from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cgroups.devices import DEFAULT_RULES
from runtime.cgroups.layout import Hierarchy, Kind, Layout
from runtime.cgroups.resources import Current, Hugepage, Resources, Write, plan_writes, shares, weight
from runtime.errors import FailedPrecondition, InvalidArgument

MIB = 1 << 20
NAMES = ("cpu", "cpuset", "memory", "pids", "devices", "hugetlb")
V1 = Layout(
    Kind.V1, tuple(Hierarchy(f"/{n}", (n,), "/") for n in NAMES), None, frozenset(), "/", True, frozenset({"2MB"})
)
V2 = Layout(Kind.V2, (), "/c", frozenset({*NAMES, "io"} - {"devices"}), "/", True, frozenset({"2MB", "1GB"}))
BARE = Layout(Kind.V1, (Hierarchy("/freezer", ("freezer",), "/"),), None, frozenset(), "/", True, frozenset())
HYBRID = replace(V1, kind=Kind.HYBRID, v1=V1.v1[:5], v2="/u", v2_controllers=frozenset({"hugetlb"}))


def lines(resources: Resources, layout: Layout, current: Current | None = None) -> list[tuple[str, str]]:
    return [(write.file, write.value) for write in plan_writes(resources, layout, current).writes]


def test_nothing_asked_is_nothing_written() -> None:
    for layout in (V1, V2, BARE):
        plan = plan_writes(Resources(), layout)
        assert (plan.writes, plan.program, plan.notes) == ((), None, ())


def test_a_container_of_kubelet_on_v1() -> None:
    asked = Resources(
        cpu_shares=512,
        cpu_quota=50_000,
        cpu_period=100_000,
        cpuset_cpus="0-1",
        cpuset_mems="0",
        memory_limit=64 * MIB,
        pids_limit=100,
        hugepages=(Hugepage("2MB", 0),),
    )
    assert lines(asked, V1) == [
        ("cpu.shares", "512"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("cpuset.cpus", "0-1"),
        ("cpuset.mems", "0"),
        ("memory.limit_in_bytes", "67108864"),
        ("pids.max", "100"),
        ("hugetlb.2MB.limit_in_bytes", "0"),
        ("hugetlb.2MB.rsvd.limit_in_bytes", "0"),
    ]


def test_the_same_container_on_v2() -> None:
    asked = Resources(
        cpu_shares=1024,
        cpu_quota=50_000,
        cpu_period=100_000,
        memory_limit=64 * MIB,
        memory_swap_limit=96 * MIB,
        pids_limit=-1,
        hugepages=(Hugepage("1GB", 1 << 30),),
        unified={"memory.high": "60000000", "cpu.idle": "0"},
        devices=DEFAULT_RULES,
    )
    assert lines(asked, V2) == [
        ("cpu.weight", "100"),
        ("cpu.max", "50000 100000"),
        ("memory.max", "67108864"),
        ("memory.swap.max", "33554432"),
        ("pids.max", "max"),
        ("hugetlb.1GB.max", "1073741824"),
        ("hugetlb.1GB.rsvd.max", "1073741824"),
        ("cpu.idle", "0"),
        ("memory.high", "60000000"),
    ]
    assert plan_writes(asked, V2).program == DEFAULT_RULES


@pytest.mark.parametrize(
    ("shares", "expected"),
    [(1, 1), (2, 1), (102, 17), (512, 59), (1024, 100), (2048, 174), (262_144, 10_000), (1 << 30, 10_000)],
)
def test_shares_become_weights_by_the_curve_of_the_oci_runtimes(shares: int, expected: int) -> None:
    assert weight(shares) == expected


@given(st.integers(0, 300_000), st.integers(0, 300_000))
def test_more_shares_never_weigh_less(one: int, other: int) -> None:
    low, high = sorted((one, other))
    assert 1 <= weight(low) <= weight(high) <= 10_000


@given(st.integers(1, 10_000))
def test_shares_of_a_weight_have_that_weight_or_the_next_that_shares_can_have(wanted: int) -> None:
    found = shares(wanted)
    assert weight(found) >= wanted and (found == 2 or weight(found - 1) < wanted)


def test_an_update_of_the_quota_keeps_the_period_and_the_reverse() -> None:
    now = Current(cpu_quota=20_000, cpu_period=50_000)
    assert lines(Resources(cpu_quota=30_000), V2, now) == [("cpu.max", "30000 50000")]
    assert lines(Resources(cpu_period=10_000), V2, now) == [("cpu.max", "20000 10000")]
    assert lines(Resources(cpu_quota=-1), V2, now) == [("cpu.max", "max 50000")]


@given(st.integers(1, 9), st.integers(1, 9), st.integers(1, 9), st.integers(1, 9))
def test_no_moment_of_an_update_allows_more_cpu_than_before_and_after(q0: int, p0: int, q1: int, p1: int) -> None:
    state = {"cpu.cfs_quota_us": q0 * 10_000, "cpu.cfs_period_us": p0 * 10_000}
    most = max(q0 / p0, q1 / p1)
    asked = Resources(cpu_quota=q1 * 10_000, cpu_period=p1 * 10_000)
    for file, value in lines(asked, V1, Current(cpu_quota=q0 * 10_000, cpu_period=p0 * 10_000)):
        state[file] = int(value)
        assert state["cpu.cfs_quota_us"] / state["cpu.cfs_period_us"] <= most + 1e-9
    assert state == {"cpu.cfs_quota_us": q1 * 10_000, "cpu.cfs_period_us": p1 * 10_000}


LIMITS = st.one_of(st.just(-1), st.integers(1, 20))


@given(LIMITS, LIMITS, LIMITS, LIMITS)
def test_memory_never_exceeds_memory_and_swap_at_any_moment_on_v1(m0: int, s0: int, m1: int, s1: int) -> None:
    def size(value: int) -> float:
        return float("inf") if value == -1 else value

    if size(s0) < size(m0) or size(s1) < size(m1):
        return
    state = {"memory.limit_in_bytes": m0, "memory.memsw.limit_in_bytes": s0}
    asked, now = Resources(memory_limit=m1, memory_swap_limit=s1), Current(memory_limit=m0, memory_swap_limit=s0)
    try:
        planned = lines(asked, V1, now)
    except InvalidArgument:
        assert m1 == -1 and s1 != -1
        return
    for file, value in planned:
        state[file] = int(value)
        assert size(state["memory.limit_in_bytes"]) <= size(state["memory.memsw.limit_in_bytes"])
    assert state == {"memory.limit_in_bytes": m1, "memory.memsw.limit_in_bytes": s1}


def test_raising_memory_alone_takes_the_limit_with_swap_along() -> None:
    now = Current(memory_limit=10 * MIB, memory_swap_limit=10 * MIB)
    asked = Resources(memory_limit=20 * MIB)
    assert [file for file, _ in lines(asked, V1, now)] == ["memory.memsw.limit_in_bytes", "memory.limit_in_bytes"]
    assert lines(Resources(memory_limit=-1), V1, now)[0] == ("memory.memsw.limit_in_bytes", "-1")


def test_a_swap_limit_counts_from_the_memory_limit_in_force() -> None:
    now = Current(memory_limit=10 * MIB)
    asked = Resources(memory_swap_limit=30 * MIB)
    assert lines(asked, V2, now) == [("memory.swap.max", str(20 * MIB))]
    assert lines(Resources(memory_limit=-1, memory_swap_limit=-1), V2) == [
        ("memory.max", "max"),
        ("memory.swap.max", "max"),
    ]
    with pytest.raises(InvalidArgument):
        plan_writes(asked, V2)  # no memory limit at all


@pytest.mark.parametrize(
    ("memory", "total", "first"),
    [(5, 15, "memory.swap.max"), (5, -1, "memory.swap.max"), (5, 7, "memory.max"), (20, 22, "memory.max")],
)
def test_leave_to_swap_comes_before_a_lower_limit_and_goes_after_it_on_v2(memory: int, total: int, first: str) -> None:
    now = Current(memory_limit=10, memory_swap_limit=15)
    written = lines(Resources(memory_limit=memory, memory_swap_limit=total), V2, now)
    swap = "max" if total == -1 else str(total - memory)
    assert dict(written) == {"memory.max": str(memory), "memory.swap.max": swap}
    assert written[0][0] == first


def test_a_swap_limit_on_a_host_without_swap_is_a_note() -> None:
    asked = Resources(memory_limit=MIB, memory_swap_limit=2 * MIB)
    for layout in (V1, V2):
        plan = plan_writes(asked, replace(layout, swap=False))
        assert [write.controller for write in plan.writes] == ["memory"]
        assert "no swap" in plan.notes[0]
        assert plan_writes(replace(asked, memory_swap_limit=-1), replace(layout, swap=False)).notes == ()


def test_swap_files_may_be_missing_from_the_kernel() -> None:
    asked = Resources(memory_limit=MIB, memory_swap_limit=2 * MIB)
    assert Write("memory", "memory.swap.max", str(MIB), optional=True) in plan_writes(asked, V2).writes


def test_hugepages_are_limited_in_whichever_tree_has_the_controller() -> None:
    asked = Resources(hugepages=(Hugepage("2MB", 4 * MIB),))
    assert lines(asked, HYBRID) == [("hugetlb.2MB.max", "4194304"), ("hugetlb.2MB.rsvd.max", "4194304")]


def test_no_huge_pages_need_no_controller_but_some_do() -> None:
    plan = plan_writes(Resources(hugepages=(Hugepage("2MB", 0),)), BARE)
    assert plan.writes == ()
    assert "2MB" in plan.notes[0]
    with pytest.raises(FailedPrecondition, match="16GB"):
        plan_writes(Resources(hugepages=(Hugepage("16GB", 1),)), V2)


@pytest.mark.parametrize(
    "asked",
    [
        Resources(cpu_shares=2),
        Resources(cpu_quota=1000),
        Resources(cpuset_cpus="0"),
        Resources(memory_limit=1),
        Resources(pids_limit=1),
    ],
)
def test_a_limit_without_its_controller_is_refused(asked: Resources) -> None:
    with pytest.raises(FailedPrecondition, match="controller"):
        plan_writes(asked, BARE)


@pytest.mark.parametrize(
    "asked",
    [
        Resources(cpu_shares=-1),
        Resources(cpu_period=-1),
        Resources(cpu_quota=-2),
        Resources(cpuset_cpus="0-"),
        Resources(cpuset_cpus="0\n1"),
        Resources(cpuset_mems="１"),
        Resources(memory_limit=-2),
        Resources(memory_limit=2, memory_swap_limit=1),
        Resources(memory_limit=-1, memory_swap_limit=1),
        Resources(pids_limit=-2),
        Resources(hugepages=(Hugepage("../2MB", 0),)),
        Resources(hugepages=(Hugepage("2MB", -1),)),
        Resources(unified={"../memory.max": "1"}),
        Resources(unified={"memory": "1"}),
        Resources(unified={"cgroup.procs": "1"}),
        Resources(unified={"memory.max": "1\0"}),
    ],
)
def test_what_makes_no_sense_is_refused(asked: Resources) -> None:
    with pytest.raises(InvalidArgument):
        plan_writes(asked, V2)


def test_a_unified_key_of_a_controller_that_v2_lacks_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="misc"):
        plan_writes(Resources(unified={"misc.max": "1"}), V2)
    with pytest.raises(FailedPrecondition, match="memory"):
        plan_writes(Resources(unified={"memory.high": "1"}), V1)


@pytest.mark.parametrize("layout", [V1, V2])
def test_the_limit_of_processes_has_one_name_in_both_trees(layout: Layout) -> None:
    assert plan_writes(Resources(unified={"pids.max": "77"}), layout).writes == (Write("pids", "pids.max", "77"),)


def test_a_keyed_file_gets_a_line_a_write() -> None:
    asked = Resources(unified={"io.max": "8:0 rbps=1\n8:16 wbps=2\n"})
    assert lines(asked, V2) == [("io.max", "8:0 rbps=1"), ("io.max", "8:16 wbps=2")]
