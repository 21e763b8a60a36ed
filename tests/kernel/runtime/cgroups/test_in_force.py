from __future__ import annotations

import resource
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.cgroups.in_force import read_current, read_in_force
from runtime.cgroups.layout import Hierarchy, Kind, Layout, detect, directory
from runtime.cgroups.limits import apply_writes
from runtime.cgroups.resources import UNLIMITED, Current, Hugepage, Resources, plan_writes
from runtime.errors import HostFault
from tests.kernel.runtime.cgroups.processes import cgroup

LAYOUT = detect()
MIB = 1 << 20
PAGE = resource.getpagesize()
ENDLESS = 2**63 - 1

needs_limits = pytest.mark.skipif(
    not all(LAYOUT.root(name) for name in ("cpu", "cpuset", "memory")), reason="no cpu, cpuset or memory controller"
)
needs_hugetlb = pytest.mark.skipif(
    LAYOUT.root("hugetlb") is None or "2MB" not in LAYOUT.page_sizes, reason="no hugetlb controller or no 2MB pages"
)
needs_unified = pytest.mark.skipif(
    "hugetlb" not in LAYOUT.v2_controllers or "2MB" not in LAYOUT.page_sizes,
    reason="no hugetlb controller in the v2 tree, or no 2MB pages",
)


@pytest.fixture
def path() -> Iterator[str]:
    with cgroup(LAYOUT) as made:
        yield made


@pytest.fixture
def v2(tmp_path: Path) -> Layout:
    """A v2 tree of plain files, with the cgroup ``/a``."""
    (tmp_path / "a").mkdir()
    names = frozenset({"cpu", "cpuset", "memory", "hugetlb", "io"})
    return Layout(Kind.V2, (), str(tmp_path), names, "/", True, frozenset({"2MB", "1GB"}))


def write(layout: Layout, **values: str) -> None:
    """``memory_max`` is memory.max."""
    for name, text in values.items():
        Path(f"{layout.v2}/a/{name.replace('_', '.')}").write_text(f"{text}\n")


def in_force(path: str, asked: Resources) -> Resources:
    apply_writes(plan_writes(asked, LAYOUT, read_current(LAYOUT, path)), LAYOUT, path)
    return read_in_force(asked, LAYOUT, path)


@needs_limits
def test_a_new_cgroup_has_no_limits(path: str) -> None:
    assert read_current(LAYOUT, path) == Current()


@needs_limits
def test_memory_is_told_in_the_pages_that_the_kernel_counts(path: str) -> None:
    assert in_force(path, Resources(memory_limit=8 * MIB + PAGE - 1)) == Resources(memory_limit=8 * MIB)
    assert in_force(path, Resources(memory_limit=ENDLESS)) == Resources(memory_limit=ENDLESS)
    assert in_force(path, Resources(memory_limit=UNLIMITED)) == Resources(memory_limit=UNLIMITED)


@needs_limits
def test_a_swap_limit_that_was_not_set_is_told_as_none(path: str) -> None:
    asked = Resources(memory_limit=8 * MIB, memory_swap_limit=16 * MIB)
    without = replace(LAYOUT, swap=False)
    apply_writes(plan_writes(asked, without), without, path)
    assert read_in_force(asked, without, path) == replace(asked, memory_swap_limit=UNLIMITED)


@needs_limits
def test_cpu_and_cpuset_are_told_as_the_kernel_has_them(path: str) -> None:
    asked = Resources(cpu_shares=1000, cpu_quota=20_000, cpu_period=50_000, cpuset_cpus="0-0", cpuset_mems="0")
    assert in_force(path, asked) == replace(asked, cpuset_cpus="0")
    assert in_force(path, Resources(cpu_quota=30_000)) == Resources(cpu_quota=30_000, cpu_period=50_000)
    assert in_force(path, Resources(cpu_period=40_000)) == Resources(cpu_period=40_000)
    assert in_force(path, Resources(cpu_quota=UNLIMITED)) == Resources(cpu_quota=UNLIMITED, cpu_period=40_000)
    least = in_force(path, Resources(cpu_shares=1)).cpu_shares
    assert least == (1 if LAYOUT.is_v2("cpu") else 2)


@needs_hugetlb
def test_huge_pages_are_told_as_whole_ones(path: str) -> None:
    asked = Resources(hugepages=(Hugepage("2MB", 5 * MIB), Hugepage("3MB", 0)))
    assert in_force(path, asked).hugepages == (Hugepage("2MB", 4 * MIB),)


@needs_unified
def test_unified_values_are_told_as_their_files_have_them(path: str) -> None:
    asked = Resources(unified={"hugetlb.2MB.max": str(5 * MIB)})
    assert in_force(path, asked).unified == {"hugetlb.2MB.max": str(4 * MIB)}


@needs_limits
def test_of_what_was_not_asked_nothing_is_read(tmp_path: Path) -> None:
    nowhere = replace(LAYOUT, v1=tuple(replace(each, mount=str(tmp_path)) for each in LAYOUT.v1), v2=str(tmp_path))
    assert read_in_force(Resources(oom_score_adj=5), nowhere, "/a") == Resources(oom_score_adj=5)
    for asked in (Resources(memory_limit=5), Resources(cpu_shares=5)):
        with pytest.raises(HostFault):
            read_in_force(asked, nowhere, "/a")


def test_shares_are_told_as_asked_while_the_weight_is_theirs(v2: Layout) -> None:
    write(v2, cpu_weight="59")
    assert read_in_force(Resources(cpu_shares=512), v2, "/a").cpu_shares == 512
    write(v2, cpu_weight="100")
    assert read_in_force(Resources(cpu_shares=512), v2, "/a").cpu_shares == 1012


def test_limits_of_pure_v2_are_told(v2: Layout) -> None:
    write(v2, cpu_max="max 50000", memory_max="4096", memory_swap_max="8192", hugetlb_1GB_max="max")
    write(v2, cpuset_cpus_effective="0-1", cpuset_mems_effective="0", io_max="8:0 rbps=5 wbps=max")
    Path(f"{v2.v2}/a/memory.reclaim").mkdir()
    asked = Resources(
        cpu_quota=-1,
        cpuset_cpus="0-7",
        cpuset_mems="0",
        memory_limit=5000,
        memory_swap_limit=9000,
        hugepages=(Hugepage("1GB", ENDLESS),),
        unified={"io.max": "8:0 rbps=5", "io.latency": "8:0 target=9"},
    )
    assert read_in_force(asked, v2, "/a") == replace(
        asked,
        cpu_period=50_000,
        cpuset_cpus="0-1",
        memory_limit=4096,
        memory_swap_limit=4096 + 8192,
        unified={"io.max": "8:0 rbps=5 wbps=max", "io.latency": "8:0 target=9"},
    )
    with pytest.raises(HostFault, match="EISDIR"):
        read_in_force(Resources(unified={"memory.reclaim": "1M"}), v2, "/a")


def test_limits_of_pure_v2_are_read(v2: Layout) -> None:
    write(v2, cpu_max="max 50000", memory_max="1000", memory_swap_max="24")
    expected = Current(memory_limit=1000, memory_swap_limit=1024, cpu_quota=UNLIMITED, cpu_period=50_000)
    assert read_current(v2, "/a") == expected
    swap = Path(f"{v2.v2}/a/memory.swap.max")
    swap.unlink()
    assert read_current(v2, "/a").memory_swap_limit == UNLIMITED
    swap.mkdir()
    with pytest.raises(HostFault):
        read_current(v2, "/a")


def test_without_controllers_everything_is_unlimited() -> None:
    bare = Layout(Kind.V1, (Hierarchy("/nowhere", ("freezer",), "/"),), None, frozenset(), "/", False, frozenset())
    assert read_current(bare, "/a") == Current()
    asked = Resources(hugepages=(Hugepage("2MB", 0),))
    assert read_in_force(asked, bare, "/a") == Resources()
    assert directory(bare, "memory", "/a") is None
