"""The mounts, devices and masks of a container, put together in order.

:func:`open_mounts` is for the host's mount namespace, :func:`open_images` and
:func:`mount_all` for the container's, before and below the root that
``runtime.rootfs.overlay`` mounts.

Invariant: /dev gets its nodes and links before anything can be mounted on it, and
masks come when nothing is mounted any more.
"""

from __future__ import annotations

import copy

from runtime.linux import mount, trees
from runtime.linux.script import Script, Slot
from runtime.requests import StartRequest
from runtime.rootfs import cgroupfs, devices, image_volumes, masks, mounts
from runtime.rootfs.options import MountOptions, parse_options
from runtime.rootfs.resolve import make_file_in_root
from runtime.spec import Device, IdMapping, Spec, mapping_of
from runtime.spec import Mount as MountEntry

_CGROUP_TYPES = ("cgroup", "cgroup2")


class Opened:
    """A mount whose host side is open: ``tree`` for a bind, an image, and what had to be made on the host's side
    (else None), ``cgroups`` for a cgroup mount."""

    __slots__ = ("cgroups", "entry", "options", "tree")

    def __init__(self, entry: MountEntry, options: MountOptions) -> None:
        self.entry = entry
        self.options = options
        self.tree: Slot | None = None
        self.cgroups: list[tuple[str, Slot]] = []

    @property
    def is_bind(self) -> bool:
        return self.options.bind or self.entry["type"] == "bind"

    @property
    def is_dev(self) -> bool:
        """Whether it is a new file system for /dev."""
        return not self.is_bind and self.entry["destination"].rstrip("/") == "/dev"


class HostSide:
    """What was opened, or made, in the host's namespaces: ``mounts`` in order, and the ``nodes`` of devices
    elsewhere than in /dev, which only a container with a user namespace has made there."""

    __slots__ = ("mounts", "nodes")

    def __init__(self) -> None:
        self.mounts: list[Opened] = []
        self.nodes: list[tuple[str, Slot]] = []


def open_mounts(script: Script, request: StartRequest, user: Slot | None = None) -> HostSide:
    """Open the host side of every mount, in the host's mount namespace and after the cgroups are joined.

    ``user`` is the user namespace of a container that has one. What its root could not make is made here: device
    nodes, and a /dev on which they can be opened.
    """
    spec, ids = request["spec"], mapping_of(request["spec"]["linux"])
    private = any(entry["type"] == "cgroup" for entry in spec["linux"]["namespaces"])
    side = HostSide()
    for entry in mounts.plan_mounts(spec["mounts"], request["volumes"], idmap=user is not None):
        opened = Opened(entry, parse_options(entry["options"]))
        if entry["type"] in _CGROUP_TYPES:
            opened.cgroups = cgroupfs.open_cgroups(script, request["cgroup"], private, opened.options)
        elif opened.is_bind:
            opened.tree = mounts.open_source(script, entry["source"], opened.options, user)
        elif opened.is_dev and ids is not None:
            opened.tree = _make_dev(script, opened, spec["linux"]["devices"], ids)
        side.mounts.append(opened)
    return side


def open_images(script: Script, request: StartRequest, side: HostSide, user: Slot | None = None) -> None:
    """Open the images among the mounts of ``side``, in a mount namespace of the process's own and before the
    container's root is mounted. ``user`` as in ``open_mounts``; then it is the host's side, too."""
    images = {image["destination"]: image for image in request["images"]}
    for each in side.mounts:
        if each.entry["type"] == "image":
            destination = each.entry["destination"]
            with script.step("mount the image", destination):
                each.tree = image_volumes.open_image(script, images[destination], request["rootfs"], each.options, user)


def make_nodes(script: Script, request: StartRequest, side: HostSide, ids: IdMapping) -> None:
    """Make the devices elsewhere than in /dev for a container with a user namespace, as and where ``open_images``
    opens its images."""
    linux = request["spec"]["linux"]
    with script.step("make the devices"):
        owned = devices.plan_owned(devices.plan_devices(linux["devices"]), ids)
        side.nodes = devices.make_elsewhere(script, owned, request["rootfs"]["staging"])


def _make_dev(script: Script, opened: Opened, extra: list[Device], ids: IdMapping) -> Slot:
    options = opened.options
    options.data += [f"uid={ids['host']}", f"gid={ids['host']}"]
    dev = mounts.create_filesystem(script, opened.entry["type"], opened.entry["source"], _writable(options))
    owned = devices.plan_owned(devices.plan_devices(extra), ids)
    devices.make_directories(script, dev, owned, ids)
    devices.make_nodes(script, dev, owned)
    return dev


def mount_all(script: Script, root: Slot, spec: Spec, side: HostSide) -> None:
    """Mount what is of ``side`` below ``root``, make the devices, mask; closes every tree.

    Devices below /dev are made on the file system that a mount entry puts there;
    a bind at /dev keeps what its source has.
    """
    planned = devices.plan_devices(spec["linux"]["devices"])
    readonly: list[Slot] = []
    for each in side.mounts:
        with script.step("mount", each.entry["destination"]):
            _mount(script, root, each, planned, readonly)
    with script.step("make the devices"):
        if mapping_of(spec["linux"]) is None:
            for device in planned:
                if not device["path"].startswith("/dev/"):
                    devices.make_device(script, root, device["path"], device)
        for path, node in side.nodes:
            target = make_file_in_root(script, root, path)
            trees.move_mount(script, node, target, path)
            script.close(target, node)
    with script.step("mask paths"):
        masks.mask_paths(script, root, spec["linux"]["maskedPaths"])
        masks.make_readonly(script, root, spec["linux"]["readonlyPaths"])
        for tree in readonly:
            trees.set_attributes(script, tree, mount.MOUNT_ATTR_RDONLY, name="/dev")
            script.close(tree)


def _mount(script: Script, root: Slot, opened: Opened, planned: list[Device], readonly: list[Slot]) -> None:
    entry, options = opened.entry, opened.options
    if entry["type"] in _CGROUP_TYPES:
        cgroupfs.attach_cgroups(script, root, opened.cgroups, entry, options)
        return
    tree = opened.tree
    if tree is None:
        made = _writable(options) if opened.is_dev else options
        tree = mounts.create_filesystem(script, entry["type"], entry["source"], made)
    mounts.attach(script, root, tree, entry)
    if opened.is_dev:
        if opened.tree is None:
            devices.fill_dev(script, tree, planned)
        else:
            devices.make_links(script, tree)
        if options.set & mount.MOUNT_ATTR_RDONLY:
            readonly.append(tree)  # when its mount points are made
            return
    script.close(tree)


def _writable(options: MountOptions) -> MountOptions:
    """The same, but for read-only."""
    made = copy.copy(options)
    made.set &= ~mount.MOUNT_ATTR_RDONLY
    return made
