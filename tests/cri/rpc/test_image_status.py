"""ImageStatus: an image, or an empty answer."""

from __future__ import annotations

import json

import grpc
import grpc.aio
import pytest

from proto import api_pb2 as api
from tests.cri.harness import DEMO_IMAGE, Crisp


async def status(crisp: Crisp, name: str, *, verbose: bool = False) -> api.ImageStatusResponse:
    request = api.ImageStatusRequest(image=api.ImageSpec(image=name), verbose=verbose)
    answer: api.ImageStatusResponse = await crisp.images.ImageStatus(request)
    return answer


async def test_an_image_has_the_same_id_everywhere(crisp: Crisp) -> None:
    image = (await status(crisp, DEMO_IMAGE.removesuffix(":latest"))).image
    assert DEMO_IMAGE in image.repo_tags
    assert (await status(crisp, image.id)).image == image
    container = await crisp.status(await crisp.create(await crisp.run_pod()))
    assert container.image_id == container.image_ref == image.id


async def test_the_verbose_answer_has_the_images_configuration(crisp: Crisp) -> None:
    info = json.loads((await status(crisp, DEMO_IMAGE, verbose=True)).info["info"])
    assert info["imageSpec"]["config"]["Cmd"] and len(info["layers"]) == 1


async def test_an_image_that_is_not_there_is_an_empty_answer_and_no_name_is_refused(crisp: Crisp) -> None:
    assert not (await status(crisp, "crisp.local/absent:1")).HasField("image")
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await status(crisp, "")
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
