"""The script that makes the mountpoints of containers in a layer of their own.

An init makes what is missing of its mountpoints in its container's writable layer, which
costs it a third of its time. They are the same for each container of an image with the same
mounts: a layer that has them, stacked over the image's, leaves nothing to be made.
``runtime.monitor`` has the script carried out, ``cri.mountpoints`` keeps what it leaves.

The image is mounted as a root with the upper directory to be filled, and the mountpoints are
made in it by the calls of ``runtime.rootfs.resolve`` that an init makes. An empty file
system stands for each mount that is a directory, so that what an init would make inside a
mount is not made below it.

Invariant: what is in the upper directory afterwards, an init would have made as well, in the
same place; nothing is mounted from the host, and no program of the image is executed.
"""

from __future__ import annotations

from collections.abc import Sequence

from runtime.child import leave_monitor, take_stdio
from runtime.linux import mount, namespaces, trees
from runtime.linux.script import Script, Slot
from runtime.requests import Mountpoint, Rootfs
from runtime.rootfs import overlay
from runtime.rootfs.resolve import make_dirs_in_root, make_exact_directory, make_file_in_root

_NO_ACCESS = mount.MOUNT_ATTR_NOSUID | mount.MOUNT_ATTR_NODEV | mount.MOUNT_ATTR_NOEXEC
_SMALL = ("size=64k", "nr_inodes=64", "mode=755")


def plan_mountpoints(rootfs: Rootfs, mountpoints: Sequence[Mountpoint]) -> Script:
    """Make ``mountpoints``, in order, in the upper directory of ``rootfs``, and end.

    Raises:
        StartRefused: the image has more layers than an overlay takes.
    """
    script = Script()
    with script.step("leave the monitor"):
        leave_monitor(script)
        take_stdio(script)
    with script.step("mount the image"):
        trees.own_mount_namespace(script, namespaces.CLONE_NEWNS)
        root = overlay.mount_root(script, rootfs)
    for each in mountpoints:
        with script.step("make the mountpoint", each["path"]):
            script.close(_make(script, root, each))
    with script.step("unmount the image"):
        # Here, not when the process has ended: the upper directory is nobody's before that is told.
        script.call("umount2", rootfs["staging"], mount.MNT_DETACH)
        script.close(root)
        script.call("exit_group", 0)
    return script


def _make(script: Script, root: Slot, mountpoint: Mountpoint) -> Slot:
    path, kind = mountpoint["path"], mountpoint["kind"]
    if kind == "file":
        return make_file_in_root(script, root, path)
    make = make_exact_directory if kind == "exact" else make_dirs_in_root
    target = make(script, root, path)
    if kind != "plain":
        stands_for = trees.create(script, "tmpfs", _SMALL, _NO_ACCESS)
        trees.move_mount(script, stands_for, target, path)
        script.close(stands_for)
    return target
