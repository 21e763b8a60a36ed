"""ImageFsInfo: what layers and writable layers take."""

from __future__ import annotations

import asyncio

import pytest

from cri import aged
from proto import api_pb2 as api
from tests.cri.harness import Crisp


async def test_images_and_containers_have_a_file_system_with_its_use(crisp: Crisp) -> None:
    info = await crisp.images.ImageFsInfo(api.ImageFsInfoRequest())
    (images,) = info.image_filesystems
    assert images.fs_id.mountpoint == f"{crisp.host.root}/layers"
    assert images.used_bytes.value > 1_000_000 and images.inodes_used.value > 10 and images.timestamp > 0
    (containers,) = info.container_filesystems
    assert containers.fs_id.mountpoint == str(crisp.host.root)


async def test_what_containers_have_written_counts(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(aged, "MAX_AGE", 0.0)
    command = ("sh", "-c", "dd if=/dev/zero of=/file bs=1k count=256; sleep 1000")
    await crisp.run(await crisp.run_pod(), crisp.container(*command))
    async with asyncio.timeout(30):
        while True:
            info = await crisp.images.ImageFsInfo(api.ImageFsInfoRequest())
            if info.container_filesystems[0].used_bytes.value >= 256 << 10:
                break
            await asyncio.sleep(0.05)
