"""The images of a node: imported under a name, pulled from a registry, required by containers."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio

from cri.demo_image import ARCHITECTURES, build_demo_image
from cri.images import codec_path
from cri.settings import RegistrySettings
from proto import api_pb2 as api
from runtime.errors import InvalidArgument, NotFound
from tests.cri.harness import DEMO_IMAGE, Crisp
from tests.unit.runtime.images.registries import FakeRegistry, layer_with


async def test_a_required_image_is_there_or_the_reason_is_told(crisp: Crisp) -> None:
    entry = crisp.host.images.require(api.ImageSpec(image=DEMO_IMAGE))
    assert entry.id == entry.record.id and entry.config.cmd
    assert crisp.host.images.require(api.ImageSpec(image=entry.id)).record == entry.record
    with pytest.raises(NotFound, match="pull it first"):
        crisp.host.images.require(api.ImageSpec(image="crisp.local/absent"))
    with pytest.raises(InvalidArgument):
        crisp.host.images.require(api.ImageSpec())


async def test_the_probe_of_an_image_stacks_its_layers_and_writes_nowhere(crisp: Crisp) -> None:
    record = crisp.host.images.resolve(DEMO_IMAGE)
    assert record is not None
    rootfs = crisp.host.images.probe_rootfs(record.layers, "/pod")
    assert rootfs["lowerdirs"] == crisp.host.images.lowerdirs(record.layers) and rootfs["upperdir"] == ""


async def test_a_name_for_an_archive_that_has_one_is_checked_and_not_needed(crisp: Crisp, tmp_path: Path) -> None:
    archive = tmp_path / "demo.tar"
    await asyncio.to_thread(build_demo_image, archive)
    with open(archive, "rb") as file:
        (image,) = await crisp.host.images.import_archive(file.fileno(), "crisp.local/other")
    assert DEMO_IMAGE in image.repo_tags
    with open(archive, "rb") as file, pytest.raises(InvalidArgument):
        await crisp.host.images.import_archive(file.fileno(), "not a name")


async def test_an_image_is_pulled_and_removed_and_both_are_counted_and_told(crisp: Crisp) -> None:
    before = pulls(crisp)
    async with FakeRegistry() as server:
        id = server.add_image("app", "v1", [layer_with(b"file")], architecture=ARCHITECTURES[os.uname().machine])
        record = await crisp.host.images.pull(f"{server.domain}/app:v1")
        assert record.id == id and record in crisp.host.images.all()
        with pytest.raises(NotFound):
            await crisp.host.images.pull(f"{server.domain}/absent:v1")
    assert crisp.host.images.config(record) is crisp.host.images.config(record)
    assert crisp.host.images.usage().used_bytes > record.size and crisp.host.images.strays() == []
    assert await crisp.host.images.remove(id) == record
    assert await crisp.host.images.remove(id) is None
    assert [after - count for after, count in zip(pulls(crisp), before, strict=True)] == [1, 1]


def pulls(crisp: Crisp) -> list[float]:
    registry = crisp.host.metrics.registry
    names = ("success", "failure")
    return [registry.get_sample_value("crisp_image_pulls_total", {"result": name}) or 0.0 for name in names]


async def test_the_codecs_are_found() -> None:
    assert (Path(codec_path()) / "isal").is_dir()


@pytest_asyncio.fixture(loop_scope="module")
async def registry(tmp_path: Path) -> AsyncIterator[str]:
    """An empty Debian docker-registry on loopback; its address."""
    program = shutil.which("docker-registry")
    if program is None:
        pytest.skip("docker-registry is not installed")
    config = tmp_path / "registry.yml"
    folder, port = tmp_path / "registry", 15973
    config.write_text(
        f"version: 0.1\nstorage:\n  filesystem:\n    rootdirectory: {folder}\nhttp:\n  addr: 127.0.0.1:{port}\n"
    )
    served = subprocess.Popen([program, "serve", config], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        async with aiohttp.ClientSession() as client, asyncio.timeout(20):
            while True:
                try:
                    async with client.get(f"http://127.0.0.1:{port}/v2/"):
                        break
                except aiohttp.ClientConnectionError:
                    await asyncio.sleep(0.05)
        yield f"127.0.0.1:{port}"
    finally:
        served.kill()
        served.wait()


async def test_a_pull_that_finds_nothing_counts_as_failed(crisp: Crisp, registry: str) -> None:
    crisp.host.images.set_registry(RegistrySettings(config_path=f"{crisp.host.root}/certs.d"))
    before = crisp.host.metrics.render().decode()
    with pytest.raises(NotFound):
        await crisp.host.images.pull(f"{registry}/absent:1")
    after = crisp.host.metrics.render().decode()
    assert 'crisp_image_pulls_total{result="failure"}' in after and before != after
