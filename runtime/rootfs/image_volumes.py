"""Images as volumes: a mount of type "image" shows the layers of an image, or a part of them.

``compose`` opens them before the container's root is mounted, in the container's own mount
namespace, on the same empty directory, and attaches them like binds. The layers on disk
are the ones that containers of the image stack: nothing is copied. Source: KEP-4639.

Invariant: what is attached is read-only and below the image's root, wherever its links lead;
on the directory nothing stays mounted.
"""

from __future__ import annotations

import errno

from runtime.errors import StartRefused
from runtime.linux import mount, trees
from runtime.linux.script import Script, Slot
from runtime.requests import ImageMount, Rootfs
from runtime.rootfs import mounts, overlay, resolve
from runtime.rootfs.options import MountOptions

_NOT_THERE = dict.fromkeys(
    (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENAMETOOLONG), (StartRefused, "is not in the image")
)


def open_image(
    script: Script, image: ImageMount, rootfs: Rootfs, options: MountOptions, user: Slot | None = None
) -> Slot:
    """A detached tree of ``image`` with the attributes of ``options``, for a container whose root will be ``rootfs``.
    ``user`` is its user namespace, if it has one: then the owners are idmapped by it.

    Refused where the image has nothing at the sub path, or more layers than an overlay takes.
    """
    staging = rootfs["staging"]
    root = overlay.mount_readonly(script, image["lowerdirs"], rootfs, user)
    if image["sub_path"]:
        part = resolve.open_in(script, root, image["sub_path"], refuse=_NOT_THERE)
        tree = trees.open_tree(script, part, "", mount.OPEN_TREE_CLONE)
        script.close(part)
    else:
        tree = trees.open_tree(script, root, "", mount.OPEN_TREE_CLONE)
    script.close(root)
    for _ in range(1 if user is None else 1 + len(image["lowerdirs"])):
        script.call("umount2", staging, mount.MNT_DETACH, object=staging)
    mounts.set_attributes(script, tree, options, image["destination"])
    return tree
