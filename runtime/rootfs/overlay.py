"""The root of a container: shared layers below, its own upper directory on top.

Mounted inside the container's mount namespace only, by mount(2) with descriptors
for directories, so that no character of a path is ever an option, and volatile,
because what it holds never outlives a boot (overlayfs documentation, "Volatile
mount"). Init's script mounts the root; ``runtime.image`` looks into the layers alone.

Invariant: what is returned is a descriptor of the mounted root, on which fstatfs has
said overlayfs; all others are closed.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.errors import HostFault, StartRefused
from runtime.linux import files, mount
from runtime.linux.libc import AT_FDCWD, SyscallError
from runtime.linux.script import Script, Slot, load, number
from runtime.spec import Rootfs

# Whatever the defaults of the host's module are: layers are shared by many mounts
# (index), and a layer's xattrs must not point into others (redirect_dir, metacopy).
_OPTIONS = "index=off,metacopy=off,redirect_dir=nofollow"
_MAX_LAYERS = 500  # the kernel's OVL_MAX_STACK
_PAGE = 4096
_AT_REMOVEDIR = 0x200
_ABSENT = (errno.ENOENT,)
_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


def mount_root(script: Script, rootfs: Rootfs) -> Slot:
    """Mount the writable root on ``staging``; an O_PATH descriptor of it.

    For a process with a mount namespace of its own, in which nothing is shared. The
    upper directory has the owner and the mode of the topmost layer already
    (``take_over_attributes``).

    Raises:
        StartRefused: the image has more layers than an overlay takes.
    """
    lower = [_open(script, path) for path in _bounded(rootfs["lowerdirs"])]
    upper, work = (_open(script, rootfs[which]) for which in ("upperdir", "workdir"))
    _remove_volatile_mark(script, work)
    layers = ":".join(map(_shown, lower))
    template = f"lowerdir={layers},upperdir={_shown(upper)},workdir={_shown(work)},volatile,{_OPTIONS}"
    data, room = script.room(_PAGE), len(lower)
    too_long = {errno.E2BIG: (StartRefused, f"the image has {room} layers: mount(2) takes one page of options")}
    script.call("COMPOSE", data, _PAGE, template, refuse=too_long)
    staging = rootfs["staging"]
    script.call("mount", "overlay", staging, "overlay", 0, data, object=staging)
    root = _open(script, staging)
    found = script.room(256)
    script.call("fstatfs", root, found)
    wrong = (HostFault, "is not the overlay that was just mounted", staging)
    script.expect(load(found), files.OVERLAYFS_SUPER_MAGIC, *wrong, mask=0xFFFFFFFF)
    script.close(*lower, upper, work)
    return root


def take_over_attributes(lower: str, upper: str) -> None:
    """The directory ``upper`` is what `/` will show: it gets owner and mode of the topmost layer's."""
    wanted = os.stat(lower, follow_symlinks=False)
    os.chown(upper, wanted.st_uid, wanted.st_gid, follow_symlinks=False)
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

    For looking something up in the image: the upper directory stays untouched.
    """
    fds: list[int] = []
    try:
        lower = _open_all(rootfs["lowerdirs"], fds)
        if len(lower) == 1:  # an overlay without an upper directory needs two
            return _bind_readonly(lower[0], rootfs["staging"])
        return _mount_overlay(rootfs["staging"], _lowerdir(lower), mount.MS_RDONLY)
    finally:
        for fd in fds:
            os.close(fd)


def _open_all(paths: list[str], fds: list[int]) -> list[int]:
    opened = []
    for path in _bounded(paths):
        fd = os.open(path, _DIRECTORY)
        fds.append(fd)
        opened.append(fd)
    return opened


def _path(fd: int) -> str:
    return f"/proc/self/fd/{fd}"


def _lowerdir(lower: list[int]) -> str:
    return "lowerdir=" + ":".join(_path(fd) for fd in lower)


def _mount_overlay(staging: str, options: str, flags: int) -> int:
    data = f"{options},{_OPTIONS}"
    room = os.sysconf("SC_PAGE_SIZE") - 1
    if len(data) > room:
        layers = options.count(":") + 1
        raise StartRefused(f"the image has {layers} layers: {len(data)} bytes of mount options, mount(2) takes {room}")
    mount.mount("overlay", staging, "overlay", flags, data)
    return _verified(staging, files.OVERLAYFS_SUPER_MAGIC)


def _verified(staging: str, magic: int | None) -> int:
    fd = os.open(staging, _DIRECTORY)
    if magic is not None and files.magic(fd) != magic:
        os.close(fd)
        raise HostFault("is not the overlay that was just mounted", object=staging)
    return fd


def _bind_readonly(lower: int, staging: str) -> int:
    mount.mount(_path(lower), staging, "", mount.MS_BIND)
    root = _verified(staging, None)
    try:
        mount.mount_setattr(root, mount.MOUNT_ATTR_RDONLY)
    except SyscallError:
        os.close(root)
        raise
    return root
