"""The mounts, devices and masks of a container, put together in order.

:func:`open_mounts` is for the host's mount namespace, :func:`open_images` and
:func:`mount_all` for the container's, before and below the root that
``runtime.rootfs.overlay`` mounts.

Invariant: /dev gets its nodes and links in the moment in which it is mounted, and
masks come when nothing is mounted any more.
"""

from __future__ import annotations

from runtime.linux import mount, trees
from runtime.linux.script import Script, Slot
from runtime.rootfs import cgroupfs, devices, image_volumes, masks, mounts
from runtime.rootfs.options import MountOptions, parse_options
from runtime.spec import Device, Spec, StartRequest
from runtime.spec import Mount as MountEntry

_CGROUP_TYPES = ("cgroup", "cgroup2")


class Opened:
    """A mount whose host side is open: ``tree`` for a bind or an image, else None; ``cgroups`` for a cgroup mount."""

    __slots__ = ("cgroups", "entry", "options", "tree")

    def __init__(self, entry: MountEntry, options: MountOptions) -> None:
        self.entry = entry
        self.options = options
        self.tree: Slot | None = None
        self.cgroups: list[tuple[str, Slot]] = []


def open_mounts(script: Script, request: StartRequest) -> list[Opened]:
    """Open the host side of every mount, in the host's mount namespace and after the cgroups are joined."""
    spec = request["spec"]
    private = any(entry["type"] == "cgroup" for entry in spec["linux"]["namespaces"])
    found = []
    for entry in mounts.plan_mounts(spec["mounts"], request["volumes"]):
        opened = Opened(entry, parse_options(entry["options"]))
        if entry["type"] in _CGROUP_TYPES:
            opened.cgroups = cgroupfs.open_cgroups(script, request["cgroup"], private, opened.options)
        elif opened.options.bind or entry["type"] == "bind":
            opened.tree = mounts.open_source(script, entry["source"], opened.options)
        found.append(opened)
    return found


def open_images(script: Script, request: StartRequest, opened: list[Opened]) -> None:
    """Open the images among ``opened``, in the container's mount namespace and before its root is mounted."""
    images = {image["destination"]: image for image in request["images"]}
    staging = request["rootfs"]["staging"]
    for each in opened:
        if each.entry["type"] == "image":
            destination = each.entry["destination"]
            with script.step("mount the image", destination):
                each.tree = image_volumes.open_image(script, images[destination], staging, each.options)


def mount_all(script: Script, root: Slot, spec: Spec, opened: list[Opened]) -> None:
    """Mount ``opened`` below ``root``, make the devices, mask; closes every tree.

    Devices below /dev are made on the file system that a mount entry puts there;
    a bind at /dev keeps what its source has.
    """
    planned = devices.plan_devices(spec["linux"]["devices"])
    readonly: list[Slot] = []
    for each in opened:
        with script.step("mount", each.entry["destination"]):
            _mount(script, root, each, planned, readonly)
    with script.step("make the devices"):
        for device in planned:
            if not device["path"].startswith("/dev/"):
                devices.make_device(script, root, device["path"], device)
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
    if opened.tree is not None:
        mounts.attach(script, root, opened.tree, entry)
        script.close(opened.tree)
        return
    is_dev = entry["destination"].rstrip("/") == "/dev"
    frozen = is_dev and bool(options.set & mount.MOUNT_ATTR_RDONLY)
    if frozen:  # only when its nodes and mount points are made
        options.set &= ~mount.MOUNT_ATTR_RDONLY
    tree = mounts.create_filesystem(script, entry["type"], entry["source"], options)
    mounts.attach(script, root, tree, entry)
    if is_dev:
        devices.fill_dev(script, tree, planned)
    if frozen:
        readonly.append(tree)
    else:
        script.close(tree)
