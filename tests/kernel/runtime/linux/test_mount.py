from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from runtime.idmap import make_user_namespace
from runtime.linux import files, mount, namespaces
from runtime.linux.libc import AT_FDCWD, AT_RECURSIVE, SyscallError
from tests.kernel.runtime.forked import in_child


def enter() -> None:
    namespaces.unshare(namespaces.CLONE_NEWNS)
    mount.mount("", "/", "", mount.MS_REC | mount.MS_PRIVATE)


def new_tmpfs(attributes: int = 0, *options: str) -> int:
    context = mount.fsopen("tmpfs")
    for option in options:
        mount.fsconfig(context, option)
    tree = mount.fsmount(context, attributes)
    os.close(context)
    return tree


def attach(tree: int, path: Path) -> None:
    target = os.open(path, os.O_PATH)
    mount.move_mount(tree, target, str(path))
    os.close(target)


def test_a_file_system_is_made_and_attached_by_descriptor(tmp_path: Path) -> None:
    def work() -> tuple[int, int, bool]:
        enter()
        tree = new_tmpfs(mount.MOUNT_ATTR_NOEXEC, "size=1m", "mode=700", "ro")
        assert not os.get_inheritable(tree)
        attach(tree, tmp_path)
        found = os.open(tmp_path, os.O_PATH)
        flags = os.statvfs(tmp_path).f_flag
        return files.magic(found), tmp_path.stat().st_mode & 0o777, bool(flags & os.ST_NOEXEC and flags & os.ST_RDONLY)

    assert in_child(work) == (files.TMPFS_MAGIC, 0o700, True)


def test_a_tree_is_cloned_with_what_is_mounted_below(tmp_path: Path) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "below").mkdir(parents=True)
    target.mkdir()

    def work(flags: int) -> list[str]:
        enter()
        attach(new_tmpfs(), source / "below")
        (source / "below/file").touch()
        tree = mount.open_tree(AT_FDCWD, str(source), mount.OPEN_TREE_CLONE | flags)
        attach(tree, target)
        return sorted(os.listdir(target / "below"))

    assert in_child(lambda: work(AT_RECURSIVE)) == ["file"]
    assert in_child(lambda: work(0)) == []


def test_attributes_are_set_for_all_mounts_below(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()

    def work(recursive: bool) -> int:
        enter()
        top = new_tmpfs()
        attach(top, tmp_path)
        (tmp_path / "below").mkdir()
        attach(new_tmpfs(), tmp_path / "below")
        mount.mount_setattr(top, mount.MOUNT_ATTR_RDONLY, 0, mount.MS_SLAVE, recursive=recursive)
        return os.statvfs(tmp_path / "below").f_flag & os.ST_RDONLY

    assert in_child(lambda: work(True)) == os.ST_RDONLY
    assert in_child(lambda: work(False)) == 0


def test_pivot_root_and_umount(tmp_path: Path) -> None:
    def work() -> list[str]:
        enter()
        mount.mount("tmpfs", str(tmp_path), "tmpfs", mount.MS_NODEV, "size=64k")
        (tmp_path / "inside").touch()
        os.chdir(tmp_path)
        mount.pivot_root(".", ".")
        mount.umount2(".", mount.MNT_DETACH)
        return os.listdir("/")

    assert in_child(work) == ["inside"]


def test_every_failure_names_its_call(tmp_path: Path) -> None:
    directory = os.open(tmp_path, os.O_PATH)
    context = mount.fsopen("tmpfs")
    calls: dict[str, Callable[[], object]] = {
        "mount": lambda: mount.mount("", "/nowhere", "tmpfs", 0),
        "umount2": lambda: mount.umount2(str(tmp_path)),
        "pivot_root": lambda: mount.pivot_root(str(tmp_path), str(tmp_path)),
        "open_tree": lambda: mount.open_tree(AT_FDCWD, "/nowhere"),
        "move_mount": lambda: mount.move_mount(directory, directory, "x"),
        "fsopen": lambda: mount.fsopen("nosuchfs"),
        "fsconfig": lambda: mount.fsconfig(context, "rubbish=1"),
        "mount_setattr": lambda: mount.mount_setattr(directory, mount.MOUNT_ATTR_RDONLY),
    }
    try:
        for name, call in calls.items():
            with pytest.raises(SyscallError) as failed:
                call()
            assert failed.value.call == name
    finally:
        os.close(directory)
        os.close(context)


def test_a_context_that_was_not_made_is_not_mounted() -> None:
    context = mount.fsopen("overlay")
    try:
        with pytest.raises(SyscallError) as failed:
            mount.fsmount(context)
        assert failed.value.errno in (errno.EINVAL, errno.ENOENT)
    finally:
        os.close(context)


def test_what_withholds_mount_setattr_is_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert mount.has_mount_setattr()
    for answer, has in ((errno.ENOSYS, False), (errno.EPERM, False), (errno.EBADF, True), (0, False)):

        def answered(*_: object, number: int = answer) -> int:
            ctypes.set_errno(number)
            return -1 if number else 0

        monkeypatch.setattr(mount, "_mount_setattr", answered)
        assert mount.has_mount_setattr() is has


def test_a_detached_mount_is_idmapped_by_a_user_namespace(tmp_path: Path) -> None:
    user = make_user_namespace({"host": 7000, "size": 10})
    tree = mount.open_tree(AT_FDCWD, os.fspath(tmp_path), mount.OPEN_TREE_CLONE)
    mount.mount_setattr(tree, user=user)
    assert os.fstat(tree).st_uid == 7000 and tmp_path.stat().st_uid == 0
    other = mount.open_tree(AT_FDCWD, "/proc", mount.OPEN_TREE_CLONE)
    with pytest.raises(SyscallError) as refused:
        mount.mount_setattr(other, user=user)
    assert refused.value.errno == errno.EINVAL
    for descriptor in (user, tree, other):
        os.close(descriptor)
