"""ListImages: all of them, or the one that the filter names."""

from __future__ import annotations

from proto import api_pb2 as api
from tests.cri.harness import DEMO_IMAGE, Crisp


async def listed(crisp: Crisp, name: str = "") -> list[api.Image]:
    wanted = api.ImageFilter(image=api.ImageSpec(image=name))
    return list((await crisp.images.ListImages(api.ListImagesRequest(filter=wanted))).images)


async def test_an_image_is_listed_with_its_names_and_size(crisp: Crisp) -> None:
    (image,) = [each for each in await listed(crisp) if DEMO_IMAGE in each.repo_tags]
    assert image.id.startswith("sha256:") and image.size > 0
    assert image.repo_digests and image.spec.image == image.id


async def test_the_filter_takes_any_name_of_an_image(crisp: Crisp) -> None:
    (image,) = await listed(crisp, DEMO_IMAGE)
    for name in (image.id, image.id.removeprefix("sha256:")[:12], DEMO_IMAGE.removesuffix(":latest")):
        assert [each.id for each in await listed(crisp, name)] == [image.id]
    assert await listed(crisp, "crisp.local/absent") == []


async def test_the_stream_has_what_the_list_has(crisp: Crisp) -> None:
    async def streamed(name: str) -> list[str]:
        request = api.StreamImagesRequest(filter=api.ImageFilter(image=api.ImageSpec(image=name)))
        return [item.id async for answer in crisp.images.StreamImages(request) for item in answer.images]

    assert await streamed("") == [each.id for each in await listed(crisp)]
    assert await streamed(DEMO_IMAGE) and await streamed("crisp.local/absent") == []
