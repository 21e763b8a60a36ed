from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.cgroups import tree
from runtime.cgroups.devices import DEFAULT_RULES
from runtime.cgroups.in_force import read_current
from runtime.cgroups.layout import Kind, Layout, detect, directory, dirs
from runtime.cgroups.limits import (
    apply_oom_score_adj,
    apply_writes,
    note_clamped,
    put_back,
    read_before,
    read_oom_score_adj,
    refuse_below_use,
)
from runtime.cgroups.resources import (
    UNLIMITED,
    Hugepage,
    LimitPlan,
    Resources,
    Write,
    plan_writes,
)
from runtime.errors import FailedPrecondition, HostFault, InvalidArgument
from runtime.linux import capabilities
from tests.kernel.runtime.cgroups.processes import cgroup, enter, living_in
from tests.kernel.runtime.forked import in_child

LAYOUT = detect()
MIB = 1 << 20
CAP_SYS_RESOURCE = 24

SMALL = Resources(memory_limit=64 * MIB, memory_swap_limit=64 * MIB, cpu_quota=50_000, cpu_period=100_000)
LARGE = Resources(memory_limit=128 * MIB, memory_swap_limit=256 * MIB, cpu_quota=90_000, cpu_period=50_000)

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
    return apply_writes(plan_writes(resources, layout, read_current(layout, path)), layout, path)


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
def test_a_refused_value_is_named_and_all_can_be_put_back(path: str) -> None:
    limit(path, Resources(cpu_shares=512, cpu_quota=20_000))
    files = [("cpu", "cpu.weight" if LAYOUT.is_v2("cpu") else "cpu.shares"), ("cpuset", "cpuset.cpus")]
    old = [value(path, *file) for file in files]
    asked = plan_writes(Resources(cpu_shares=2048, cpu_quota=30_000, cpuset_cpus="4095"), LAYOUT)
    before = read_before(asked, LAYOUT, path)
    with pytest.raises((InvalidArgument, FailedPrecondition), match=r"/cpuset\.cpus: write: could not write '4095': "):
        apply_writes(asked, LAYOUT, path)
    assert value(path, *files[0]) != old[0]
    for _ in range(2):
        assert put_back(before, LAYOUT, path) == []
        assert [value(path, *file) for file in files] == old
        assert read_current(LAYOUT, path).cpu_quota == 20_000


@needs_limits
@pytest.mark.parametrize(("old", "new"), [(SMALL, LARGE), (LARGE, SMALL)])
def test_whatever_part_of_an_update_was_done_it_can_be_put_back(path: str, old: Resources, new: Resources) -> None:
    layout = replace(LAYOUT, swap=True)
    limit(path, old, layout)
    now = read_current(layout, path)
    asked = plan_writes(new, layout, now)
    before = read_before(asked, layout, path)
    for done in range(len(asked.writes) + 1):
        apply_writes(LimitPlan(asked.writes[:done]), layout, path)
        assert put_back(before, layout, path) == []
        assert read_current(layout, path) == now


@needs_v1_memory
def test_what_the_use_forbids_is_not_put_back_and_said(path: str) -> None:
    limit(path, Resources(memory_limit=64 * MIB, cpu_shares=512))
    asked = plan_writes(Resources(memory_limit=256 * MIB, cpu_shares=99), LAYOUT)
    before = read_before(asked, LAYOUT, path)
    apply_writes(asked, LAYOUT, path)

    def after_growing() -> list[str]:
        enter(dirs(LAYOUT, path))
        held = bytearray(os.urandom(4096) * (100 * MIB // 4096))
        return put_back(before, LAYOUT, path) if held else []

    assert in_child(after_growing) == [f"{directory(LAYOUT, 'memory', path)}/memory.limit_in_bytes"]
    assert read_current(LAYOUT, path).memory_limit == 256 * MIB
    assert value(path, "cpu", "cpu.shares") == "512"


def test_a_cgroup_that_is_gone_needs_nothing_put_back(path: str, tmp_path: Path) -> None:
    asked = plan_writes(Resources(memory_limit=MIB), LAYOUT)
    before = read_before(asked, LAYOUT, path)
    assert tree.remove(LAYOUT, path, ours=True)
    assert put_back(before, LAYOUT, path) == [] and read_before(asked, LAYOUT, path) == ()
    v2 = Layout(Kind.V2, (), str(tmp_path), frozenset({"memory"}), "/", False, frozenset())
    assert put_back([Write("memory", "memory.max", "5"), Write("pids", "pids.max", "5")], v2, "/gone") == []
    assert put_back([Write("pids", "pids.max", "5")], v2, "/gone") == []
    (tmp_path / "c").mkdir()
    (tmp_path / "c/memory.stat").mkdir()
    with pytest.raises(HostFault, match="EISDIR"):
        put_back([Write("memory", "memory.max", "5")], v2, "/c")


def test_keyed_files_get_a_line_a_write_and_v2_is_not_limited_below_the_use(tmp_path: Path) -> None:
    v2 = Layout(Kind.V2, (), str(tmp_path), frozenset({"memory", "io"}), "/", False, frozenset())
    (tmp_path / "c").mkdir()
    (tmp_path / "c/memory.stat").write_text(f"anon {30 * MIB}\n")
    (tmp_path / "c/memory.max").write_text(f"{64 * MIB}\n")
    (tmp_path / "c/io.max").write_text("8:0 rbps=5\n8:16 rbps=7\n")
    asked = plan_writes(Resources(memory_limit=80 * MIB, unified={"io.max": "8:0 rbps=9"}), v2)
    before = read_before(asked, v2, "/c")
    assert put_back(before, v2, "/c") == [f"{tmp_path}/c/io.max"]  # a plain file keeps the last write alone
    (tmp_path / "c/memory.stat").write_text(f"anon {70 * MIB}\n")
    (tmp_path / "c/memory.max").write_text(f"{80 * MIB}\n")
    assert put_back(before, v2, "/c") == [f"{tmp_path}/c/memory.max"]
    assert (tmp_path / "c/memory.max").read_text() == f"{80 * MIB}\n"


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
    notes = apply_writes(optional, layout, "/a")
    assert notes[0] == "said before"
    assert "memory.swap.max 5" in notes[1]
    with pytest.raises(FailedPrecondition, match=r"memory\.max"):
        apply_writes(LimitPlan((Write("memory", "memory.max", "5"),)), layout, "/a")
    (tmp_path / "a/memory.max").mkdir()
    with pytest.raises(HostFault, match="EISDIR"):
        apply_writes(LimitPlan((Write("memory", "memory.max", "5"),)), layout, "/a")
    with pytest.raises(FailedPrecondition, match="pids"):
        apply_writes(LimitPlan((Write("pids", "pids.max", "5"),)), layout, "/a")


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


def test_the_oom_score_of_a_process_is_read_while_it_lives() -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    assert read_oom_score_adj(os.getpid()) == own
    assert read_oom_score_adj(2**22 + 1) is None  # above pid_max: nobody's
    assert note_clamped(-5, own) == f"oom_score_adj -5 is clamped to {own}: the host refuses a lower one"


def test_an_oom_score_out_of_range_is_a_fault() -> None:
    with living_in({"v1": [], "v2": None}) as pid, pytest.raises(HostFault, match="1001"):
        apply_oom_score_adj([pid], 1001)


@pytest.mark.parametrize(
    ("limit", "swap", "refused"),
    [(20, False, True), (40, False, False), (20, True, False), (UNLIMITED, False, False)],
)
def test_v2_would_kill_for_a_limit_below_the_use_so_it_is_refused(
    tmp_path: Path, limit: int, swap: bool, refused: bool
) -> None:
    v2 = used_on_v2(tmp_path, swap=swap, swap_free=100 * MIB)
    writes = plan_writes(Resources(memory_limit=limit * MIB if limit > 0 else limit), v2).writes
    if not refused:
        refuse_below_use(writes, v2, "/c", str(tmp_path))
        return
    with pytest.raises(FailedPrecondition, match="below the"):
        refuse_below_use(writes, v2, "/c", str(tmp_path))
    refuse_below_use(writes, replace(LAYOUT, v2_controllers=frozenset()), "/c")


@pytest.mark.parametrize(
    ("swap_free", "in_force", "asked", "refused"),
    [
        (100 * MIB, "max\n", None, False),
        (8 * MIB, "max\n", None, True),  # the host has not enough
        (100 * MIB, "0\n", None, True),
        (100 * MIB, f"{12 * MIB}\n", None, True),  # of which 4 MiB are taken
        (100 * MIB, f"{16 * MIB}\n", None, False),
        (100 * MIB, "0\n", f"{16 * MIB}", False),
        (100 * MIB, "max\n", f"{8 * MIB}", True),
    ],
)
def test_on_v2_what_may_be_swapped_out_does_not_count_as_used(
    tmp_path: Path, swap_free: int, in_force: str, asked: str | None, refused: bool
) -> None:
    v2 = used_on_v2(tmp_path, swap=True, swap_free=swap_free)
    (tmp_path / "c/memory.swap.max").write_text(in_force)
    (tmp_path / "c/memory.swap.current").write_text(f"{4 * MIB}\n")
    writes = [Write("memory", "memory.max", f"{20 * MIB}")]
    writes += [Write("memory", "memory.swap.max", asked)] if asked else []
    if refused:
        with pytest.raises(FailedPrecondition, match="below the"):
            refuse_below_use(writes, v2, "/c", str(tmp_path))
    else:
        refuse_below_use(writes, v2, "/c", str(tmp_path))
    (tmp_path / "c/memory.swap.current").unlink()
    (tmp_path / "c/memory.swap.current").mkdir()
    with pytest.raises(HostFault, match="EISDIR"):
        refuse_below_use(writes, v2, "/c", str(tmp_path))


def used_on_v2(folder: Path, *, swap: bool, swap_free: int) -> Layout:
    """A cgroup ``/c`` that uses 31 MiB beside files, without accounting for swap, and a /proc/meminfo."""
    (folder / "c").mkdir()
    (folder / "c/memory.stat").write_text(f"anon {30 * MIB}\nfile {90 * MIB}\nkernel {MIB}\npgfault 7\n")
    (folder / "meminfo").write_text(f"MemFree: 5 kB\nSwapTotal: 7 kB\nSwapFree: {swap_free >> 10} kB\n")
    return Layout(Kind.V2, (), str(folder), frozenset({"memory"}), "/", swap, frozenset())
