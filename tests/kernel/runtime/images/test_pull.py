"""Pulling from a registry, with the workers as they are."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import io
import json
import os
import shutil
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web

from runtime.errors import FailedPrecondition, InvalidArgument, NotFound
from runtime.images.manifest import DOCKER_LIST, OCI_INDEX
from runtime.images.platforms import Platform
from runtime.images.pull import Progress, Puller
from runtime.images.registry import Registry
from runtime.images.store import ImageStore
from tests.kernel.runtime.images.workers import SubprocessRunner
from tests.unit.runtime.images import tars
from tests.unit.runtime.images.registries import (
    FakeRegistry,
    descriptor,
    digest_of,
    image_documents,
    index_of,
    layer_with,
)

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

AMD64 = Platform("linux", "amd64")
BASE = tars.archive(tars.directory(b"tmp", 0o1777), tars.entry(b"bin/sh", b"#!", mode=0o755))
TOP = tars.archive(tars.entry(b"tmp/x", b"y"), tars.entry(b"bin/.wh.sh"))


@pytest.fixture
def puller(store: ImageStore, registry: Registry) -> Puller:
    return Puller(store, registry, AMD64)


def layer_names(store: ImageStore) -> list[str]:
    return sorted(name for name in os.listdir(f"{store.root}/layers") if name != ".trash")


async def test_an_image_is_pulled_unpacked_and_listed(puller: Puller, store: ImageStore, server: FakeRegistry) -> None:
    image_id = server.add_image("team/app", "v1", [BASE, TOP])
    image = await puller.pull(f"{server.domain}/team/app:v1")
    assert image.id == image_id
    assert image.repo_tags == (f"{server.domain}/team/app:v1",)
    assert image.repo_digests == (f"{server.domain}/team/app@{digest_of(server.manifests['team/app', 'v1'][0])}",)
    assert image.size > 0
    assert json.loads(image.config)["config"]["Env"] == ["PATH=/bin"]
    top, base = (Path(path) for path in store.lowerdirs(image))
    assert (base / "bin/sh").read_text() == "#!"
    assert os.lstat(top / "bin/sh").st_rdev == 0
    assert os.stat(top / "tmp").st_mode & 0o7777 == 0o1777  # as the layer below says
    assert store.resolve(f"{server.domain}/team/app:v1") == image
    assert (puller.pulls, puller.failures, puller.running) == (1, 0, [])


async def test_layers_that_are_there_are_not_fetched_again(
    puller: Puller, server: FakeRegistry, runner: SubprocessRunner
) -> None:
    server.add_image("one", "v1", [BASE, TOP])
    server.add_image("two", "v1", [BASE, layer_with(b"z")])
    await puller.pull(f"{server.domain}/one:v1")
    await puller.pull(f"{server.domain}/two:v1")
    await puller.pull(f"{server.domain}/two:v1")
    blob = digest_of(gzip.compress(BASE, mtime=0))
    assert server.counts[f"/v2/one/blobs/{blob}"] == 1
    assert server.counts[f"/v2/two/blobs/{blob}"] == 0
    assert len([call for call in runner.calls if call.endswith(":unpack")]) == 3


async def test_pulls_at_once_share_their_layers(puller: Puller, server: FakeRegistry, runner: SubprocessRunner) -> None:
    layers = [layer_with(b"%d" % number) for number in range(6)]
    server.add_image("one", "v1", layers)
    server.add_image("two", "v1", layers[:4])
    images = await asyncio.gather(
        *[puller.pull(f"{server.domain}/{name}:v1") for name in ("one", "two", "one", "two", "one")]
    )
    assert len({image.id for image in images}) == 2
    assert len([call for call in runner.calls if call.endswith(":unpack")]) == 6


@pytest.mark.parametrize("media_type", [OCI_INDEX, DOCKER_LIST])
async def test_an_index_leads_to_this_platform(media_type: str, puller: Puller, server: FakeRegistry) -> None:
    config, manifest = image_documents([BASE])
    server.add_image("app", "amd", [BASE])
    arm = image_documents([BASE], architecture="arm64")[1]
    content = index_of((arm, "arm64"), (manifest, "amd64")).replace(OCI_INDEX.encode(), media_type.encode())
    top = server.add_manifest("app", "v1", content, media_type)
    image = await puller.pull(f"{server.domain}/app:v1")
    assert image.id == digest_of(config)
    assert image.repo_digests == (f"{server.domain}/app@{top}",)
    by_digest = await puller.pull(f"{server.domain}/app@{top}")
    assert by_digest.repo_tags == image.repo_tags


async def test_no_image_for_this_platform_is_not_found(puller: Puller, server: FakeRegistry, store: ImageStore) -> None:
    arm = image_documents([BASE], architecture="arm64")[1]
    server.add_manifest("app", "v1", index_of((arm, "arm64")), OCI_INDEX)
    server.add_image("single", "v1", [BASE], architecture="arm64")
    for name in ("app:v1", "single:v1", "absent:v1"):
        with pytest.raises(NotFound):
            await puller.pull(f"{server.domain}/{name}")
    assert store.images() == []
    assert puller.failures == 3


async def test_zstd_and_plain_layers_are_unpacked(puller: Puller, store: ImageStore, server: FakeRegistry) -> None:
    config, _ = image_documents([BASE, TOP])
    blobs = [zstd.compress(BASE), TOP]
    types = ["application/vnd.oci.image.layer.v1.tar+zstd", "application/vnd.docker.image.rootfs.diff.tar"]
    for blob in (config, *blobs):
        server.add_blob(blob)
    manifest = {
        "schemaVersion": 2,
        "config": descriptor(config, "application/vnd.docker.container.image.v1+json"),
        "layers": [descriptor(blob, kind) for blob, kind in zip(blobs, types, strict=True)],
    }
    server.add_manifest("app", "v1", json.dumps(manifest).encode())
    image = await puller.pull(f"{server.domain}/app:v1")
    assert (Path(store.lowerdirs(image)[1]) / "bin/sh").exists()


async def refused(puller: Puller, store: ImageStore, reference: str) -> str:
    with pytest.raises(FailedPrecondition) as raised:
        await puller.pull(reference)
    assert store.images() == []
    await store.collect()
    assert layer_names(store) == []
    return str(raised.value)


async def test_a_tampered_layer_never_becomes_visible(puller: Puller, store: ImageStore, server: FakeRegistry) -> None:
    """Row 13, and row 12: right by its blob digest, wrong by its diff id."""
    server.add_image("app", "v1", [BASE])
    blob = digest_of(gzip.compress(BASE, mtime=0))
    original = server.blobs[blob]
    server.blobs[blob] = original[:-9] + bytes([original[-9] ^ 1]) + original[-8:]
    await refused(puller, store, f"{server.domain}/app:v1")
    server.add_image("other", "v1", [BASE], rootfs={"type": "layers", "diff_ids": [digest_of(TOP)]})
    server.blobs[blob] = original
    assert "verify layer" in await refused(puller, store, f"{server.domain}/other:v1")


async def test_a_valid_archive_under_a_wrong_digest_is_refused(
    puller: Puller, store: ImageStore, server: FakeRegistry
) -> None:
    """The bytes unpack well and have the right diff id, but are not the blob that was named."""
    server.add_image("app", "v1", [BASE])
    other = gzip.compress(BASE, compresslevel=1, mtime=7)
    named = digest_of(gzip.compress(BASE, mtime=0))
    size = len(server.blobs[named])
    server.blobs[named] = (other + bytes(size))[:size] if len(other) < size else other
    await refused(puller, store, f"{server.domain}/app:v1")


async def test_config_and_manifest_must_agree(puller: Puller, store: ImageStore, server: FakeRegistry) -> None:
    server.add_image("app", "v1", [BASE, TOP], rootfs={"type": "layers", "diff_ids": [digest_of(BASE)]})
    assert "2 layers, the config 1" in await refused(puller, store, f"{server.domain}/app:v1")
    manifest = image_documents([BASE])[1]
    entry = descriptor(manifest, "application/vnd.oci.image.manifest.v1+json")
    entry["size"] += 1
    server.add_manifest("app", "m", manifest)
    server.add_manifest("app", "v2", json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(), OCI_INDEX)
    assert "the index says" in await refused(puller, store, f"{server.domain}/app:v2")


async def test_indexes_of_indexes_end(puller: Puller, store: ImageStore, server: FakeRegistry) -> None:
    inner = index_of((image_documents([BASE])[1], "amd64"))
    for level in range(4):
        server.add_manifest("app", f"v{level}", inner, OCI_INDEX)
        inner = json.dumps({"schemaVersion": 2, "manifests": [descriptor(inner, OCI_INDEX)]}).encode()
    assert "nested too deep" in await refused(puller, store, f"{server.domain}/app:v3")


async def test_a_bad_reference_asks_nobody(puller: Puller, server: FakeRegistry) -> None:
    with pytest.raises(InvalidArgument):
        await puller.pull(f"{server.domain}/UPPER")
    assert server.seen == []


async def test_a_cancelled_pull_leaves_nothing(puller: Puller, store: ImageStore, server: FakeRegistry) -> None:
    server.add_image("app", "v1", [BASE, layer_with(b"large", os.urandom(3 << 20))])
    seen: list[dict[str, object]] = []

    def slow(request: web.Request) -> None:
        seen.extend(progress.document() for progress in puller.running)

    server.intercept = slow
    async with asyncio.TaskGroup() as group:
        task = group.create_task(puller.pull(f"{server.domain}/app:v1"))
        while not any(entry["stage"] == "layers" for entry in seen):
            await asyncio.sleep(0.001)
        task.cancel()
    assert puller.running == []
    assert puller.failures == 1
    assert store.images() == []
    await store.collect()
    assert layer_names(store) == []


def test_progress_is_plain_data() -> None:
    progress = Progress("x")
    progress.layers["sha256:a"] = (1, 2, "fetching")
    document = json.loads(json.dumps(progress.document()))
    assert document["layers"] == [{"digest": "sha256:a", "received": 1, "size": 2, "state": "fetching"}]


@asynccontextmanager
async def real_registry(directory: Path) -> AsyncIterator[str]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = {
        "version": "0.1",
        "storage": {"filesystem": {"rootdirectory": str(directory)}},
        "http": {"addr": f"127.0.0.1:{port}"},
        "log": {"level": "error"},
    }
    (directory / "config.yml").write_text(json.dumps(configuration))
    child = await asyncio.create_subprocess_exec(
        "docker-registry", "serve", str(directory / "config.yml"), stdout=-3, stderr=-3
    )
    try:
        async with aiohttp.ClientSession() as session:
            for _ in range(200):
                try:
                    async with session.get(f"http://127.0.0.1:{port}/v2/"):
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        child.terminate()
        await child.wait()


async def push(domain: str, repository: str, tag: str, layers: list[bytes]) -> None:
    config, manifest = image_documents(layers)
    base = f"http://{domain}/v2/{repository}"
    async with aiohttp.ClientSession() as session:
        for blob in (config, *[gzip.compress(layer, mtime=0) for layer in layers]):
            async with session.post(f"{base}/blobs/uploads/") as begun:
                location = begun.headers["Location"]
            separator = "&" if "?" in location else "?"
            async with session.put(f"{location}{separator}digest={digest_of(blob)}", data=io.BytesIO(blob)) as done:
                assert done.status == 201, await done.text()
        headers = {"Content-Type": "application/vnd.oci.image.manifest.v1+json"}
        async with session.put(f"{base}/manifests/{tag}", data=manifest, headers=headers) as done:
            assert done.status == 201, await done.text()


@pytest.mark.skipif(shutil.which("docker-registry") is None, reason="needs docker-registry (Debian package)")
async def test_the_published_registry_is_understood(puller: Puller, store: ImageStore, tmp_path: Path) -> None:
    (tmp_path / "registry").mkdir()
    large = layer_with(b"large", os.urandom(2 << 20))
    async with real_registry(tmp_path / "registry") as domain:
        await push(domain, "team/app", "v1", [BASE, large, TOP])
        image = await puller.pull(f"{domain}/team/app:v1")
        with pytest.raises(NotFound):
            await puller.pull(f"{domain}/team/app:v2")
    assert len(store.lowerdirs(image)) == 3
    content = (Path(store.lowerdirs(image)[1]) / "large").read_bytes()
    assert hashlib.sha256(content).digest() == hashlib.sha256(large[512 : 512 + (2 << 20)]).digest()
