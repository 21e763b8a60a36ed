"""ImageStatus: an image, or nothing at all where it is not on this node.

Invariant: reads memory only; "not there" is an empty answer, never an error.
"""

from __future__ import annotations

import json
from typing import Any

from cri.host import Host
from cri.rpc.image_messages import image
from cri.validate.requests import validate_image
from proto import api_pb2 as api


async def image_status(host: Host, request: api.ImageStatusRequest, _context: Any) -> api.ImageStatusResponse:
    validate_image(request.image)
    found = host.images.resolve(request.image.image)
    if found is None:
        return api.ImageStatusResponse()
    info = {}
    if request.verbose:
        info["info"] = json.dumps({"imageSpec": json.loads(found.config), "layers": list(found.layers)})
    return api.ImageStatusResponse(image=image(found, host.images.config(found).user), info=info)
