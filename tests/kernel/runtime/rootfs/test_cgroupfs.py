from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import pytest

from runtime.errors import HostFault
from runtime.linux import files, namespaces
from runtime.linux.script import Script, Slot
from runtime.requests import CgroupDirs
from runtime.rootfs import cgroupfs
from runtime.rootfs.options import parse_options
from runtime.spec import Mount
from tests.descriptors import open_descriptors
from tests.kernel.runtime.forked import in_child
from tests.kernel.runtime.launched import carried_out
from tests.kernel.runtime.rootfs.held import left_open
from tests.kernel.runtime.rootfs.mountns import enter, tmpfs_root

T = TypeVar("T")

ENTRY: Mount = {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": []}
OPTIONS = ["nosuid", "noexec", "nodev", "relatime", "ro"]
V2 = next((p for p in (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified")) if (p / "cgroup.procs").exists()), None)
V1 = [p for p in sorted(Path("/sys/fs/cgroup").glob("*/tasks")) if not p.parent.is_symlink()]


@pytest.fixture
def directories() -> Iterator[CgroupDirs]:
    """A cgroup of this test in up to two v1 hierarchies and in v2."""
    name = f"crisp-test-{os.getpid()}"
    parents = [path.parent for path in V1 if path.parent.name in ("pids", "freezer")]
    made = [parent / name for parent in parents]
    unified = V2 / name if V2 else None
    for path in [*made, *([unified] if unified else [])]:
        path.mkdir()
    yield {"v1": [str(path) for path in made], "v2": str(unified) if unified else None}
    for path in [*made, *([unified] if unified else [])]:
        path.rmdir()


def opened(cgroup: CgroupDirs, private: bool) -> tuple[list[str], list[int]]:
    names: list[str] = []

    def write(script: Script) -> list[Slot]:
        found = cgroupfs.open_cgroups(script, cgroup, private, parse_options(OPTIONS))
        names.extend(name for name, _ in found)
        return [tree for _, tree in found]

    return names, carried_out(write)


def attaching(names: list[str]) -> Callable[[Script], None]:
    def write(script: Script) -> None:
        found = [(name, script.given[f"tree of {name}"]) for name in names]
        cgroupfs.attach_cgroups(script, script.given["root"], found, ENTRY, parse_options(OPTIONS))

    return write


def given(root: int, names: list[str], trees: list[int]) -> dict[str, int]:
    return {"root": root, **{f"tree of {name}": tree for name, tree in zip(names, trees, strict=True)}}


def attach(root: int, names: list[str], trees: list[int]) -> None:
    carried_out(attaching(names), given(root, names, trees))


def mounted(root: Path, cgroup: CgroupDirs, private: bool, then: Callable[[Path], T]) -> T:
    def work() -> T:
        names, trees = opened(cgroup, private)
        if private:
            namespaces.unshare(namespaces.CLONE_NEWCGROUP)
        enter()
        attach(tmpfs_root(root), names, trees)
        return then(root / "sys/fs/cgroup")

    return in_child(work)


def is_readonly(path: Path) -> bool:
    try:
        (path / "new").mkdir()
    except OSError as error:
        return error.errno == errno.EROFS
    return False


@pytest.mark.skipif(not V1, reason="needs cgroup v1 hierarchies")
def test_on_v1_there_is_a_read_only_directory_for_each_hierarchy(tmp_path: Path, directories: CgroupDirs) -> None:
    (expected,) = {Path(path).name for path in directories["v1"]}
    children = [Path(path) / "inside" for path in directories["v1"]]
    for child in children:
        child.mkdir()
    try:

        def look(target: Path) -> tuple[list[str], bool, bool, bool]:
            names = sorted(os.listdir(target))
            return names, is_readonly(target), is_readonly(target / names[0]), (target / names[0] / "inside").is_dir()

        names, top, below, own = mounted(tmp_path, directories, True, look)
    finally:
        for child in children:
            child.rmdir()
    wanted = {Path(path).parent.name for path in directories["v1"]} | ({V2.name} if V2 else set())
    assert (set(names), top, below, own) == (wanted, True, True, True)
    assert expected.startswith("crisp-test")


@pytest.mark.skipif(V2 is None, reason="needs cgroup v2")
def test_on_pure_v2_a_private_namespace_shows_the_own_cgroup(tmp_path: Path, directories: CgroupDirs) -> None:
    def look(target: Path) -> tuple[int, bool]:
        fd = os.open(target, os.O_PATH)
        return files.magic(fd), is_readonly(target)

    found = mounted(tmp_path, {"v1": [], "v2": directories["v2"]}, True, look)
    assert found == (files.CGROUP2_SUPER_MAGIC, True)


def test_on_pure_v2_without_one_it_is_the_host_s_own_mount(tmp_path: Path) -> None:
    def look(target: Path) -> tuple[list[str], bool]:
        return sorted(os.listdir(target)), is_readonly(target)

    names, readonly = mounted(tmp_path, {"v1": [], "v2": None}, False, look)
    assert names == sorted(os.listdir("/sys/fs/cgroup"))
    assert readonly


def test_hierarchies_are_named_after_their_mount_points() -> None:
    cgroup: CgroupDirs = {
        "v1": ["/sys/fs/cgroup/cpu,cpuacct/kubepods/x", "/sys/fs/cgroup/memory/kubepods/x"],
        "v2": "/sys/fs/cgroup/unified/kubepods/x",
    }
    assert [name for name, _ in cgroupfs.plan_hierarchies(cgroup)] == ["cpu,cpuacct", "memory", "unified"]


def test_controllers_of_a_joint_hierarchy_have_links(tmp_path: Path) -> None:
    def work() -> dict[str, str]:
        enter()
        (tmp_path / "a").mkdir()
        trees = carried_out(lambda s: cgroupfs._open(s, str(tmp_path / "a"), 0, parse_options(OPTIONS)))
        (tmp_path / "r").mkdir()
        attach(tmpfs_root(tmp_path / "r"), ["cpu,cpuacct"], trees)
        target = tmp_path / "r/sys/fs/cgroup"
        return {entry.name: os.readlink(entry) if entry.is_symlink() else "" for entry in target.iterdir()}

    assert in_child(work) == {"cpu,cpuacct": "", "cpu": "cpu,cpuacct", "cpuacct": "cpu,cpuacct"}


def test_a_missing_cgroup_leaves_nothing_open() -> None:
    before = open_descriptors()
    with pytest.raises(HostFault, match="/nowhere: open_tree"):
        opened({"v1": ["/sys/fs/cgroup", "/nowhere"], "v2": None}, True)
    assert open_descriptors() == before


@pytest.mark.skipif(V2 is None, reason="needs cgroup v2")
@pytest.mark.parametrize("kind", ["v1", "v2, private", "v2"])
def test_all_that_was_opened_is_closed_when_it_is_attached(tmp_path: Path, directories: CgroupDirs, kind: str) -> None:
    cgroup: CgroupDirs = directories if kind == "v1" else {"v1": [], "v2": directories["v2"]}

    def work() -> dict[str, bool]:
        enter()

        def write(script: Script) -> None:
            options = parse_options(OPTIONS)
            found = cgroupfs.open_cgroups(script, cgroup, kind != "v2", options)
            if kind != "v2":
                script.call("unshare", namespaces.CLONE_NEWCGROUP)
            cgroupfs.attach_cgroups(script, script.given["root"], found, ENTRY, options)

        return left_open(write, {"root": tmpfs_root(tmp_path)})

    assert in_child(work) == {}


@pytest.mark.skipif(V2 is None, reason="needs cgroup v2")
def test_what_is_opened_goes_when_a_program_is_executed(directories: CgroupDirs) -> None:
    def write(script: Script) -> None:
        cgroupfs.open_cgroups(script, directories, True, parse_options(OPTIONS))

    assert set(left_open(write).values()) == {True}
