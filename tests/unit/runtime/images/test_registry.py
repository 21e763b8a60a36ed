"""Manifests and blobs: verified, resumed, bounded."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from aiohttp import web

from runtime.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from runtime.images.manifest import Descriptor
from runtime.images.reference import Reference, parse
from runtime.images.registry import Registry
from runtime.images.tokens import AccessRefused
from runtime.images.transport import Patience, RegistryUnavailable
from tests.unit.runtime.images.registries import FakeRegistry, digest_of

QUICK = Patience(attempts=3, first_delay=0.001, max_delay=0.01, stall=0.3)
BLOB = os.urandom(300_000)


@pytest.fixture
async def server() -> AsyncIterator[FakeRegistry]:
    async with FakeRegistry() as started:
        started.add_manifest("app", "v1", b'{"a": 1}')
        started.add_blob(BLOB)
        yield started


@pytest.fixture
async def client() -> AsyncIterator[Registry]:
    async with Registry("", QUICK) as opened:
        yield opened


def reference(server: FakeRegistry, rest: str = "app:v1") -> Reference:
    return parse(f"{server.domain}/{rest}")


def blob(data: bytes = BLOB, size: int | None = None) -> Descriptor:
    return Descriptor("x", digest_of(data), len(data) if size is None else size)


async def fetch(client: Registry, server: FakeRegistry, wanted: Descriptor) -> bytes:
    received = bytearray()

    async def write(chunk: bytes) -> None:
        received.extend(chunk)

    await client.fetch_blob(reference(server), wanted, write)
    return bytes(received)


async def test_a_manifest_comes_with_its_digest(server: FakeRegistry, client: Registry) -> None:
    found = await client.fetch_manifest(reference(server))
    assert (found.content, found.digest) == (b'{"a": 1}', digest_of(b'{"a": 1}'))
    assert found.media_type == "application/vnd.oci.image.manifest.v1+json"
    again = await client.fetch_manifest(reference(server).with_digest(found.digest))
    assert again.content == found.content
    assert "manifest.list" in server.seen[0].headers["Accept"]


async def test_a_manifest_that_is_not_its_digest_is_refused(server: FakeRegistry, client: Registry) -> None:
    wanted = reference(server).with_digest(digest_of(b"wanted"))
    server.intercept = lambda request: web.Response(body=b"other")
    with pytest.raises(FailedPrecondition, match="verify manifest"):
        await client.fetch_manifest(wanted)
    server.intercept = lambda request: web.Response(
        body=b"other", headers={"Docker-Content-Digest": wanted.digest or ""}
    )
    with pytest.raises(FailedPrecondition, match="verify manifest"):
        await client.fetch_manifest(reference(server))


async def test_a_manifest_that_is_cut_off_is_asked_for_again(server: FakeRegistry, client: Registry) -> None:
    class Cut(web.StreamResponse):
        async def write_eof(self, data: bytes = b"") -> None:
            await self.write(b"{")
            assert self._req is not None and self._req.transport is not None
            self._req.transport.close()

    def cut() -> Cut:
        response = Cut()
        response.content_length = 10
        return response

    cuts = [cut(), cut()]
    server.intercept = lambda request: cuts.pop() if cuts else None
    assert (await client.fetch_manifest(reference(server))).content == b'{"a": 1}'
    cuts = [cut() for _ in range(9)]
    with pytest.raises(RegistryUnavailable, match="broke 3 times"):
        await client.fetch_manifest(reference(server))
    assert len(cuts) == 6


async def test_an_oversized_manifest_is_refused(server: FakeRegistry, client: Registry) -> None:
    server.intercept = lambda request: web.Response(body=bytes(5 << 20))
    with pytest.raises(ResourceExhausted):
        await client.fetch_manifest(reference(server))


async def test_what_the_registry_does_not_have_is_not_found(server: FakeRegistry, client: Registry) -> None:
    with pytest.raises(NotFound):
        await client.fetch_manifest(reference(server, "app:v2"))
    with pytest.raises(NotFound):
        await fetch(client, server, blob(b"absent"))


@pytest.mark.parametrize("status", [401, 403, 400, 418])
async def test_a_refusal_is_a_refusal(status: int, server: FakeRegistry, client: Registry) -> None:
    server.intercept = lambda request: web.Response(status=status)
    with pytest.raises(AccessRefused):
        await client.fetch_manifest(reference(server))


async def test_a_blob_is_streamed_and_counted(server: FakeRegistry, client: Registry) -> None:
    assert await fetch(client, server, blob()) == BLOB
    assert client.bytes_received == len(BLOB)
    server.add_blob(b"")
    assert await fetch(client, server, blob(b"")) == b""
    assert await client.fetch_bytes(reference(server), blob()) == BLOB
    with pytest.raises(ResourceExhausted):
        await client.fetch_bytes(reference(server), blob(size=5 << 20))


@pytest.mark.parametrize("ranges", [True, False], ids=["resumed", "from the start"])
async def test_a_broken_connection_is_resumed(ranges: bool, server: FakeRegistry, client: Registry) -> None:
    server.ranges = ranges
    server.cut_after = [100_000, 150_000, 200_000]
    assert await fetch(client, server, blob()) == BLOB
    asked = [request.headers.get("Range") for request in server.seen]
    assert asked[0] is None
    assert len(asked) >= 3
    assert all(each is not None and each != "bytes=0-" for each in asked[1:])


async def test_a_connection_that_always_breaks_is_given_up(server: FakeRegistry, client: Registry) -> None:
    server.cut_after = [1000] + [0] * 50
    with pytest.raises(RegistryUnavailable, match="the connection broke"):
        await fetch(client, server, blob())
    assert len(server.cut_after) > 40


async def test_a_stalled_registry_is_given_up(server: FakeRegistry, client: Registry) -> None:
    release = asyncio.Event()

    class Stalled(web.StreamResponse):
        async def prepare(self, request: web.BaseRequest) -> None:
            await release.wait()

    server.intercept = lambda request: Stalled()
    began = asyncio.get_running_loop().time()
    with pytest.raises(RegistryUnavailable):
        await client.fetch_manifest(reference(server))
    assert asyncio.get_running_loop().time() - began < 3
    release.set()


@pytest.mark.parametrize(
    ("content", "wanted", "reason"),
    [
        (BLOB[:-1] + b"x", blob(), "the content is"),
        (BLOB, blob(size=len(BLOB) + 1), "bytes, the manifest says"),
        (BLOB, blob(size=len(BLOB) - 1), "bytes, the manifest says"),
        (b"", blob(), "bytes, the manifest says"),
    ],
    ids=["tampered", "shorter", "longer", "empty"],
)
async def test_a_blob_that_is_not_what_was_asked_for_is_refused(
    content: bytes, wanted: Descriptor, reason: str, server: FakeRegistry, client: Registry
) -> None:
    server.blobs[wanted.digest] = content
    with pytest.raises(FailedPrecondition, match=reason):
        await fetch(client, server, wanted)


async def test_more_than_was_announced_is_not_taken(server: FakeRegistry, client: Registry) -> None:
    class Chunked(web.Response):
        def __init__(self) -> None:
            super().__init__(body=BLOB + b"more")
            self.enable_chunked_encoding()

    server.intercept = lambda request: Chunked()
    with pytest.raises(FailedPrecondition, match="more than"):
        await fetch(client, server, blob())


async def test_a_resumption_at_another_place_is_refused(server: FakeRegistry, client: Registry) -> None:
    server.cut_after = [1000]
    server.intercept = lambda request: (
        web.Response(status=206, body=b"x", headers={"Content-Range": "bytes 5-9/10"})
        if "Range" in request.headers
        else None
    )
    with pytest.raises(FailedPrecondition, match="another place"):
        await fetch(client, server, blob())


async def test_an_error_of_the_writer_is_not_the_registry_s(server: FakeRegistry, client: Registry) -> None:
    async def write(chunk: bytes) -> None:
        raise BrokenPipeError

    with pytest.raises(BrokenPipeError):
        await client.fetch_blob(reference(server), blob(), write)
    assert len(server.seen) == 1


async def test_mirrors_are_asked_first_and_the_registry_after_them(
    server: FakeRegistry, client: Registry, tmp_path: Path
) -> None:
    async with FakeRegistry() as mirror, FakeRegistry() as gone:
        domain = gone.domain
        (tmp_path / server.domain).mkdir()
        (tmp_path / server.domain / "hosts.toml").write_text(
            f'[host."http://127.0.0.1:1"]\n[host."{mirror.url}"]\ncapabilities = ["pull"]\n'
        )
        client.config_path = str(tmp_path)
        await client.fetch_manifest(reference(server))
        assert mirror.seen == []  # it may not resolve tags
        assert await fetch(client, server, blob()) == BLOB
        assert mirror.seen[0].query["ns"] == server.domain
        mirror.add_blob(BLOB)
        before = len(server.seen)
        assert await fetch(client, server, blob()) == BLOB
        assert len(server.seen) == before
        mirror.intercept = lambda request: web.Response(status=403)
        assert await fetch(client, server, blob()) == BLOB
    assert domain


async def test_nobody_to_ask_is_told(server: FakeRegistry, client: Registry, tmp_path: Path) -> None:
    (tmp_path / "_default").mkdir()
    (tmp_path / "_default/hosts.toml").write_text('capabilities = ["push"]')
    client.config_path = str(tmp_path)
    with pytest.raises(FailedPrecondition, match="no host may be asked"):
        await client.fetch_manifest(reference(server))
    (tmp_path / "_default/hosts.toml").write_text("wrong = 1")
    with pytest.raises(InvalidArgument, match="wrong"):
        await client.fetch_manifest(reference(server))
