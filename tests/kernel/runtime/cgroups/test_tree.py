from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from runtime.cgroups import files, tree
from runtime.cgroups.layout import Hierarchy, Kind, Layout, detect, dirs
from runtime.errors import HostFault, InvalidArgument
from tests.kernel.runtime.cgroups.processes import cgroup, living_in

LAYOUT = detect()
needs_v1 = pytest.mark.skipif(not LAYOUT.v1, reason="no cgroup v1 tree")
needs_hybrid = pytest.mark.skipif(LAYOUT.kind is not Kind.HYBRID, reason="no hybrid cgroup hierarchy")
needs_v2_controller = pytest.mark.skipif(not LAYOUT.v2_controllers, reason="no controller in the cgroup v2 tree")


@pytest.fixture
def path() -> Iterator[str]:
    """A cgroup path that does not exist yet; whatever is made of it is removed."""
    fresh = f"/crisp-test-{secrets.token_hex(4)}"
    yield fresh
    assert tree.remove(LAYOUT, fresh, ours=True)


def everywhere(path: str) -> list[str]:
    found = dirs(LAYOUT, path)
    return [*found["v1"], *filter(None, [found["v2"]])]


def test_a_cgroup_is_made_in_every_tree_and_removed_again(path: str) -> None:
    assert not tree.exists(LAYOUT, path)
    assert tree.create(LAYOUT, path, "some id")
    assert tree.exists(LAYOUT, path)
    assert [tree.owner(directory) for directory in everywhere(path)] == ["some id"] * len(everywhere(path))
    assert not tree.create(LAYOUT, path, "another id")
    assert tree.owner(everywhere(path)[0]) == "some id"
    assert tree.remove(LAYOUT, path)
    assert not any(map(os.path.exists, everywhere(path)))
    assert tree.remove(LAYOUT, path)


def test_missing_ancestors_go_with_the_last_cgroup_below_them(path: str) -> None:
    tree.create(LAYOUT, f"{path}/a/one", "1")
    tree.create(LAYOUT, f"{path}/a/two", "2")
    assert tree.remove(LAYOUT, f"{path}/a/one")
    assert tree.exists(LAYOUT, f"{path}/a/two")
    assert tree.remove(LAYOUT, f"{path}/a/two")
    assert not any(map(os.path.exists, everywhere(path)))


def test_a_cgroup_with_an_owner_stays_until_it_is_named(path: str) -> None:
    tree.create(LAYOUT, path, "pod")
    tree.create(LAYOUT, f"{path}/c", "container")
    assert tree.remove(LAYOUT, f"{path}/c")
    assert all(map(os.path.isdir, everywhere(path)))


@needs_v1
def test_what_others_made_is_left_alone(path: str) -> None:
    foreign = [hierarchy.mount + path for hierarchy in LAYOUT.v1]
    for directory in foreign:
        os.mkdir(directory)
    assert not tree.create(LAYOUT, path, "pod")
    tree.create(LAYOUT, f"{path}/c", "container")
    assert tree.remove(LAYOUT, f"{path}/c")
    assert tree.remove(LAYOUT, path)
    assert all(map(os.path.isdir, foreign))
    assert LAYOUT.v2 is None or not os.path.exists(LAYOUT.v2 + path)
    assert tree.remove(LAYOUT, path, ours=True)
    assert not any(map(os.path.exists, foreign))


@needs_v1
def test_a_new_cpuset_has_its_parents_processors(path: str) -> None:
    mount = LAYOUT.root("cpuset")
    if mount is None or LAYOUT.is_v2("cpuset"):
        pytest.skip("no cgroup v1 cpuset controller")
    os.mkdir(mount + path)  # by someone who left it empty
    tree.create(LAYOUT, f"{path}/a/b", "x")
    for name in ("cpuset.cpus", "cpuset.mems"):
        expected = Path(f"{mount}/{name}").read_text()
        assert expected.strip()
        assert [Path(f"{mount}{path}{below}/{name}").read_text() for below in ("", "/a", "/a/b")] == [expected] * 3


@needs_v1
def test_the_next_cpuset_beside_one_that_was_filled_gets_its_processors_from_the_kernel(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    mount = LAYOUT.root("cpuset")
    if mount is None or LAYOUT.is_v2("cpuset"):
        pytest.skip("no cgroup v1 cpuset controller")
    tree.create(LAYOUT, f"{path}/a", "x")
    Path(f"{mount}{path}/a/cpuset.cpus").write_text("0")
    Path(f"{mount}{path}/cpuset.cpus").write_text("0")
    monkeypatch.setattr(files, "write", None)
    tree.create(LAYOUT, f"{path}/b", "y")
    assert Path(f"{mount}{path}/b/cpuset.cpus").read_text() == "0\n"


def test_a_failure_leaves_nothing(path: str) -> None:
    broken = replace(LAYOUT, v1=(*LAYOUT.v1, Hierarchy("/sys/fs/cgroup/crisp-no-such-mount", ("net_cls",), "/")))
    with pytest.raises(HostFault) as caught:
        tree.create(broken, f"{path}/a", "x")
    assert (caught.value.call, caught.value.errno) == ("mkdir", errno.ENOENT)
    assert not any(map(os.path.exists, everywhere(path)))


def test_a_path_that_climbs_out_is_refused(path: str) -> None:
    for climbing in (f"{path}/../x", "x", "/"):
        with pytest.raises(InvalidArgument):
            tree.create(LAYOUT, climbing, "x")
        with pytest.raises(InvalidArgument):
            tree.remove(LAYOUT, climbing, ours=True)


def test_one_attempt_to_remove_a_living_cgroup_says_no() -> None:
    with cgroup(LAYOUT) as path, living_in(dirs(LAYOUT, path)) as pid:
        assert not tree.remove(LAYOUT, path)
        assert tree.procs(LAYOUT, path) == {pid}


async def test_waiting_for_the_removal_kills_what_is_inside() -> None:
    with cgroup(LAYOUT) as path, living_in(dirs(LAYOUT, path)):
        await tree.wait_removed(LAYOUT, path, 5)
        assert not tree.exists(LAYOUT, path)
        await tree.wait_removed(LAYOUT, path, 5)


async def test_a_wait_that_may_not_kill_ends_and_names_the_processes() -> None:
    with cgroup(LAYOUT) as path, living_in(dirs(LAYOUT, path)) as pid:
        with pytest.raises(HostFault) as caught:
            await tree.wait_removed(LAYOUT, path, 0.02, ours=False)
        assert caught.value.errno == errno.EBUSY
        assert str(pid) in str(caught.value)


def test_an_exec_has_a_cgroup_of_its_own_in_the_containers() -> None:
    with cgroup(LAYOUT) as path:
        found = tree.create_exec(LAYOUT, path, "exec-1")
        own = [d for d in [*found["v1"], *filter(None, [found["v2"]])] if d.endswith("/exec-1")]
        assert own and all(map(os.path.isdir, own))
        with living_in(dirs(LAYOUT, path)), living_in(found):
            assert not tree.remove_exec(LAYOUT, path, "exec-1")
        assert tree.remove_exec(LAYOUT, path, "exec-1")
        assert tree.remove_exec(LAYOUT, path, "exec-1")
        assert tree.exists(LAYOUT, path)


def test_an_exec_in_a_container_that_is_gone_leaves_nothing(path: str) -> None:
    with pytest.raises(HostFault) as caught:
        tree.create_exec(LAYOUT, path, "exec-1")
    assert caught.value.errno == errno.ENOENT
    assert not any(map(os.path.exists, everywhere(path)))


@needs_v2_controller
def test_controllers_are_handed_down_to_the_leaf(path: str) -> None:
    tree.create(LAYOUT, f"{path}/a", "x")
    offered = Path(f"{LAYOUT.v2}{path}/a/cgroup.controllers").read_text().split()
    assert set(offered) == LAYOUT.v2_controllers & tree.USED
    rest = LAYOUT.v2_controllers - tree.USED
    tree.create(LAYOUT, f"{path}/b", "x", rest)
    assert set(Path(f"{LAYOUT.v2}{path}/b/cgroup.controllers").read_text().split()) == LAYOUT.v2_controllers


@needs_v2_controller
def test_a_parent_with_processes_cannot_hand_down_and_the_fault_says_why() -> None:
    with cgroup(LAYOUT) as path:
        with living_in({"v1": [], "v2": f"{LAYOUT.v2}{path}"}), pytest.raises(HostFault) as caught:
            tree.create(LAYOUT, f"{path}/c", "x")
        assert caught.value.errno == errno.EBUSY
        assert "processes of its own" in str(caught.value)
        assert not any(map(os.path.exists, everywhere(f"{path}/c")))


def pure_v2(root: Path) -> Layout:
    """Files that look like a v2 tree with controllers, where no v2 tree has any."""
    for directory in (root, root / "pod"):
        directory.mkdir(exist_ok=True)
        (directory / "cgroup.controllers").write_text("cpu io memory pids rdma\n")
        (directory / "cgroup.subtree_control").write_text("")
    return Layout(Kind.V2, (), str(root), frozenset({"cpu", "memory", "pids", "rdma"}), "/", False, frozenset())


def test_only_what_is_lacking_and_offered_is_enabled_on_pure_v2(tmp_path: Path) -> None:
    layout = pure_v2(tmp_path)
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory pids")
    assert tree.create(layout, "/pod/c", "x")
    assert (tmp_path / "cgroup.subtree_control").read_text() == "cpu memory pids"
    assert (tmp_path / "pod/cgroup.subtree_control").read_text() == "+cpu +memory +pids"
    assert tree.exists(layout, "/pod/c")
    assert not tree.create(layout, "/pod/c", "x")


def test_a_controller_that_few_need_is_enabled_for_whoever_asks(tmp_path: Path) -> None:
    layout = pure_v2(tmp_path)
    for directory in (tmp_path, tmp_path / "pod"):
        (directory / "cgroup.subtree_control").write_text("cpu memory pids")
    (tmp_path / "pod/cgroup.controllers").write_text("cpu memory pids")  # what the root hands down
    tree.hand_down(layout, "/pod/c")
    tree.hand_down(layout, "/pod/c", {"cpu", "misc"})
    assert (tmp_path / "cgroup.subtree_control").read_text() == "cpu memory pids"
    tree.hand_down(layout, "/pod/c", {"rdma"})
    for directory in (tmp_path, tmp_path / "pod"):  # written over what an ordinary file held
        assert (directory / "cgroup.subtree_control").read_text().startswith("+rdma")


def test_a_directory_without_a_mark_belongs_to_nobody(tmp_path: Path) -> None:
    assert tree.owner(str(tmp_path)) is None
    assert tree.owner(str(tmp_path / "gone")) is None
    (tmp_path / "file").touch()
    with pytest.raises(HostFault, match="mark"):
        tree.owner(str(tmp_path / "file/x"))


def test_what_cannot_be_removed_for_another_reason_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    layout = Layout(Kind.V2, (), str(tmp_path), frozenset(), "/", False, frozenset())
    with pytest.raises(HostFault) as caught:
        tree.remove(layout, "/a", ours=True)
    assert (caught.value.call, caught.value.errno) == ("rmdir", errno.ENOTDIR)


@needs_hybrid
def test_on_a_hybrid_host_the_v1_trees_decide_whether_it_exists(path: str) -> None:
    os.mkdir(f"{LAYOUT.v2}{path}")
    assert not tree.exists(LAYOUT, path)


@pytest.mark.skipif(LAYOUT.v2 is None, reason="no cgroup v2 tree")
def test_whom_a_cgroup_is_delegated_to_owns_what_divides_it_and_no_limit(path: str) -> None:
    tree.create(LAYOUT, path, "container")
    tree.delegate(LAYOUT, path, 5000)
    folder = Path(f"{LAYOUT.v2}{path}")
    owned = {entry.name for entry in folder.iterdir() if entry.stat().st_uid == 5000}
    assert (
        {"cgroup.procs", "cgroup.subtree_control"} <= owned == owned & set(Path(tree.DELEGATABLE).read_text().split())
    )
    assert folder.stat().st_uid == 5000 and folder.stat().st_gid == 0


@needs_v1
def test_without_v2_nothing_is_delegated(path: str) -> None:
    tree.create(LAYOUT, path, "container")
    tree.delegate(replace(LAYOUT, v2=None), path, 5000)
    assert all(os.stat(directory).st_uid == 0 for directory in everywhere(path))


def test_a_cgroup_that_is_gone_is_delegated_to_nobody(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.delegate(LAYOUT, path, 5000)
    monkeypatch.setattr(os, "chown", refuse)
    with pytest.raises(HostFault, match=r"delegate the cgroup: .*EPERM"):
        tree.delegate(replace(LAYOUT, v2="/sys/fs/cgroup"), path, 5000)


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(errno.EPERM, "no")
