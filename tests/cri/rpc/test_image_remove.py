"""RemoveImage: by any of its names, with all of them; what containers stack stays."""

from __future__ import annotations

import asyncio
import os

import grpc
import grpc.aio
import pytest

from proto import api_pb2 as api
from tests.cri.harness import DEMO_IMAGE, Crisp


async def remove(crisp: Crisp, name: str) -> None:
    await crisp.images.RemoveImage(api.RemoveImageRequest(image=api.ImageSpec(image=name)))


async def test_an_image_goes_under_a_running_container_and_its_layers_stay_for_it(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    image = crisp.host.images.resolve(DEMO_IMAGE)
    assert image is not None
    (layer,) = crisp.host.images.lowerdirs(image.layers)
    await remove(crisp, image.id)
    try:
        assert crisp.host.images.resolve(DEMO_IMAGE) is None
        assert (await crisp.exec(id, "echo", "on")).stdout == b"on\n"
        assert os.path.isdir(layer)
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await crisp.create(sandbox, crisp.container(name="late"))
        assert refused.value.code() is grpc.StatusCode.NOT_FOUND
        await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))
        await crisp.until(lambda: not os.path.exists(layer))  # mountpoints may be made from it at this moment
    finally:
        await crisp.import_demo_image()


async def test_a_removal_outlives_its_client_and_the_same_name_joins_it(crisp: Crisp) -> None:
    crisp.host.failpoints.set("images/unlist_image:after", "hang")
    try:
        first = asyncio.ensure_future(remove(crisp, DEMO_IMAGE))
        await crisp.until(lambda: any(point.waiting for point in crisp.host.failpoints.points()))
        first.cancel()
        second = asyncio.ensure_future(remove(crisp, DEMO_IMAGE))
        await crisp.until(lambda: crisp.host.operations._single[f"remove image {DEMO_IMAGE}"].waiting == 1)
        crisp.host.failpoints.set("*", "off")
        await second
        assert not crisp.host.images.strays() and not [*crisp.host.images._store.layers.known]
    finally:
        await crisp.import_demo_image()


async def test_an_image_that_is_not_there_is_removed_already(crisp: Crisp) -> None:
    await remove(crisp, "crisp.local/absent:1")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await remove(crisp, "")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
