"""A registry for tests: on loopback, with all the ways in which one can misbehave."""

from __future__ import annotations

import gzip
import hashlib
import json
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

from aiohttp import web
from aiohttp.test_utils import TestServer

from runtime.images.manifest import DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST
from tests.unit.runtime.images import tars

Handler = Callable[[web.Request], web.StreamResponse | None]


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class FakeRegistry:
    """Serves ``blobs`` by digest and ``manifests`` by (repository, digest or tag).

    ``intercept`` sees each request first and may answer it. ``token``, when set, is wanted
    as a bearer token; ``seen`` are the requests, ``counts`` their numbers by path.
    """

    def __init__(self) -> None:
        self.blobs: dict[str, bytes] = {}
        self.manifests: dict[tuple[str, str], tuple[bytes, str]] = {}
        self.intercept: Handler = lambda request: None
        self.token = ""
        self.ranges = True
        self.seen: list[web.Request] = []
        self.counts: Counter[str] = Counter()
        self.cut_after: list[int] = []  # break off the next blob answers after so many bytes
        self._server: TestServer | None = None

    async def __aenter__(self) -> FakeRegistry:
        app = web.Application()
        app.router.add_get("/token", self._give_token)
        app.router.add_get("/{rest:.*}", self._answer)
        self._server = TestServer(app, host="127.0.0.1")
        await self._server.start_server()
        return self

    async def __aexit__(self, *exception: object) -> None:
        assert self._server is not None
        await self._server.close()

    @property
    def domain(self) -> str:
        assert self._server is not None
        return f"127.0.0.1:{self._server.port}"

    @property
    def url(self) -> str:
        return f"http://{self.domain}"

    def add_blob(self, data: bytes) -> str:
        self.blobs[digest_of(data)] = data
        return digest_of(data)

    def add_manifest(self, repository: str, tag: str, content: bytes, media_type: str = OCI_MANIFEST) -> str:
        digest = digest_of(content)
        for selector in (tag, digest):
            self.manifests[(repository, selector)] = (content, media_type)
        return digest

    def add_image(self, repository: str, tag: str, layers: Sequence[bytes], **changes: Any) -> str:
        """An image of these tars (stored as gzip); the config's digest."""
        config, manifest = image_documents(layers, **changes)
        self.add_blob(config)
        for layer in layers:
            self.add_blob(gzip.compress(layer, mtime=0))
        self.add_manifest(repository, tag, manifest)
        return digest_of(config)

    async def _give_token(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        if (answer := self.intercept(request)) is not None:
            return answer
        return web.json_response({"token": self.token})

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        self.seen.append(request)
        self.counts[request.path] += 1
        if (answer := self.intercept(request)) is not None:
            return answer
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            challenge = f'Bearer realm="{self.url}/token",service="tests",scope="repository:x:pull"'
            return web.Response(status=401, headers={"WWW-Authenticate": challenge})
        repository, _, rest = request.path.removeprefix("/v2/").rpartition("/manifests/")
        if (found := self.manifests.get((repository, rest))) is not None:
            return web.Response(
                body=found[0], content_type=found[1], headers={"Docker-Content-Digest": digest_of(found[0])}
            )
        _, _, digest = request.path.rpartition("/blobs/")
        if (blob := self.blobs.get(digest)) is not None:
            return await self._answer_blob(request, blob)
        return web.json_response({"errors": []}, status=404)

    async def _answer_blob(self, request: web.Request, blob: bytes) -> web.StreamResponse:
        begin = 0
        response = web.StreamResponse()
        if self.ranges and (wanted := request.headers.get("Range")):
            begin = int(wanted.removeprefix("bytes=").removesuffix("-"))
            response.set_status(206)
            response.headers["Content-Range"] = f"bytes {begin}-{len(blob) - 1}/{len(blob)}"
        response.content_length = len(blob) - begin
        await response.prepare(request)
        if self.cut_after:
            await response.write(blob[begin:][: self.cut_after.pop(0)])
            assert request.transport is not None
            request.transport.close()
            return response
        await response.write(blob[begin:])
        await response.write_eof()
        return response


def image_documents(layers: Sequence[bytes], **changes: Any) -> tuple[bytes, bytes]:
    """Config and manifest of an image with these tars as layers."""
    config = {
        "architecture": "amd64",
        "os": "linux",
        "config": {"Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [digest_of(layer) for layer in layers]},
    } | changes
    content = json.dumps(config).encode()
    blobs = [gzip.compress(layer, mtime=0) for layer in layers]
    manifest = {
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(content, "application/vnd.oci.image.config.v1+json"),
        "layers": [descriptor(blob, "application/vnd.oci.image.layer.v1.tar+gzip") for blob in blobs],
    }
    return content, json.dumps(manifest).encode()


def descriptor(data: bytes, media_type: str, **more: Any) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest_of(data), "size": len(data), **more}


def index_of(*manifests: tuple[bytes, str]) -> bytes:
    """An index of manifests with their architectures."""
    entries = [
        descriptor(content, OCI_MANIFEST, platform={"os": "linux", "architecture": architecture})
        for content, architecture in manifests
    ]
    return json.dumps({"schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries}).encode()


def layer_with(name: bytes, content: bytes = b"x") -> bytes:
    return tars.archive(tars.entry(name, content))


__all__ = ["DOCKER_MANIFEST", "FakeRegistry", "descriptor", "digest_of", "image_documents", "index_of", "layer_with"]
