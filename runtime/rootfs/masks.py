"""Paths that a container must not see (masked) or not change (read-only).

A masked file is covered by the host's /dev/null, whose mode and owner the read-only mount keeps;
a masked directory by one empty read-only tmpfs that all of them share. Written into init's script
after procfs and sysfs are in place and verified.

Invariant: what is mounted is the null device that was verified, a clone of the
very object that was found, or an empty file system; never something looked up
twice.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.child import S_IFMT, file_type, look_at, open_null
from runtime.linux import mount, trees
from runtime.linux.libc import AT_RECURSIVE
from runtime.linux.script import Label, Script, Slot
from runtime.rootfs.resolve import HOW_BYTES, how

_NO_ACCESS = mount.MOUNT_ATTR_RDONLY | mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC
_ABSENT = (errno.ENOENT, errno.ENOTDIR)


def mask_paths(script: Script, root: Slot, paths: list[str]) -> None:
    """Cover ``paths`` below ``root``; one that does not exist is passed over."""
    if not paths:
        return
    null = open_null(script, os.O_PATH)
    # The first directory gets the file system itself, the others clones: a mount that was never
    # attached would have to be dissolved, and the kernel waits for an RCU grace period with that.
    taken = script.slot()
    empty = trees.create(script, "tmpfs", ("ro", "size=4k", "nr_inodes=1", "mode=755"), _NO_ACCESS)
    for path in paths:
        absent, file, another, cover, covered = Label(), Label(), Label(), Label(), Label()
        target = _find(script, root, path, absent)
        what = script.slot()
        script.jump_unless(file_type(look_at(script, target)), stat.S_IFDIR, file, S_IFMT)
        script.jump_unless(taken, 0, another)
        trees.move_mount(script, empty, target, path)
        script.set(taken, 1)
        script.jump(covered)
        script.here(another)
        script.set(what, empty)
        script.jump(cover)
        script.here(file)
        script.set(what, null)
        script.here(cover)
        tree = trees.open_tree(script, what, "", mount.OPEN_TREE_CLONE)
        trees.set_attributes(script, tree, mount.MOUNT_ATTR_RDONLY, name=path)
        trees.move_mount(script, tree, target, path)
        script.close(tree)
        script.here(covered)
        script.close(target)
        script.here(absent)
    script.close(null, empty)


def make_readonly(script: Script, root: Slot, paths: list[str]) -> None:
    """Put a read-only clone of each of ``paths`` over itself; one that does not exist is passed over."""
    for path in paths:
        absent = Label()
        target = _find(script, root, path, absent)
        tree = trees.open_tree(script, target, "", mount.OPEN_TREE_CLONE | AT_RECURSIVE)
        trees.set_attributes(script, tree, mount.MOUNT_ATTR_RDONLY, recursive=True, name=path)
        trees.move_mount(script, tree, target, path)
        script.close(tree, target)
        script.here(absent)


def _find(script: Script, root: Slot, path: str, absent: Label) -> Slot:
    target = script.slot()
    arguments = (root, path, how(os.O_PATH), HOW_BYTES)
    script.call("openat2", *arguments, to=target, forgive=_ABSENT, otherwise=absent, object=path)
    return target
