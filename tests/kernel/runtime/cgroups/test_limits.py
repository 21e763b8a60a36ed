from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.cgroups import limits
from runtime.cgroups.devices import DEFAULT_RULES
from runtime.cgroups.layout import Hierarchy, Kind, Layout, detect, directory, dirs
from runtime.cgroups.limits import (
    apply_oom_score_adj,
    apply_writes,
    clamped_oom_score_adj,
    read_current,
    refuse_below_use,
)
from runtime.cgroups.resources import (
    UNLIMITED,
    Current,
    Hugepage,
    LimitPlan,
    Resources,
    Write,
    plan_writes,
)
from runtime.errors import FailedPrecondition, HostFault
from runtime.linux import capabilities
from tests.kernel.runtime.cgroups.processes import cgroup, enter, living_in
from tests.kernel.runtime.forked import in_child

LAYOUT = detect()
MIB = 1 << 20
CAP_SYS_RESOURCE = 24

needs_limits = pytest.mark.skipif(
    not all(LAYOUT.root(name) for name in ("cpu", "cpuset", "memory", "pids")),
    reason="no cpu, cpuset, memory or pids controller",
)
needs_v1_memory = pytest.mark.skipif(
    LAYOUT.root("memory") is None or LAYOUT.is_v2("memory"), reason="no cgroup v1 memory controller"
)
needs_hugetlb = pytest.mark.skipif(
    LAYOUT.root("hugetlb") is None or "2MB" not in LAYOUT.page_sizes, reason="no hugetlb controller or no 2MB pages"
)
needs_devices = pytest.mark.skipif(
    LAYOUT.root("devices") is None and LAYOUT.v2 is None, reason="no devices controller and no cgroup v2"
)


@pytest.fixture
def path() -> Iterator[str]:
    with cgroup(LAYOUT) as made:
        yield made


def value(path: str, controller: str, file: str) -> str:
    return Path(f"{directory(LAYOUT, controller, path)}/{file}").read_text().strip()


def limit(path: str, resources: Resources, layout: Layout = LAYOUT) -> tuple[str, ...]:
    plan = plan_writes(resources, layout, read_current(layout, path))
    return apply_writes(plan, layout, path, restore=True)


@needs_limits
def test_the_kernel_takes_what_was_planned(path: str) -> None:
    asked = Resources(
        cpu_shares=512, cpu_quota=20_000, cpu_period=50_000, cpuset_cpus="0", memory_limit=64 * MIB, pids_limit=20
    )
    assert apply_writes(plan_writes(asked, LAYOUT), LAYOUT, path) == ()
    now = read_current(LAYOUT, path)
    assert (now.memory_limit, now.cpu_quota, now.cpu_period) == (64 * MIB, 20_000, 50_000)
    assert value(path, "pids", "pids.max") == "20"
    assert value(path, "cpuset", "cpuset.cpus") == "0"


@needs_limits
def test_a_new_cgroup_has_no_limits(path: str) -> None:
    assert read_current(LAYOUT, path) == Current()


@needs_limits
def test_an_update_changes_what_it_gives_and_nothing_else(path: str) -> None:
    limit(path, Resources(cpu_quota=20_000, cpu_period=50_000, memory_limit=64 * MIB))
    limit(path, Resources(cpu_period=100_000))
    limit(path, Resources(memory_limit=32 * MIB))
    now = read_current(LAYOUT, path)
    assert (now.cpu_quota, now.cpu_period, now.memory_limit) == (20_000, 100_000, 32 * MIB)
    limit(path, Resources(cpu_quota=-1, memory_limit=-1))
    assert read_current(LAYOUT, path).cpu_quota == UNLIMITED
    assert read_current(LAYOUT, path).memory_limit == UNLIMITED


@needs_limits
def test_a_refused_value_is_named_and_the_others_are_put_back(path: str) -> None:
    limit(path, Resources(cpu_shares=512, cpu_quota=20_000))
    shares_file = "cpu.weight" if LAYOUT.is_v2("cpu") else "cpu.shares"
    before = value(path, "cpu", shares_file)
    with pytest.raises(HostFault) as caught:
        limit(path, Resources(cpu_shares=2048, cpu_quota=30_000, cpuset_cpus="4095"))
    assert "'4095'" in str(caught.value)
    assert caught.value.object.endswith("/cpuset.cpus")
    assert value(path, "cpu", shares_file) == before
    assert read_current(LAYOUT, path).cpu_quota == 20_000


@needs_v1_memory
def test_memory_and_swap_go_up_and_down_in_an_order_that_v1_accepts(path: str) -> None:
    if not os.path.exists(f"{directory(LAYOUT, 'memory', path)}/memory.memsw.limit_in_bytes"):
        pytest.skip("no swap accounting (boot with swapaccount=1)")
    with_swap = replace(LAYOUT, swap=True)
    for memory, total in ((64, 96), (128, 128), (16, 20), (256, 512)):
        limit(path, Resources(memory_limit=memory * MIB, memory_swap_limit=total * MIB), with_swap)
        now = read_current(LAYOUT, path)
        assert (now.memory_limit, now.memory_swap_limit) == (memory * MIB, total * MIB)
    limit(path, Resources(memory_limit=1024 * MIB), with_swap)
    assert read_current(LAYOUT, path).memory_swap_limit == 1024 * MIB


@needs_hugetlb
def test_huge_pages_are_limited_with_their_reservations(path: str) -> None:
    assert limit(path, Resources(hugepages=(Hugepage("2MB", 4 * MIB),))) == ()
    files = ("max", "rsvd.max") if LAYOUT.is_v2("hugetlb") else ("limit_in_bytes", "rsvd.limit_in_bytes")
    assert [value(path, "hugetlb", f"hugetlb.2MB.{file}") for file in files] == [str(4 * MIB)] * 2


@needs_devices
def test_a_container_opens_the_devices_it_may_and_no_other(path: str) -> None:
    apply_writes(plan_writes(Resources(devices=DEFAULT_RULES), LAYOUT), LAYOUT, path)

    def opened() -> list[int]:
        enter(dirs(LAYOUT, path))
        return [outcome("/dev/null"), outcome("/dev/urandom"), outcome("/dev/kmsg")]

    assert outcome("/dev/kmsg") == 0, "the test needs a device that is refused only by the cgroup"
    assert in_child(opened) == [0, 0, errno.EPERM]


def outcome(device: str) -> int:
    try:
        os.close(os.open(device, os.O_RDONLY | os.O_NONBLOCK))
    except OSError as error:
        return error.errno or 0
    return 0


def test_an_optional_file_may_be_missing_but_no_other(path: str, tmp_path: Path) -> None:
    del path
    (tmp_path / "a").mkdir()
    layout = Layout(Kind.V2, (), str(tmp_path), frozenset({"memory"}), "/", True, frozenset())
    optional = LimitPlan((Write("memory", "memory.swap.max", "5", optional=True),), notes=("said before",))
    notes = apply_writes(optional, layout, "/a", restore=True)
    assert notes[0] == "said before"
    assert "memory.swap.max 5" in notes[1]
    with pytest.raises(HostFault, match=r"memory\.max"):
        apply_writes(LimitPlan((Write("memory", "memory.max", "5"),)), layout, "/a")
    with pytest.raises(FailedPrecondition, match="pids"):
        apply_writes(LimitPlan((Write("pids", "pids.max", "5"),)), layout, "/a")


def test_the_fault_says_what_could_not_be_put_back(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    layout = Layout(Kind.V2, (), str(tmp_path), frozenset({"cpu", "memory"}), "/", True, frozenset())
    first = tmp_path / "a/cpu.max"
    first.write_text("max 100000\n")
    (tmp_path / "a/memory.max").symlink_to(tmp_path / "nowhere")
    writes = (Write("cpu", "cpu.max", "5000 100000"), Write("memory", "memory.max/x", "5"))
    with pytest.raises(HostFault) as caught:
        apply_writes(LimitPlan(writes), layout, "/a", restore=True)
    assert "not put back" not in str(caught.value)
    assert first.read_text().startswith("max 100000")
    lost = limits._put_back([(str(tmp_path / "nowhere/cpu.max"), "1")])
    assert lost == [f"{tmp_path}/nowhere/cpu.max (2)"]


def test_limits_of_pure_v2_are_read(tmp_path: Path) -> None:
    layout = Layout(Kind.V2, (), str(tmp_path), frozenset({"cpu", "memory"}), "/", True, frozenset())
    (tmp_path / "a").mkdir()
    for name, text in (("cpu.max", "max 50000"), ("memory.max", "1000"), ("memory.swap.max", "24")):
        (tmp_path / "a" / name).write_text(f"{text}\n")
    expected = Current(memory_limit=1000, memory_swap_limit=1024, cpu_quota=UNLIMITED, cpu_period=50_000)
    assert read_current(layout, "/a") == expected
    (tmp_path / "a/memory.swap.max").unlink()
    assert read_current(layout, "/a").memory_swap_limit == UNLIMITED
    (tmp_path / "a/memory.swap.max").mkdir()
    with pytest.raises(HostFault):
        read_current(layout, "/a")


def test_without_controllers_everything_is_unlimited() -> None:
    bare = Layout(Kind.V1, (Hierarchy("/nowhere", ("freezer",), "/"),), None, frozenset(), "/", False, frozenset())
    assert read_current(bare, "/a") == Current()


def test_an_oom_score_is_set_or_clamped_with_a_note() -> None:
    with living_in({"v1": [], "v2": None}) as pid:
        score = Path(f"/proc/{pid}/oom_score_adj")
        assert apply_oom_score_adj([pid], 500) is None
        assert score.read_text() == "500\n"
        start = int(Path("/proc/self/oom_score_adj").read_text())
        note = apply_oom_score_adj([pid], start - 1 if start > -1000 else start)
        if capabilities.capget()[0] >> CAP_SYS_RESOURCE & 1:
            assert note is None
        else:
            assert note is not None and "clamped" in note
            assert int(score.read_text()) >= start
    assert apply_oom_score_adj([pid], 5) is None  # it has ended


def test_an_oom_score_that_was_clamped_at_the_start_is_told() -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert clamped_oom_score_adj(os.getpid(), own) is None
    note = clamped_oom_score_adj(os.getpid(), own - 1)
    assert note == f"oom_score_adj {own - 1} is clamped to {own}: the host refuses a lower one"
    assert clamped_oom_score_adj(2**22 + 1, -1000) is None  # above pid_max: nobody's


def test_an_oom_score_out_of_range_is_a_fault() -> None:
    with living_in({"v1": [], "v2": None}) as pid, pytest.raises(HostFault, match="1001"):
        apply_oom_score_adj([pid], 1001)


@pytest.mark.parametrize(
    ("limit", "swap", "refused"),
    [(20 * MIB, False, True), (40 * MIB, False, False), (20 * MIB, True, False), (UNLIMITED, False, False)],
)
def test_v2_would_kill_for_a_limit_below_the_use_so_it_is_refused(
    tmp_path: Path, limit: int, swap: bool, refused: bool
) -> None:
    v2 = Layout(Kind.V2, (), str(tmp_path), frozenset({"memory"}), "/", swap, frozenset())
    (tmp_path / "c").mkdir()
    (tmp_path / "c/memory.stat").write_text(f"anon {30 * MIB}\nfile {90 * MIB}\nkernel {MIB}\npgfault 7\n")
    plan = plan_writes(Resources(memory_limit=limit), v2)
    if not refused:
        refuse_below_use(plan, v2, "/c")
        return
    with pytest.raises(FailedPrecondition, match="below the"):
        refuse_below_use(plan, v2, "/c")
    refuse_below_use(plan, replace(LAYOUT, v2_controllers=frozenset()), "/c")
