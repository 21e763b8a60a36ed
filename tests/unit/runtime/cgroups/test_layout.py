from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cgroups.layout import (
    Kind,
    Layout,
    detect,
    directory,
    dirs,
    exec_dirs,
    memory_events,
    needed,
    page_size,
    parse,
    validate,
)
from runtime.errors import HostFault, InvalidArgument

V2_MOUNT = "30 24 0:27 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n"
TMPFS = "29 24 0:26 / /sys/fs/cgroup ro,nosuid - tmpfs tmpfs rw,mode=755\n"
V1_MOUNTS = (
    TMPFS
    + "31 29 0:28 / /sys/fs/cgroup/systemd rw shared:5 - cgroup cgroup rw,xattr,name=systemd\n"
    + "32 29 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:6 - cgroup cgroup rw,cpu,cpuacct\n"
    + "33 29 0:30 / /sys/fs/cgroup/memory rw shared:7 - cgroup cgroup rw,memory\n"
    + "34 29 0:31 / /sys/fs/cgroup/freezer rw shared:8 - cgroup cgroup rw,freezer\n"
)
UNIFIED = "35 29 0:32 / /sys/fs/cgroup/unified rw shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
CGROUPS = "#subsys_name\thierarchy\tnum_cgroups\tenabled\n" + "".join(
    f"{name}\t1\t1\t1\n" for name in ("cpu", "cpuacct", "memory", "freezer", "pids")
)
OWN_V1 = "4:cpu,cpuacct:/system.slice\n3:memory:/system.slice/crisp\n2:freezer:/\n1:name=systemd:/x\n0::/system.slice\n"


def v1() -> Layout:
    return parse(V1_MOUNTS, CGROUPS, OWN_V1)


def hybrid() -> Layout:
    return parse(V1_MOUNTS + UNIFIED, CGROUPS, OWN_V1)


def v2() -> Layout:
    return parse(V2_MOUNT, CGROUPS, "0::/system.slice/crisp.service\n")


def test_a_host_with_one_cgroup2_mount_is_v2() -> None:
    layout = v2()
    assert (layout.kind, layout.v1, layout.v2) == (Kind.V2, (), "/sys/fs/cgroup")
    assert layout.own_v2 == "/system.slice/crisp.service"


def test_co_mounted_controllers_share_one_hierarchy() -> None:
    layout = v1()
    assert layout.kind is Kind.V1
    assert [hierarchy.controllers for hierarchy in layout.v1] == [
        ("name=systemd",),
        ("cpu", "cpuacct"),
        ("memory",),
        ("freezer",),
    ]
    assert [h.own for h in layout.v1] == ["/x", "/system.slice", "/system.slice/crisp", "/"]


def test_v1_trees_with_a_v2_tree_beside_them_are_hybrid() -> None:
    layout = hybrid()
    assert (layout.kind, layout.v2) == (Kind.HYBRID, "/sys/fs/cgroup/unified")


def test_each_hierarchy_gives_one_directory() -> None:
    assert dirs(hybrid(), "/kubepods/pod1") == {
        "v1": [
            "/sys/fs/cgroup/systemd/kubepods/pod1",
            "/sys/fs/cgroup/cpu,cpuacct/kubepods/pod1",
            "/sys/fs/cgroup/memory/kubepods/pod1",
            "/sys/fs/cgroup/freezer/kubepods/pod1",
        ],
        "v2": "/sys/fs/cgroup/unified/kubepods/pod1",
    }
    assert dirs(v2(), "/a") == {"v1": [], "v2": "/sys/fs/cgroup/a"}
    assert dirs(v1(), "/a")["v2"] is None


def test_an_exec_has_only_its_freezer_and_its_v2_directory_to_itself() -> None:
    assert exec_dirs(hybrid(), "/p/c", "exec-1") == {
        "v1": [
            "/sys/fs/cgroup/systemd/p/c",
            "/sys/fs/cgroup/cpu,cpuacct/p/c",
            "/sys/fs/cgroup/memory/p/c",
            "/sys/fs/cgroup/freezer/p/c/exec-1",
        ],
        "v2": "/sys/fs/cgroup/unified/p/c/exec-1",
    }


def test_beside_v2_the_trees_that_it_replaces_are_not_needed() -> None:
    controllers = [each.controllers for each in needed(hybrid(), "6.1.0-18-amd64")]
    assert controllers == [("cpu", "cpuacct"), ("memory",)]
    both = parse(V1_MOUNTS.replace("rw,freezer", "rw,freezer,pids") + UNIFIED, CGROUPS, OWN_V1)
    assert ("freezer", "pids") in [each.controllers for each in needed(both, "6.1.0")]


def test_without_v2_or_its_kill_all_trees_are_needed() -> None:
    assert needed(v1(), "6.1.0") == v1().v1
    assert needed(hybrid(), "5.10.0-28") == needed(hybrid(), "?") == hybrid().v1


def test_a_bind_mount_of_a_part_of_a_hierarchy_does_not_hide_its_root() -> None:
    part = "28 1 0:29 /docker/1 /run/x/cpu rw - cgroup cgroup rw,cpu,cpuacct\n"
    assert parse(part + V1_MOUNTS, CGROUPS, OWN_V1).root("cpu") == "/sys/fs/cgroup/cpu,cpuacct"
    alone = parse(part, CGROUPS, "4:cpu,cpuacct:/\n")
    assert alone.root("cpu") == "/run/x/cpu"


def test_a_mount_point_with_a_space_is_read_back() -> None:
    line = "30 24 0:27 / /a\\040b rw - cgroup2 none rw\n"
    assert parse(line, CGROUPS, "0::/\n").v2 == "/a b"


def test_a_host_without_cgroups_is_a_fault() -> None:
    with pytest.raises(HostFault, match="no cgroup"):
        parse("24 1 8:1 / / rw - ext4 /dev/sda1 rw\n", CGROUPS, "")


def test_a_controller_is_looked_for_in_v1_first() -> None:
    layout = Layout(Kind.HYBRID, v1().v1, "/u", frozenset({"hugetlb"}), "/", False, frozenset())
    assert (layout.root("memory"), layout.is_v2("memory")) == ("/sys/fs/cgroup/memory", False)
    assert (layout.root("hugetlb"), layout.is_v2("hugetlb")) == ("/u", True)
    assert layout.root("pids") is None
    assert directory(layout, "hugetlb", "/a") == "/u/a"
    assert directory(layout, "pids", "/a") is None


def test_the_oom_counter_is_where_the_memory_controller_is() -> None:
    assert memory_events(v1(), "/a") == "/sys/fs/cgroup/memory/a/memory.oom_control"
    pure = Layout(Kind.V2, (), "/sys/fs/cgroup", frozenset({"memory"}), "/", False, frozenset())
    assert memory_events(pure, "/a") == "/sys/fs/cgroup/a/memory.events"
    assert memory_events(v2(), "/a") is None


@pytest.mark.parametrize(
    "path",
    [
        "",
        "/",
        "a",
        "/a/../b",
        "/..",
        "/a/./b",
        "/a//b",
        "/a/",
        "/a\0",
        "/a\nb",
        "/cgroup.procs",
        "/a/tasks",
        "/" + "x" * 256,
        "/" + "/".join(["y" * 200] * 21),
    ],
)
def test_what_is_not_a_cgroup_path_is_refused(path: str) -> None:
    with pytest.raises(InvalidArgument):
        validate(path)


@given(st.lists(st.text("abz09-_:.é", min_size=1, max_size=20), min_size=1, max_size=5))
def test_every_accepted_path_stays_below_its_hierarchies(components: list[str]) -> None:
    path = "/" + "/".join(components)
    try:
        found = dirs(hybrid(), path)
    except InvalidArgument:
        return
    for directory_ in [*found["v1"], found["v2"] or ""]:
        assert str(Path(directory_)) == directory_
        assert ".." not in Path(directory_).parts
        assert directory_.startswith("/sys/fs/cgroup/")


@pytest.mark.parametrize(("kilobytes", "name"), [(64, "64KB"), (2048, "2MB"), (32768, "32MB"), (1048576, "1GB")])
def test_a_page_size_is_spelled_as_the_controller_spells_it(kilobytes: int, name: str) -> None:
    assert page_size(kilobytes) == name


def fake_host(tmp_path: Path, mountinfo: str) -> tuple[str, str]:
    proc, sys_root = tmp_path / "proc", tmp_path / "sys"
    (proc / "self").mkdir(parents=True)
    (sys_root / "kernel/mm/hugepages/hugepages-2048kB").mkdir(parents=True)
    (sys_root / "kernel/mm/hugepages/other").mkdir()
    (proc / "self/mountinfo").write_text(mountinfo)
    (proc / "self/cgroup").write_text("0::/own\n")
    (proc / "swaps").write_text("Filename Type Size Used Priority\n/swap file 1 0 -2\n")
    return str(proc), str(sys_root)


def test_detect_reads_the_offered_controllers_swap_and_page_sizes(tmp_path: Path) -> None:
    tree = tmp_path / "cgroup"
    tree.mkdir()
    (tree / "cgroup.controllers").write_text("cpu memory pids\n")
    layout = detect(*fake_host(tmp_path, f"30 24 0:27 / {tree} rw - cgroup2 cgroup2 rw\n"))
    assert layout.v2_controllers == {"cpu", "memory", "pids"}
    assert layout.is_v2("cpu")
    assert layout.swap
    assert layout.page_sizes == {"2MB"}
    assert layout.own_v2 == "/own"


def test_detect_without_huge_pages_finds_none(tmp_path: Path) -> None:
    proc, _ = fake_host(tmp_path, V2_MOUNT)
    assert detect(proc, str(tmp_path / "nothing")).page_sizes == frozenset()


def test_detect_names_the_file_that_it_could_not_read(tmp_path: Path) -> None:
    with pytest.raises(HostFault, match="mountinfo"):
        detect(str(tmp_path / "nowhere"))


def test_detect_finds_the_cgroups_of_this_host() -> None:
    layout = detect()
    assert layout.v1 or layout.v2
