"""The nodes and links of a container's /dev.

Made on a fresh tmpfs by descriptor, when it was just mounted there or, for a container
with a user namespace, in which no node can be made, before it is: then the owners are those
that the container's ids have on the host. Nothing else can be mounted over it before that. Modes
are exact: the umask is 0 by then (``runtime.child.leave_monitor``), and a chmod would look
the name up again.

Invariant: a node is what its name says: each one is looked at again without
following links, and its type and number compared.
"""

from __future__ import annotations

import errno
import os
import stat

from runtime.child import S_IFMT, device_number, file_type, look_at
from runtime.child import device as numbers
from runtime.errors import HostFault, StartRefused
from runtime.linux import mount, trees
from runtime.linux.libc import AT_FDCWD, AT_SYMLINK_NOFOLLOW
from runtime.linux.script import Label, Script, Slot
from runtime.rootfs.resolve import make_dirs_in_root
from runtime.spec import Device, IdMapping, to_host


def _char(name: str, major: int, minor: int) -> Device:
    return {
        "path": f"/dev/{name}",
        "type": "c",
        "major": major,
        "minor": minor,
        "fileMode": 0o666,
        "uid": 0,
        "gid": 0,
    }


DEFAULT_DEVICES: tuple[Device, ...] = (
    _char("null", 1, 3),
    _char("zero", 1, 5),
    _char("full", 1, 7),
    _char("random", 1, 8),
    _char("urandom", 1, 9),
    _char("tty", 5, 0),
)
"""Those that the OCI runtime specification asks for in every container."""

LINKS = (
    ("ptmx", "pts/ptmx"),
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("core", "/proc/kcore"),
)

_TYPES = {"c": stat.S_IFCHR, "b": stat.S_IFBLK, "p": stat.S_IFIFO}
# Mounts of their own or made by us: a list of the host's devices may name them.
_NOT_NODES = ("/dev/pts/", "/dev/shm/", "/dev/mqueue/")
_MADE_BY_US = frozenset({"/dev/console", *(f"/dev/{name}" for name, _ in LINKS)})
_IN_THE_WAY = dict.fromkeys((errno.EISDIR, errno.EPERM, errno.EBUSY), (StartRefused, "is in the way of a device"))


def plan_devices(extra: list[Device]) -> list[Device]:
    """The default devices and ``extra``, which win over a default of the same path."""
    by_path = {device["path"]: device for device in (*DEFAULT_DEVICES, *extra)}
    return [device for path, device in by_path.items() if path not in _MADE_BY_US and not path.startswith(_NOT_NODES)]


def fill_dev(script: Script, dev: Slot, devices: list[Device]) -> None:
    """Make the links and those of ``devices`` that lie below /dev; ``dev`` is the new, empty /dev."""
    make_nodes(script, dev, devices)
    make_links(script, dev)


def make_nodes(script: Script, dev: Slot, devices: list[Device]) -> None:
    """Make those of ``devices`` that lie below /dev; ``dev`` is the new, empty /dev."""
    for device in devices:
        path = device["path"]
        if path.startswith("/dev/"):
            make_device(script, dev, path.removeprefix("/dev/"), device)


def make_links(script: Script, dev: Slot) -> None:
    """Make the links of ``dev``, which is mounted."""
    for name, target in LINKS:
        script.call("symlinkat", target, dev, name, object=f"/dev/{name}")


def plan_owned(devices: list[Device], ids: IdMapping) -> list[Device]:
    """``devices`` with the owners that they have on the host."""
    return [Device(**{**each, "uid": to_host(each["uid"], ids), "gid": to_host(each["gid"], ids)}) for each in devices]


def make_directories(script: Script, dev: Slot, devices: list[Device], ids: IdMapping) -> None:
    """Make the directories of ``devices`` in the new, empty ``dev``, for the root of a user namespace to own."""
    paths = [each["path"].removeprefix("/dev/") for each in devices if each["path"].startswith("/dev/")]
    found = {path[:end] for path in paths for end in range(1, len(path)) if path[end] == "/"}
    for folder in sorted(found):
        script.call("mkdirat", dev, folder, 0o755, object=f"/dev/{folder}")
        script.call("fchownat", dev, folder, ids["host"], ids["host"], AT_SYMLINK_NOFOLLOW, object=f"/dev/{folder}")


def make_elsewhere(script: Script, devices: list[Device], staging: str) -> list[tuple[str, Slot]]:
    """Those of ``devices`` that are not below /dev: for each its path, and a tree to be mounted there.

    For a process with a mount namespace of its own: they are made on ``staging``, an empty directory, as before
    Linux 6.15 there is no copy of what is mounted nowhere.
    """
    others = [each for each in devices if not each["path"].startswith("/dev/")]
    if not others:
        return []
    room = trees.create(script, "tmpfs", ("mode=755", "size=64k"))
    target = script.opened("openat", AT_FDCWD, staging, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, 0, object=staging)
    trees.move_mount(script, room, target, staging)
    found = []
    for number, each in enumerate(others):
        make_device(script, room, str(number), each)
        node = script.opened("openat", room, str(number), os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, 0)
        found.append((each["path"], trees.open_tree(script, node, "", mount.OPEN_TREE_CLONE)))
        script.close(node)
    script.close(room, target)
    script.call("umount2", staging, mount.MNT_DETACH, object=staging)
    return found


def make_device(script: Script, root: Slot, path: str, device: Device) -> None:
    """Make ``device`` as ``path`` below ``root`` with its directories; what was there is replaced.

    Refused where ``path`` is a directory in the image.

    Raises:
        StartRefused: ``path`` has no name for a device.
    """
    parent, _, name = path.strip("/").rpartition("/")
    if name in ("", ".", ".."):
        raise StartRefused("is no name for a device", object=device["path"])
    at = make_dirs_in_root(script, root, parent) if parent else root
    _make_node(script, at, name, device)
    _verify_node(script, at, name, device)
    if parent:
        script.close(at)


def _make_node(script: Script, at: Slot, name: str, device: Device) -> None:
    path, made, taken = device["path"], Label(), script.slot()
    number = 0 if device["type"] == "p" else _encoded(device["major"], device["minor"])
    node = (at, name, _TYPES[device["type"]] | device["fileMode"] & 0o7777, number)
    script.call("mknodat", *node, to=taken, forgive=(errno.EEXIST,), object=path)
    script.jump_if(taken, 0, made)
    script.call("unlinkat", at, name, 0, object=path, refuse=_IN_THE_WAY)
    script.call("mknodat", *node, object=path)
    script.here(made)
    if device["uid"] or device["gid"]:
        script.call("fchownat", at, name, device["uid"], device["gid"], AT_SYMLINK_NOFOLLOW, object=path)


def _encoded(major: int, minor: int) -> int:
    """A device number as mknod(2) takes it (the kernel's new_encode_dev)."""
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def _verify_node(script: Script, at: Slot, name: str, device: Device) -> None:
    kind = _TYPES[device["type"]]
    number = 0 if device["type"] == "p" else numbers(device["major"], device["minor"])
    found = look_at(script, at, name, AT_SYMLINK_NOFOLLOW)
    wrong = (HostFault, "is not the device that was just made", device["path"])
    script.expect(file_type(found), kind, *wrong, mask=S_IFMT)
    script.expect(device_number(found), number, *wrong)
