"""The root of a container: shared layers below, its own upper directory on top.

Mounted inside the container's mount namespace only, by mount(2) with descriptors
for directories, so that no character of a path is ever an option, and volatile,
because what it holds never outlives a boot (overlayfs documentation, "Volatile
mount"). Init's script mounts the root, and images as volumes (``runtime.rootfs.image_volumes``);
``runtime.image`` looks into the layers alone.

Invariant: what is returned is a descriptor of the mounted root, on which fstatfs has
said overlayfs; all others are closed.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.errors import HostFault, StartRefused
from runtime.linux import files, mount, trees
from runtime.linux.libc import AT_FDCWD, AT_SYMLINK_NOFOLLOW
from runtime.linux.script import Script, Slot, load, number
from runtime.requests import Rootfs
from runtime.spec import UNMAPPED, IdMapping, to_host

# Whatever the defaults of the host's module are: layers are shared by many mounts
# (index), and a layer's xattrs must not point into others (redirect_dir, metacopy).
_OPTIONS = "index=off,metacopy=off,redirect_dir=nofollow"
_MAX_LAYERS = 500  # the kernel's OVL_MAX_STACK
_PAGE = 4096
_AT_REMOVEDIR = 0x200
_ABSENT = (errno.ENOENT,)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def mount_root(script: Script, rootfs: Rootfs, user: Slot | None = None) -> Slot:
    """Mount the writable root on ``staging``; an O_PATH descriptor of it.

    For a process with a mount namespace of its own, in which nothing is shared. The
    upper directory has the owner and the mode of the topmost layer already
    (``take_over_attributes``). With the user namespace ``user`` the layers are idmapped by it.

    Raises:
        StartRefused: the image has more layers than an overlay takes.
    """
    if user is None:
        lower = [_open(script, path) for path in _bounded(rootfs["lowerdirs"])]
    else:
        lower = _idmapped(script, _bounded(rootfs["lowerdirs"]), rootfs["staging"], user)
    upper, work = (_open(script, rootfs[which]) for which in ("upperdir", "workdir"))
    _remove_volatile_mark(script, work)
    writable = f",upperdir={_shown(upper)},workdir={_shown(work)},volatile"
    root = _mount(script, rootfs, lower, writable, 0)
    script.close(upper, work)
    return root


def mount_readonly(script: Script, lowerdirs: list[str], rootfs: Rootfs, user: Slot | None = None) -> Slot:
    """Mount layers alone where and with the label with which ``rootfs`` will be; an O_PATH descriptor of their root.

    With the user namespace ``user`` they are idmapped by it, and each is mounted below that.

    Raises:
        StartRefused: more layers than an overlay takes.
    """
    lowest = _open(script, rootfs["staging"])  # without an upper directory it takes two
    if user is None:
        lower = [*(_open(script, path) for path in _bounded(lowerdirs)), lowest]
    else:
        lower = [*_idmapped(script, _bounded(lowerdirs), rootfs["staging"], user), lowest]
    return _mount(script, rootfs, lower, "", mount.MS_RDONLY)


def _mount(script: Script, rootfs: Rootfs, lower: list[Slot], upper: str, flags: int) -> Slot:
    """``upper`` are the options of the writable part, from a comma on, or empty. Closes ``lower``."""
    staging, label = rootfs["staging"], rootfs.get("label", "")
    context = f',context="{label}"' if label else ""  # in quotes, for its level may have commas
    layers = ":".join(map(_shown, lower))
    data, count = script.room(_PAGE), len(lower) - (not upper)
    too_long = {errno.E2BIG: (StartRefused, f"the image has {count} layers: mount(2) takes one page of options")}
    template = f"lowerdir={layers}{upper}{context},{_OPTIONS}"
    script.call("COMPOSE", data, _PAGE, template, refuse=too_long)
    script.call("mount", "overlay", staging, "overlay", flags, data, object=staging)
    root = _open(script, staging)
    found = script.room(256)
    script.call("fstatfs", root, found)
    wrong = (HostFault, "is not the overlay that was just mounted", staging)
    script.expect(load(found), files.OVERLAYFS_SUPER_MAGIC, *wrong, mask=0xFFFFFFFF)
    script.close(*lower)
    return root


def _idmapped(script: Script, paths: list[str], staging: str, user: Slot) -> list[Slot]:
    """Mounts of the layers, one on the other at ``staging``: an overlay takes none that is mounted nowhere."""
    target = _open(script, staging)
    found = []
    for path in paths:
        tree = trees.open_tree(script, AT_FDCWD, path, mount.OPEN_TREE_CLONE | AT_SYMLINK_NOFOLLOW)
        trees.set_idmap(script, tree, user, name=path)
        trees.move_mount(script, tree, target, staging)
        found.append(tree)
    script.close(target)
    return found


def make_detached(script: Script, rootfs: Rootfs, user: Slot) -> Slot:
    """As ``mount_root``, for the host's root, and a tree to be attached elsewhere (:func:`attach_root`).

    A new superblock belongs to its maker's user namespace, and in that of a pod an overlay could not read what a
    layer says of itself (trusted xattrs).
    """
    root = mount_root(script, rootfs, user)
    tree = trees.open_tree(script, root, "", mount.OPEN_TREE_CLONE)
    script.close(root)
    return tree


def attach_root(script: Script, root: Slot) -> None:
    """Mount what :func:`make_detached` returned in the process's own mount namespace.

    Any directory will do that the root of a user namespace may enter; /proc is always there.
    """
    target = _open(script, "/proc")
    trees.move_mount(script, root, target, "/proc")
    script.close(target)


def take_over_attributes(lower: str, upper: str, ids: IdMapping | None = None) -> None:
    """The directory ``upper`` is what `/` will show: it gets owner and mode of the topmost layer's.

    ``ids`` is the mapping of the container's user namespace: in ``upper`` stands who somebody is on the host.
    """
    wanted = os.stat(lower, follow_symlinks=False)
    owners = [wanted.st_uid, wanted.st_gid]
    if ids is not None:
        owners = [-1 if (id := to_host(owner, ids)) == UNMAPPED else id for owner in owners]
    os.chown(upper, *owners, follow_symlinks=False)
    os.chmod(upper, stat.S_IMODE(wanted.st_mode))


def _open(script: Script, path: str) -> Slot:
    return script.opened("openat", AT_FDCWD, path, _DIRECTORY, 0, object=path)


def _shown(fd: Slot) -> str:
    """The path of ``fd``, whose number the composing puts in."""
    return f"/proc/self/fd/\1{number(fd)};"


def _remove_volatile_mark(script: Script, work: Slot) -> None:
    """A start that failed after the mount left ``work/incompat/volatile``, which the kernel refuses.

    It says that unsynced data may be lost in a crash of the machine; no upper
    directory of ours is used after one.
    """
    script.call("unlinkat", work, "work/incompat/volatile/dirty", 0, forgive=_ABSENT)
    script.call("unlinkat", work, "work/incompat/volatile", _AT_REMOVEDIR, forgive=_ABSENT)


def _bounded(layers: list[str]) -> list[str]:
    if len(layers) > _MAX_LAYERS:
        raise StartRefused(f"the image has {len(layers)} layers, an overlay takes {_MAX_LAYERS}")
    return layers


def mount_layers(rootfs: Rootfs) -> int:
    """Mount the layers alone, read-only, on ``staging``; an O_PATH descriptor of the root.

    For looking something up in the image, at once: the upper directory stays untouched.
    """
    fds: list[int] = []
    try:
        for path in (*_bounded(rootfs["lowerdirs"]), rootfs["staging"]):  # without an upper directory it takes two
            fds.append(os.open(path, _DIRECTORY))
        lower = ":".join(f"/proc/self/fd/{fd}" for fd in fds)
        return _mount_at_once(rootfs["staging"], f"lowerdir={lower},{_OPTIONS}", len(rootfs["lowerdirs"]))
    finally:
        for fd in fds:
            os.close(fd)


def _mount_at_once(staging: str, options: str, layers: int) -> int:
    room = os.sysconf("SC_PAGE_SIZE") - 1
    if len(options) > room:
        size = f"{len(options)} bytes of mount options, mount(2) takes {room}"
        raise StartRefused(f"the image has {layers} layers: {size}")
    mount.mount("overlay", staging, "overlay", mount.MS_RDONLY, options)
    return _verified(staging, files.OVERLAYFS_SUPER_MAGIC)


def _verified(staging: str, magic: int) -> int:
    fd = os.open(staging, _DIRECTORY)
    if files.magic(fd) != magic:
        os.close(fd)
        raise HostFault("is not the overlay that was just mounted", object=staging)
    return fd
