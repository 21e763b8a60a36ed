from __future__ import annotations

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.errors import HostFault, StartRefused
from runtime.idmap import make_user_namespace
from runtime.linux import files, mount, namespaces, trees
from runtime.linux.libc import AT_FDCWD, AT_RECURSIVE
from runtime.linux.script import Script, Slot
from runtime.spec import IdMapping
from tests.kernel.runtime.launched import carried_out
from tests.kernel.runtime.rootfs.held import left_open
from tests.kernel.runtime.rootfs.mountns import in_mount_namespace


def open_path(script: Script, path: Path) -> Slot:
    return script.opened("openat", AT_FDCWD, str(path), os.O_PATH | os.O_CLOEXEC, 0)


def attached(script: Script, tree: Slot, path: Path) -> None:
    trees.move_mount(script, tree, open_path(script, path), str(path))


def test_a_file_system_is_made_with_its_options_and_attached_by_descriptor(tmp_path: Path) -> None:
    def write(script: Script) -> None:
        attached(
            script, trees.create(script, "tmpfs", ("size=1m", "mode=700", "ro"), mount.MOUNT_ATTR_NOEXEC), tmp_path
        )

    def work() -> tuple[int, int, int]:
        carried_out(write)
        found = os.open(tmp_path, os.O_PATH)
        flags = os.statvfs(tmp_path).f_flag & (os.ST_NOEXEC | os.ST_RDONLY | os.ST_NOSUID)
        return files.magic(found), tmp_path.stat().st_mode & 0o777, flags

    assert in_mount_namespace(work) == (files.TMPFS_MAGIC, 0o700, os.ST_NOEXEC | os.ST_RDONLY)
    assert not tmp_path.is_mount()


def test_an_option_that_is_unknown_is_named() -> None:
    with pytest.raises(HostFault, match="rubbish=1: fsconfig") as failed:
        carried_out(lambda script: trees.create(script, "tmpfs", ("rubbish=1",)))
    assert failed.value.errno == errno.EINVAL
    with pytest.raises(StartRefused, match="does not take that"):
        refuse = {errno.EINVAL: (StartRefused, "does not take that")}
        carried_out(lambda script: trees.create(script, "tmpfs", ("rubbish",), refuse=refuse))
    with pytest.raises(HostFault, match="nofs: fsopen"):
        carried_out(lambda script: trees.create(script, "nofs", ()))


@pytest.mark.parametrize(("flags", "expected"), [(0, []), (AT_RECURSIVE, ["inner"])])
def test_a_tree_is_cloned_with_or_without_what_is_mounted_below(
    tmp_path: Path, flags: int, expected: list[str]
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "below").mkdir(parents=True)
    target.mkdir()

    def write(script: Script) -> None:
        tree = trees.open_tree(script, AT_FDCWD, str(source), mount.OPEN_TREE_CLONE | flags)
        attached(script, tree, target)

    def work() -> list[str]:
        mount.mount("tmpfs", str(source / "below"), "tmpfs", 0, "size=64k")
        (source / "below/inner").touch()
        carried_out(write)
        return os.listdir(target / "below")

    assert in_mount_namespace(work) == expected


def test_without_a_path_the_descriptor_itself_is_cloned(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("content")
    (tmp_path / "other").touch()

    def write(script: Script) -> None:
        tree = trees.open_tree(script, open_path(script, tmp_path / "file"), "", mount.OPEN_TREE_CLONE)
        attached(script, tree, tmp_path / "other")

    def work() -> str:
        carried_out(write)
        return (tmp_path / "other").read_text()

    assert in_mount_namespace(work) == "content"


def test_what_cannot_be_cloned_or_attached_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "directory").mkdir()

    def write(script: Script) -> None:
        tree = trees.open_tree(script, AT_FDCWD, str(tmp_path / "directory"), mount.OPEN_TREE_CLONE)
        attached(script, tree, tmp_path / "file")

    with pytest.raises(HostFault, match="/nowhere: open_tree"):
        carried_out(lambda script: trees.open_tree(script, AT_FDCWD, "/nowhere"))
    with pytest.raises(HostFault) as failed:
        in_mount_namespace(lambda: carried_out(write))
    assert (failed.value.object, failed.value.call) == (str(tmp_path / "file"), "move_mount")


IDS: IdMapping = {"host": 1000, "size": 500}


def test_a_tree_is_idmapped_by_a_user_namespace(tmp_path: Path) -> None:
    source, target, user = tmp_path / "source", tmp_path / "target", make_user_namespace(IDS)
    source.mkdir()
    target.mkdir()
    for name, owner in (("root", 0), ("other", 499), ("beyond", 500)):
        (source / name).touch()
        os.chown(source / name, owner, owner)

    def write(script: Script) -> None:
        tree = trees.open_tree(script, AT_FDCWD, str(source), mount.OPEN_TREE_CLONE)
        trees.set_idmap(script, tree, script.given["user"], name=str(source))
        attached(script, tree, target)

    def work() -> list[int]:
        carried_out(write, {"user": user})
        return [(target / name).stat().st_uid for name in ("root", "other", "beyond")]

    assert in_mount_namespace(work) == [1000, 1499, 65534]
    os.close(user)


def test_what_cannot_be_idmapped_is_refused_by_its_name() -> None:
    def write(script: Script) -> None:
        tree = trees.open_tree(script, AT_FDCWD, "/proc", mount.OPEN_TREE_CLONE)
        trees.set_idmap(script, tree, script.given["user"], name="/proc")

    user = make_user_namespace(IDS)
    with pytest.raises(StartRefused, match="/proc: is on a file system that cannot be idmapped"):
        carried_out(write, {"user": user})
    os.close(user)


def mounted_below(path: Path, does: Callable[[Script, Slot], None]) -> tuple[list[bool], str]:
    """Of a tmpfs at ``path`` and one below it: whether they are read-only; the propagation of the first."""

    def write(script: Script) -> None:
        does(script, trees.open_tree(script, AT_FDCWD, str(path)))

    def work() -> tuple[list[bool], str]:
        for directory in (path, path / "below"):
            directory.mkdir(exist_ok=True)
            mount.mount("tmpfs", str(directory), "tmpfs", 0, "size=64k")
        carried_out(write)
        lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        fields = next(line for line in lines if line[4] == str(path))
        shown = fields[6].partition(":")[0]
        return [bool(os.statvfs(each).f_flag & os.ST_RDONLY) for each in (path, path / "below")], shown

    return in_mount_namespace(work)


def test_attributes_are_set_on_one_mount_or_on_all_below(tmp_path: Path) -> None:
    readonly = mount.MOUNT_ATTR_RDONLY
    assert mounted_below(tmp_path, lambda s, tree: trees.set_attributes(s, tree, readonly))[0] == [True, False]
    everywhere = mounted_below(tmp_path, lambda s, tree: trees.set_attributes(s, tree, readonly, recursive=True))
    assert everywhere[0] == [True, True]

    def cleared(script: Script, tree: Slot) -> None:
        trees.set_attributes(script, tree, readonly, recursive=True)
        trees.set_attributes(script, tree, clear=readonly)

    assert mounted_below(tmp_path, cleared)[0] == [False, True]


def test_propagation_is_set(tmp_path: Path) -> None:
    found = mounted_below(tmp_path, lambda s, tree: trees.set_attributes(s, tree, propagation=mount.MS_SHARED))
    assert found == ([False, False], "shared")


def test_attributes_that_do_not_exist_are_refused_by_name() -> None:
    def write(script: Script) -> None:
        tree = trees.create(script, "tmpfs", ())
        trees.set_attributes(script, tree, 1 << 40, name="/mnt")

    with pytest.raises(HostFault, match="/mnt: mount_setattr"):
        carried_out(write)


def test_a_mount_namespace_of_its_own_hides_what_is_mounted_and_follows_what_goes(tmp_path: Path) -> None:
    """A slave: what the host mounts or unmounts reaches it, what it mounts does not reach the host."""
    shared, own = tmp_path / "shared", tmp_path / "own"

    def work() -> tuple[bool, list[str], str]:
        for directory in (shared, own):
            directory.mkdir()
        mount.mount("tmpfs", str(shared), "tmpfs", 0, "size=64k")
        mount.mount("", "/", "", mount.MS_REC | mount.MS_SHARED)

        def write(script: Script) -> list[Slot]:
            trees.own_mount_namespace(script, namespaces.CLONE_NEWNS)
            trees.mount_at(script, "tmpfs", str(own), "tmpfs", mount.MS_NOEXEC, "size=64k")
            inside = script.opened("openat", AT_FDCWD, str(own), os.O_RDONLY | os.O_DIRECTORY, 0)
            script.call("symlinkat", "target", inside, "made")
            return [inside, script.opened("openat", AT_FDCWD, "/proc/thread-self/mountinfo", os.O_RDONLY, 0)]

        inside, mountinfo = carried_out(write)
        text = b""
        while part := os.read(mountinfo, 65536):
            text += part
        line = next(line.split() for line in text.decode().splitlines() if line.split()[4] == str(shared))
        return own.is_mount(), os.listdir(inside), line[6].partition(":")[0]

    assert in_mount_namespace(work) == (False, ["made"], "master")


def test_a_mount_that_is_refused_has_the_given_words(tmp_path: Path) -> None:
    refuse = {errno.ENODEV: (StartRefused, "the host has no such file system")}

    def write(script: Script) -> None:
        trees.mount_at(script, "", str(tmp_path), "nofs", 0, refuse=refuse)

    with pytest.raises(StartRefused, match="no such file system") as refused:
        in_mount_namespace(lambda: carried_out(write))
    assert refused.value.object == str(tmp_path)
    with pytest.raises(HostFault) as failed:
        in_mount_namespace(lambda: carried_out(lambda s: trees.mount_at(s, "", str(tmp_path), "nofs", 0)))
    assert (failed.value.call, failed.value.errno) == ("mount", errno.ENODEV)


def test_only_trees_are_left_open_and_go_when_a_program_is_executed(tmp_path: Path) -> None:
    def write(script: Script) -> None:
        trees.create(script, "tmpfs", ("size=64k",))
        trees.open_tree(script, AT_FDCWD, str(tmp_path), mount.OPEN_TREE_CLONE)
        trees.open_tree(script, AT_FDCWD, str(tmp_path))

    assert list(left_open(write).values()) == [True, True, True]


def test_what_is_mounted_aside_goes_when_the_process_is_back(tmp_path: Path) -> None:
    def write(script: Script) -> Slot:
        with trees.in_mount_namespace_aside(script):
            trees.mount_at(script, "tmpfs", str(tmp_path), "tmpfs", 0, "size=64k")
            script.call("mkdirat", AT_FDCWD, str(tmp_path / "seen"), 0o755)
            tree = trees.open_tree(script, AT_FDCWD, str(tmp_path), mount.OPEN_TREE_CLONE)
        script.call("mkdirat", AT_FDCWD, str(tmp_path / "back"), 0o755)
        return tree

    (tree,) = carried_out(write)
    assert os.listdir(f"/proc/self/fd/{tree}") == ["seen"] and os.listdir(tmp_path) == ["back"]
    os.close(tree)
