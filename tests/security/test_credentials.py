"""What a registry was given is said to nobody else (R8): redirects, foreign layers, foreign realms."""

from __future__ import annotations

import asyncio
import json
import urllib.request

import pytest
from aiohttp import web

from proto import api_pb2 as api
from tests.security.attacks import Attacked, Code, refused
from tests.security.bad_images import HERE
from tests.unit.runtime.images.registries import FakeRegistry, layer_with

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

SECRET = "of-the-first-registry"


def told(server: FakeRegistry) -> list[str]:
    """All that ``server`` was told, headers and addresses."""
    return [f"{request.path_qs} {dict(request.headers)}" for request in server.seen]


def redirects_blobs(first: FakeRegistry, second: FakeRegistry) -> None:
    def answer(request: web.Request) -> web.StreamResponse | None:
        if "/blobs/" not in request.path:
            return None
        return web.Response(status=307, headers={"Location": second.url + request.path_qs})

    first.intercept = answer


async def test_a_client_that_follows_by_itself_takes_its_secret_along() -> None:
    """CVE-2020-15157, CVE-2019-10214 as they were: the header of the first request goes with the redirected one."""
    async with FakeRegistry() as first, FakeRegistry() as second:
        redirects_blobs(first, second)
        digest = second.add_blob(b"content")
        request = urllib.request.Request(f"{first.url}/v2/row/blobs/{digest}", headers={"Authorization": SECRET})

        def careless() -> bytes:
            with urllib.request.urlopen(request) as answer:
                found: bytes = answer.read()
                return found

        assert await asyncio.to_thread(careless) == b"content"
        assert SECRET in "".join(told(second))


async def pull(crisp: Attacked, server: FakeRegistry) -> str:
    image = api.ImageSpec(image=f"{server.domain}/row:v1")
    id = str((await crisp.images.PullImage(api.PullImageRequest(image=image))).image_ref)
    await crisp.images.RemoveImage(api.RemoveImageRequest(image=api.ImageSpec(image=id)))
    return id


async def test_a_redirect_carries_no_token(crisp: Attacked) -> None:
    """CVE-2020-15157, CVE-2019-10214: blobs lie at another host, which has its own question of who asks."""
    async with FakeRegistry() as first, FakeRegistry() as second:
        first.token = SECRET
        id = first.add_image("row", "v1", [layer_with(b"redirected")], architecture=HERE)
        second.blobs = first.blobs
        redirects_blobs(first, second)
        assert await pull(crisp, first) == id
        assert SECRET in "".join(told(first)) and second.seen
        assert SECRET not in "".join(told(second)) and "Authorization" not in "".join(told(second))


async def test_a_foreign_layer_is_asked_for_nowhere_else(crisp: Attacked) -> None:
    """CVE-2020-15157: `urls` of a layer lead to a host of the image's choice."""
    async with FakeRegistry() as first, FakeRegistry() as second:
        first.token = SECRET
        first.add_image("row", "v1", [layer_with(b"foreign")], architecture=HERE)
        manifest = json.loads(first.manifests["row", "v1"][0])
        layer = manifest["layers"][0]
        second.blobs[layer["digest"]] = first.blobs.pop(layer["digest"])
        layer["urls"] = [f"{second.url}/v2/row/blobs/{layer['digest']}"]
        first.add_manifest("row", "v1", json.dumps(manifest).encode())
        image = api.ImageSpec(image=f"{first.domain}/row:v1")
        await refused(crisp.images.PullImage(api.PullImageRequest(image=image)), Code.NOT_FOUND)
        assert second.seen == []


async def test_a_token_of_a_foreign_realm_is_the_registry_s_alone(crisp: Attacked) -> None:
    """CVE-2026-33540: the challenge names a realm at another host: it learns nothing, and its token goes nowhere but
    where the challenge came from; a realm with a user name, or of another scheme, is not asked."""
    async with FakeRegistry() as first, FakeRegistry() as second:
        first.add_image("row", "v1", [layer_with(b"realm")], architecture=HERE)
        realms = [f"{second.url}/token"]
        second.token = "of-the-second"

        def challenge(request: web.Request) -> web.StreamResponse | None:
            if request.headers.get("Authorization") == "Bearer of-the-second":
                return None
            return web.Response(status=401, headers={"WWW-Authenticate": f'Bearer realm="{realms[-1]}",service="x"'})

        first.intercept = challenge
        await pull(crisp, first)
        assert [request.path for request in second.seen] == ["/token"]
        assert "Authorization" not in "".join(told(second))
        for realm in ("http://user:secret@127.0.0.1:1/", "file:///etc/shadow", "unix:///run/crisp.sock", "//x"):
            realms.append(realm)
            image = api.ImageSpec(image=f"{first.domain}/row:v1")
            await refused(crisp.images.PullImage(api.PullImageRequest(image=image)), Code.FAILED_PRECONDITION, "realm")
