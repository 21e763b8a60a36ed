"""Finding the images that a container mounts as volumes, when it is created.

``cri.rpc.container_create`` asks before it plans; ``cri.plan.image_volumes`` is what
comes of it. A sub path is looked up by the pod's monitor, in a child that has the image
mounted: the host never opens a path of an image.

Invariant: until the container is recorded, whose layers they are then, the images' layers
are held.
"""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator

from cri.host import Host
from cri.images import Entry
from cri.plan.image_volumes import ImageVolume, plan_sub_path
from cri.plan.paths import clean
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, Fault

MOUNT_FAILED = "ImageVolumeMountFailed"
"""With this word a message begins by which kubelet counts such failures (k8s.io/cri-api/pkg/errors)."""


@contextlib.asynccontextmanager
async def held_images(host: Host, config: api.ContainerConfig, sandbox_id: str) -> AsyncIterator[list[ImageVolume]]:
    """The images among the mounts of ``config``, in their order; their layers stay meanwhile.

    Raises:
        NotFound: an image is not on this node.
        FailedPrecondition: it has nothing at the sub path, or no layers.
    """
    with contextlib.ExitStack() as held:
        found = []
        for n, mount in enumerate(config.mounts):
            if mount.HasField("image"):
                try:
                    image = host.images.require(mount.image, f"config.mounts[{n}].image")
                    held.enter_context(host.images.hold(image.record))
                    found.append(await find_volume(host, mount, image, sandbox_id))
                except Fault as fault:
                    fault.step = MOUNT_FAILED
                    raise
        yield found


async def find_volume(host: Host, mount: api.Mount, image: Entry, sandbox_id: str) -> ImageVolume:
    layers, sub_path = image.record.layers, plan_sub_path(mount.image_sub_path)
    volume = ImageVolume(clean(mount.container_path), image.id, layers, sub_path)
    if not layers:
        raise FailedPrecondition("has no layers", object=f"image {mount.image.image}")
    if not sub_path:
        return volume
    rootfs = host.images.probe_rootfs(layers, host.pod_directory(sandbox_id))
    found = await host.pods[sandbox_id].monitor.find_in_image(rootfs, sub_path)
    return ImageVolume(volume.destination, image.id, layers, sub_path, found["directory"])
