"""ImageFsInfo: what images and writable layers take on disk.

Invariant: both live below the daemon's root, so there is one file system each.
"""

from __future__ import annotations

import time
from typing import Any

from cri.host import Host
from proto import api_pb2 as api


async def image_fs_info(host: Host, _request: api.ImageFsInfoRequest, _context: Any) -> api.ImageFsInfoResponse:
    usage = host.images.usage()
    layers = [host.layers.usage(id) for id in (record.id for record in host.store.containers.values())]
    return api.ImageFsInfoResponse(
        image_filesystems=[filesystem(str(host.root / "layers"), usage.used_bytes, usage.inodes_used)],
        container_filesystems=[
            filesystem(str(host.root), sum(each.used_bytes for each in layers), sum(each.inodes for each in layers))
        ],
    )


def filesystem(mountpoint: str, used: int, inodes: int) -> api.FilesystemUsage:
    return api.FilesystemUsage(
        timestamp=time.time_ns(),
        fs_id=api.FilesystemIdentifier(mountpoint=mountpoint),
        used_bytes=api.UInt64Value(value=used),
        inodes_used=api.UInt64Value(value=inodes),
    )
