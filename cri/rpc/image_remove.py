"""RemoveImage: all names of an image, and it; layers that something uses stay.

Invariant: an image that is not there is removed already.
"""

from __future__ import annotations

from typing import Any

from cri.host import Host
from cri.validate.requests import validate_image
from proto import api_pb2 as api


async def remove_image(host: Host, request: api.RemoveImageRequest, _context: Any) -> api.RemoveImageResponse:
    validate_image(request.image)
    await host.images.remove(request.image.image)
    return api.RemoveImageResponse()
