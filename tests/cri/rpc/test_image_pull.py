"""PullImage: what is refused, what cannot be reached, and that pulls of one name are one."""

from __future__ import annotations

import asyncio
from typing import Any

import grpc
import grpc.aio
import pytest

from proto import api_pb2 as api
from tests.cri.harness import DEMO_IMAGE, Crisp


async def pull(crisp: Crisp, name: str, **auth: str) -> str:
    request = api.PullImageRequest(image=api.ImageSpec(image=name))
    if auth:
        request.auth.MergeFrom(api.AuthConfig(**auth))
    return str((await crisp.images.PullImage(request)).image_ref)


async def code(crisp: Crisp, name: str, **auth: str) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await pull(crisp, name, **auth)
    return refused.value.code()


async def test_no_name_bad_names_and_credentials_are_refused(crisp: Crisp) -> None:
    assert await code(crisp, "") is grpc.StatusCode.INVALID_ARGUMENT
    assert await code(crisp, "no such name!") is grpc.StatusCode.INVALID_ARGUMENT
    assert await code(crisp, DEMO_IMAGE, username="u", password="p") is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_pull_outlives_its_client_and_the_same_name_joins_it(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = crisp.host.images.resolve(DEMO_IMAGE)
    gate, calls = asyncio.Event(), []

    async def slow(name: str) -> Any:
        calls.append(name)
        await gate.wait()
        return image

    monkeypatch.setattr(crisp.host.images, "pull", slow)
    first = asyncio.ensure_future(pull(crisp, DEMO_IMAGE))
    await crisp.until(lambda: bool(calls))
    (flight,) = crisp.host.operations._single.values()
    first.cancel()
    await crisp.until(lambda: flight.waiting == 0)
    second = asyncio.ensure_future(pull(crisp, DEMO_IMAGE))
    await crisp.until(lambda: flight.waiting == 1)
    gate.set()
    assert image is not None and await second == image.id
    assert calls == [DEMO_IMAGE]
