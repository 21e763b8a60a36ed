"""From stored images to the messages of the image service.

Invariant: pure; ``id`` is what PullImage answered, as the API demands.
"""

from __future__ import annotations

from cri.plan.user import MAX_ID
from cri.state.records import ImageRecord
from proto import api_pb2 as api


def image(record: ImageRecord, user: str) -> api.Image:
    """``user`` is the image's USER: a number goes to ``uid``, a name to ``username``."""
    message = api.Image(
        id=record.id,
        repo_tags=record.repo_tags,
        repo_digests=record.repo_digests,
        size=record.size,
        pinned=record.pinned,
        spec=api.ImageSpec(image=record.id),
    )
    name = user.partition(":")[0]
    if name.isascii() and name.isdecimal() and int(name) <= MAX_ID:
        message.uid.value = int(name)
    else:
        message.username = name
    return message
