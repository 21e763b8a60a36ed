"""ListImages and StreamImages.

Invariant: reads memory only.
"""

from __future__ import annotations

from typing import Any

from cri.host import Host
from cri.rpc.batches import write_batches
from cri.rpc.encoded import field
from cri.rpc.image_messages import image
from proto import api_pb2 as api


async def list_images(host: Host, request: api.ListImagesRequest, _context: Any) -> bytes:
    return b"".join(image_items(host, request.filter))


def image_items(host: Host, wanted: api.ImageFilter) -> list[bytes]:
    """The elements of the list. With a filter: the one image that it names, or none."""
    name = wanted.image.image
    if name:
        found = host.images.resolve(name)
        records = [found] if found else []
    else:
        records = host.images.all()
    return [field(1, image(each, host.images.config(each).user)) for each in records]


async def stream_images(host: Host, request: api.StreamImagesRequest, context: Any) -> None:
    await write_batches(context, image_items(host, request.filter))
