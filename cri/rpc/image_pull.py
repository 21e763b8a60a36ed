"""PullImage: an image comes to this node.

Invariant: two pulls of the same reference are one; a pull outlives its client,
and a client that left too early finds the image when it asks again.
"""

from __future__ import annotations

from typing import Any

from cri.host import Host
from cri.intent import ANSWER
from cri.validate.requests import validate_pull_image
from proto import api_pb2 as api


async def pull_image(host: Host, request: api.PullImageRequest, _context: Any) -> api.PullImageResponse:
    validate_pull_image(request)
    name = request.image.image
    record = await host.operations.join(f"pull {name}", lambda: host.images.pull(name))
    await host.failpoints.hit(f"PullImage:{ANSWER}")
    return api.PullImageResponse(image_ref=record.id)
