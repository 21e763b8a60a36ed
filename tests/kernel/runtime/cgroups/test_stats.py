from __future__ import annotations

import os
import resource
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtime.cgroups import tree
from runtime.cgroups.layout import Hierarchy, Kind, Layout, detect, dirs
from runtime.cgroups.stats import Sweeper, plan_detail_files, plan_files
from runtime.errors import HostFault
from tests.descriptors import open_descriptors
from tests.kernel.runtime.cgroups.processes import cgroup, living_in, wait_for

LAYOUT = detect()
pytestmark = pytest.mark.skipif(
    LAYOUT.root("memory") is None or LAYOUT.root("pids") is None, reason="no memory or pids controller"
)
KEPT: list[bytearray] = []


@pytest.fixture
def path() -> Iterator[str]:
    with cgroup(LAYOUT) as made:
        yield made


def work_and_hold() -> None:
    """Some CPU time, and 8 MiB of memory that stay."""
    if not KEPT:
        KEPT.append(bytearray(b"x" * (8 << 20)))
        end = time.process_time() + 0.05
        while time.process_time() < end:
            pass
    time.sleep(0.01)


def open_files() -> int:
    return len(open_descriptors())


def test_a_process_shows_in_the_figures_of_its_cgroup(path: str) -> None:
    began = time.time_ns()
    with living_in(dirs(LAYOUT, path), body=work_and_hold), Sweeper(LAYOUT) as sweeper:
        wait_for(lambda: (sweeper.sweep([path])[path].cpu or 0) > 40_000_000, "CPU time is counted")
        wait_for(lambda: (sweeper.sweep([path])[path].memory_rss or 0) > 7 << 20, "its memory is counted")
        usage = sweeper.sweep([path])[path]
        assert usage.pids == 1
        assert (usage.memory_usage or 0) > 8 << 20
        assert (usage.memory_working_set or 0) > 7 << 20
        assert (usage.page_faults or 0) > 0
        assert usage.oom_kills == 0
        assert usage.memory_limit is None
        assert began <= usage.time <= time.time_ns()
        assert usage.cpu_pressure is not None or not os.path.exists(f"{LAYOUT.v2}/cpu.pressure")


def test_a_cgroup_that_does_not_exist_is_left_out(path: str) -> None:
    with Sweeper(LAYOUT) as sweeper:
        assert set(sweeper.sweep([path, "/crisp-test-nowhere"])) == {path}


def test_open_files_keep_no_cgroup_alive_and_a_new_one_of_its_name_is_read(path: str) -> None:
    before = open_files()
    with Sweeper(LAYOUT) as sweeper:
        assert sweeper.sweep([path])
        assert open_files() > before
        assert tree.remove(LAYOUT, path)
        assert sweeper.sweep([path]) == {}
        assert (open_files(), sweeper.descriptors) == (before, 0)
        tree.create(LAYOUT, path, "again")
        assert sweeper.sweep([path])[path].pids == 0
        assert tree.remove(LAYOUT, path)
        tree.create(LAYOUT, path, "and again, between two sweeps")
        assert sweeper.sweep([path])[path].pids == 0
        sweeper.forget(path)
        assert open_files() == before


def test_no_more_descriptors_are_kept_than_allowed(path: str) -> None:
    each = len(plan_files(LAYOUT))
    before = open_files()
    with cgroup(LAYOUT) as other, Sweeper(LAYOUT, descriptors=each) as sweeper:
        for _ in range(2):
            assert set(sweeper.sweep([path, other])) == {path, other}
            assert sweeper.descriptors == each
        assert open_files() <= before + each
    assert open_files() == before


def test_by_default_half_of_the_processes_descriptors_may_be_kept(path: str) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (2 * len(plan_files(LAYOUT)), before[1]))
    try:
        sweeper = Sweeper(LAYOUT)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    with cgroup(LAYOUT) as other, sweeper:
        sweeper.sweep([path, other])
        assert sweeper.descriptors == len(plan_files(LAYOUT))


def test_a_sweep_of_two_hundred_cgroups_costs_less_than_to_open_their_files(path: str) -> None:
    paths = [f"{path}/{number}" for number in range(200)]
    for each in paths:
        tree.create(LAYOUT, each, "x")
    with Sweeper(LAYOUT, descriptors=4096) as sweeper:
        sweeper.sweep(paths)
        costs, opening = [], []
        for _ in range(5):
            began = time.process_time()
            assert len(sweeper.sweep(paths)) == 200
            costs.append(time.process_time() - began)
            began = time.process_time()
            with Sweeper(LAYOUT, descriptors=0) as opening_each:
                assert len(opening_each.sweep(paths)) == 200
            opening.append(time.process_time() - began)
    assert min(costs) < min(opening), (costs, opening)


def pure_v2(root: Path) -> Layout:
    (root / "a").mkdir()
    for name, text in (
        ("cpu.stat", "usage_usec 5\n"),
        ("memory.current", "900\n"),
        ("memory.stat", "anon 1\ninactive_file 100\npgfault 2\npgmajfault 3\n"),
        ("memory.max", "1000\n"),
        ("memory.events", "oom_kill 4\n"),
        ("pids.current", "6\n"),
    ):
        (root / "a" / name).write_text(text)
    return Layout(Kind.V2, (), str(root), frozenset({"cpu", "memory", "pids"}), "/", False, frozenset())


def test_the_files_of_pure_v2(tmp_path: Path) -> None:
    with Sweeper(pure_v2(tmp_path)) as sweeper:
        usage = sweeper.sweep(["/a"])["/a"]
    assert (usage.cpu, usage.memory_working_set, usage.memory_available) == (5000, 800, 200)
    assert (usage.oom_kills, usage.pids, usage.swap_usage, usage.io_pressure) == (4, 6, None, None)


def test_what_cannot_be_read_is_named(tmp_path: Path) -> None:
    layout = pure_v2(tmp_path)
    (tmp_path / "a/pids.current").unlink()
    (tmp_path / "a/pids.current").mkdir()
    sweeper = Sweeper(layout, descriptors=0)
    with pytest.raises(HostFault, match=r"pids\.current: pread"):
        sweeper.sweep(["/a"])
    (tmp_path / "a/memory.max").unlink()
    (tmp_path / "a/memory.max").symlink_to("memory.max")
    with pytest.raises(HostFault, match=r"memory\.max: open"):
        sweeper.sweep(["/a"])


def test_a_host_reads_what_it_has_and_pressure_only_if_asked() -> None:
    v1 = Layout(
        Kind.HYBRID,
        (Hierarchy("/ca", ("cpuacct",), "/"), Hierarchy("/m", ("memory",), "/")),
        "/u",
        frozenset(),
        "/",
        False,
        frozenset(),
    )
    assert plan_files(v1, pressure=False) == (
        ("/ca", "cpuacct.usage"),
        ("/m", "memory.usage_in_bytes"),
        ("/m", "memory.stat"),
        ("/m", "memory.oom_control"),
    )
    assert ("/u", "io.pressure") in plan_files(v1)


def test_a_detailed_reading_has_both_and_keeps_its_files_open_too(path: str) -> None:
    with living_in(dirs(LAYOUT, path), body=work_and_hold), Sweeper(LAYOUT) as sweeper:
        wait_for(lambda: (sweeper.sweep([path])[path].cpu or 0) > 40_000_000, "CPU time is counted")
        basic = sweeper.descriptors
        usage, detail = sweeper.sweep_detailed([path, "/crisp-test-nowhere"])[path]
        assert sweeper.descriptors > basic
        assert usage.pids == 1 and (detail.memory_peak or 0) >= (usage.memory_usage or 0) - (4 << 20) > 0
        assert (detail.cpu_user or 0) + (detail.cpu_system or 0) > 0
        assert detail.pids_limit is None and detail.limit_hits == 0
        assert (detail.periods, detail.throttled) == (0, 0)
        sweeper.forget(path)
        assert sweeper.descriptors == 0


def test_each_file_is_read_once_whatever_a_reading_has() -> None:
    v1 = Hierarchy("/c", ("cpu", "cpuacct", "memory", "pids", "blkio"), "/")
    old = Layout(Kind.V1, (v1,), None, frozenset(), "/", False, frozenset({"2MB"}))
    names = [name for _, name in (*plan_files(old), *plan_detail_files(old))]
    assert len(names) == len(set(names)) and {"cpuacct.stat", "cpu.stat", "pids.max"} <= set(names)
    offered = frozenset({"cpu", "memory", "pids", "io", "hugetlb"})
    new = Layout(Kind.V2, (), "/c", offered, "/", False, frozenset({"2MB"}))
    names = [name for _, name in (*plan_files(new), *plan_detail_files(new))]
    assert len(names) == len(set(names)) and {"io.stat", "memory.peak", "hugetlb.2MB.current"} <= set(names)
