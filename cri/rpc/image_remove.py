"""RemoveImage: all names of an image, and it; layers that something uses stay.

Invariant: an image that is not there is removed already; a removal outlives its client.
"""

from __future__ import annotations

from typing import Any

from cri.host import Host
from cri.intent import ANSWER
from cri.state.records import ImageRecord
from cri.validate.requests import validate_image
from proto import api_pb2 as api


async def remove_image(host: Host, request: api.RemoveImageRequest, _context: Any) -> api.RemoveImageResponse:
    validate_image(request.image)
    await remove(host, request.image.image)
    await host.failpoints.hit(f"RemoveImage:{ANSWER}")
    return api.RemoveImageResponse()


async def remove(host: Host, name: str) -> ImageRecord | None:
    """As ``Images.remove``, once for all who ask for it at a time."""

    async def work() -> ImageRecord | None:
        removed = await host.images.remove(name)
        host.mountpoints.collect()
        return removed

    return await host.operations.join(f"remove image {name}", work)
