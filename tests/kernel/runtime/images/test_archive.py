"""Importing archives: docker's format, OCI layouts, and what pretends to be one."""

from __future__ import annotations

import gc
import gzip
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import FailedPrecondition, Fault, InvalidArgument, NotFound
from runtime.images.archive import import_archive
from runtime.images.manifest import OCI_INDEX, OCI_MANIFEST
from runtime.images.model import Image
from runtime.images.platforms import Platform
from runtime.images.store import ImageStore
from tests.descriptors import open_descriptors
from tests.unit.runtime.images import tars
from tests.unit.runtime.images.fakes import Background
from tests.unit.runtime.images.registries import descriptor, digest_of, image_documents, index_of, layer_with

AMD64 = Platform("linux", "amd64")
BASE, TOP = layer_with(b"bin/sh", b"#!"), layer_with(b"top")
NAME = "io.containerd.image.name"


def docker_files(layers: list[bytes], *tags: str, **changes: Any) -> dict[str, bytes]:
    """What ``docker save`` wrote before version 25."""
    config, _ = image_documents(layers, **changes)
    names = [f"{number:064x}/layer.tar" for number in range(len(layers))]
    name = f"{digest_of(config).removeprefix('sha256:')}.json"
    entry = {"Config": name, "RepoTags": list(tags) or None, "Layers": names}
    return {"manifest.json": json.dumps([entry]).encode(), name: config, **dict(zip(names, layers, strict=True))}


def blob_name(data: bytes) -> str:
    return f"blobs/{digest_of(data).replace(':', '/')}"


def layout_files(layers: list[bytes], annotations: Mapping[str, str] | None = None, **changes: Any) -> dict[str, bytes]:
    """An OCI layout."""
    config, manifest = image_documents(layers, **changes)
    entry = descriptor(manifest, OCI_MANIFEST, annotations=annotations or {})
    blobs = [config, manifest, *[gzip.compress(layer, mtime=0) for layer in layers]]
    return {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        **{blob_name(blob): blob for blob in blobs},
    }


def archive_of(files: Mapping[str, bytes]) -> bytes:
    return tars.archive(*[tars.long_name(name.encode()) + tars.entry(b"x", data) for name, data in files.items()])


async def load(store: ImageStore, data: bytes, name: str = "") -> list[Image]:
    fd = os.memfd_create("archive")
    try:
        os.write(fd, data)
        os.lseek(fd, 0, os.SEEK_SET)
        return await import_archive(store, fd, AMD64, name)
    finally:
        os.close(fd)


@pytest.mark.parametrize("compress", [bytes, gzip.compress], ids=["plain", "gzip"])
async def test_a_docker_archive_is_imported(compress: Any, store: ImageStore) -> None:
    data = compress(archive_of(docker_files([BASE, TOP], "app:v1", "r.example/app:v2")))
    [image] = await load(store, data)
    assert image.id == digest_of(image_documents([BASE, TOP])[0])
    assert image.repo_tags == ("docker.io/library/app:v1", "r.example/app:v2")
    assert image.repo_digests == ()
    assert (Path(store.lowerdirs(image)[1]) / "bin/sh").read_text() == "#!"
    assert store.resolve("app:v1") == image
    assert [name for name in os.listdir(f"{store.root}/layers") if name.startswith(".tmp")] == []


async def test_an_oci_layout_is_imported(store: ImageStore) -> None:
    [image] = await load(store, archive_of(layout_files([BASE], {NAME: "r.example/app:v1"})))
    manifest = image_documents([BASE])[1]
    assert image.repo_tags == ("r.example/app:v1",)
    assert image.repo_digests == (f"r.example/app@{digest_of(manifest)}",)


async def test_names_come_from_either_annotation_or_not_at_all(store: ImageStore) -> None:
    key = "org.opencontainers.image.ref.name"
    [image] = await load(store, archive_of(layout_files([BASE], {key: "app:v1"})))
    assert image.repo_tags == ("docker.io/library/app:v1",)
    [image] = await load(store, archive_of(layout_files([TOP], {key: "v1"})))
    assert image.repo_tags == ()
    assert store.resolve(image.id) == image
    [image] = await load(store, archive_of(docker_files([TOP, BASE])))
    assert image.repo_tags == ()


async def test_what_is_both_gets_the_tags_of_both(store: ImageStore) -> None:
    files = layout_files([BASE], {NAME: "docker.io/library/app:v1"})
    config, _ = image_documents([BASE])
    layer = blob_name(gzip.compress(BASE, mtime=0))
    entry = {"Config": blob_name(config), "RepoTags": ["app:v1", "app:v2"], "Layers": [layer]}
    files["manifest.json"] = json.dumps([entry]).encode()
    [image] = await load(store, archive_of(files))
    assert image.repo_tags == ("docker.io/library/app:v1", "docker.io/library/app:v2")
    del files["index.json"], files["oci-layout"]
    [image] = await load(store, archive_of(files))
    assert image.repo_tags == ("docker.io/library/app:v1", "docker.io/library/app:v2")


async def test_of_an_index_the_image_for_this_platform_is_taken(store: ImageStore) -> None:
    files = layout_files([BASE])
    manifest = image_documents([BASE])[1]
    missing = image_documents([TOP], architecture="arm64")[1]
    index = index_of((missing, "arm64"), (manifest, "amd64"))
    entries = [descriptor(index, OCI_INDEX, annotations={NAME: name}) for name in ("r.example/a:1", "r.example/b:1")]
    files[blob_name(index)] = index
    files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": entries}).encode()
    [image] = await load(store, archive_of(files))
    assert image.repo_tags == ("r.example/a:1", "r.example/b:1")
    assert image.repo_digests[0] == f"r.example/a@{digest_of(index)}"


async def test_a_name_that_is_given_is_for_an_image_without_one(store: ImageStore) -> None:
    [image] = await load(store, archive_of(docker_files([BASE])), "r.example/given:1")
    assert image.repo_tags == ("r.example/given:1",)
    [image] = await load(store, archive_of(docker_files([TOP], "app:v1")), "r.example/given:2")
    assert image.repo_tags == ("docker.io/library/app:v1",)
    with pytest.raises(InvalidArgument):
        await load(store, archive_of(docker_files([BASE])), "NO NAME")


async def test_one_name_for_several_images_is_refused_before_any_is_imported(store: ImageStore) -> None:
    one, two = docker_files([BASE]), docker_files([BASE, TOP])
    entries = json.loads(one["manifest.json"]) + json.loads(two["manifest.json"])
    with pytest.raises(InvalidArgument, match="the archive has 2 images"):
        await load(store, archive_of({**one, **two, "manifest.json": json.dumps(entries).encode()}), "r.example/a:1")
    assert store.images() == [] and store.layers.known == {}


async def test_several_images_are_imported(store: ImageStore) -> None:
    one, two = docker_files([BASE], "one:v1"), docker_files([BASE, TOP], "two:v1")
    entries = json.loads(one["manifest.json"]) + json.loads(two["manifest.json"])
    images = await load(store, archive_of({**one, **two, "manifest.json": json.dumps(entries).encode()}))
    assert [image.repo_tags[0] for image in images] == ["docker.io/library/one:v1", "docker.io/library/two:v1"]


async def test_layers_may_be_links_inside_the_archive(store: ImageStore) -> None:
    files = docker_files([BASE, BASE], "app:v1")
    second = next(name for name in files if name.endswith("1/layer.tar"))
    first = next(name for name in files if name.endswith("0/layer.tar"))
    del files[second]
    link = tars.long_name(second.encode()) + tars.long_name(f"../{first}".encode(), b"K") + tars.symlink(b"x", b"")
    [image] = await load(store, archive_of(files)[: -len(tars.END)] + link + tars.END)
    assert len(image.layers) == 2


def changed(files: dict[str, bytes], name: str, data: bytes) -> dict[str, bytes]:
    [key] = [each for each in files if each == name or each.endswith(name)]
    return {**files, key: data}


def without(files: dict[str, bytes], name: str) -> dict[str, bytes]:
    return {key: data for key, data in files.items() if key != name}


DOCKER = docker_files([BASE], "app:v1")
LAYOUT = layout_files([BASE], {NAME: "r.example/app:v1"})
CONFIG = image_documents([BASE])[0]
ENTRY = json.loads(DOCKER["manifest.json"])[0]


@pytest.mark.parametrize(
    "data",
    [
        b"not an archive",
        archive_of({}),
        archive_of({"manifest.json": b"[]"}),
        archive_of({"manifest.json": b"{}"}),
        archive_of({"manifest.json": b'["x"]'}),
        archive_of({"manifest.json": b"[{}]"}),
        archive_of(changed(DOCKER, "layer.tar", TOP)),
        archive_of(changed(DOCKER, "layer.tar", b"garbage" * 200)),
        archive_of(changed(DOCKER, ".json", b"{}") if len(DOCKER) == 1 else {**DOCKER, ENTRY["Config"]: b"{}"}),
        archive_of({**DOCKER, "manifest.json": json.dumps([{**ENTRY, "Layers": []}]).encode()}),
        archive_of({**DOCKER, "manifest.json": json.dumps([{**ENTRY, "RepoTags": ["UPPER:v1"]}]).encode()}),
        archive_of({**DOCKER, "manifest.json": json.dumps([{**ENTRY, "RepoTags": [f"a@{digest_of(b'')}"]}]).encode()}),
        archive_of(without(LAYOUT, "oci-layout")),
        archive_of({**LAYOUT, "oci-layout": b'{"imageLayoutVersion": "2.0.0"}'}),
        archive_of({**LAYOUT, "index.json": image_documents([BASE])[1]}),
        archive_of({**LAYOUT, blob_name(gzip.compress(BASE, mtime=0)): gzip.compress(BASE, mtime=1)}),
        archive_of({**LAYOUT, blob_name(CONFIG): CONFIG + b" "}),
        archive_of(without(LAYOUT, blob_name(CONFIG))),
        archive_of(docker_files([BASE], "app:v1", architecture="arm64")),
        archive_of(layout_files([BASE], architecture="arm64")),
    ],
)
async def test_what_is_not_right_is_refused_and_leaves_nothing(data: bytes, store: ImageStore) -> None:
    with pytest.raises((FailedPrecondition, NotFound)):
        await load(store, data)
    assert store.images() == []
    await store.collect()
    assert os.listdir(f"{store.root}/layers") == [".trash"]


@pytest.mark.parametrize("how", ["symlink", "absolute symlink", "dotdot", "device", "fifo", "directory"])
async def test_no_name_in_an_archive_leads_out(how: str, store: ImageStore, tmp_path: Path) -> None:
    secret = tmp_path / "secret.json"
    secret.write_bytes(CONFIG)
    target = "evil"
    extra = {
        "symlink": tars.long_name(b"../" * 20 + os.fsencode(secret).lstrip(b"/"), b"K") + tars.symlink(b"evil", b""),
        "absolute symlink": tars.long_name(os.fsencode(secret), b"K") + tars.symlink(b"evil", b""),
        "dotdot": b"",
        "device": tars.entry(b"evil", kind=b"3", device=(1, 3)),
        "fifo": tars.entry(b"evil", kind=b"6"),
        "directory": tars.directory(b"evil"),
    }[how]
    if how == "dotdot":
        target = "../" * 20 + str(secret).lstrip("/")
    entry = {**ENTRY, "Config": target}
    files = {**DOCKER, "manifest.json": json.dumps([entry]).encode()}
    with pytest.raises(Fault):
        await load(store, archive_of(files)[: -len(tars.END)] + extra + tars.END)
    assert store.images() == []
    assert secret.read_bytes() == CONFIG


async def test_no_descriptor_is_left_open(store: ImageStore, background: Background) -> None:
    gc.collect()  # what earlier tests left to the collector is not closed in between
    await background.settle()  # the trash is emptied beside all this
    before = open_descriptors()
    await load(store, archive_of(DOCKER))
    with pytest.raises(FailedPrecondition):
        await load(store, archive_of(changed(docker_files([TOP], "a:b"), "layer.tar", BASE)))
    await background.settle()
    assert open_descriptors() <= before
