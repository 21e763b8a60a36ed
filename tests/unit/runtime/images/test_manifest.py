"""Manifests and indexes: one shape, right types, bounded."""

from __future__ import annotations

import json
from typing import Any

import pytest

from runtime.errors import FailedPrecondition, ResourceExhausted
from runtime.images import manifest
from runtime.images.manifest import Index, Manifest, parse_manifest
from runtime.images.platforms import Platform

DIGEST = "sha256:" + "ab" * 32
CONFIG = {"mediaType": "application/vnd.oci.image.config.v1+json", "digest": DIGEST, "size": 10}
LAYER = {"mediaType": "application/vnd.oci.image.layer.v1.tar+gzip", "digest": DIGEST, "size": 10}


def image(**changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "config": CONFIG, "layers": [LAYER], **changes}).encode()


def index(*entries: Any, **changes: Any) -> bytes:
    return json.dumps({"schemaVersion": 2, "manifests": list(entries), **changes}).encode()


def test_an_image_manifest_of_either_kind_is_read() -> None:
    for media_type in (manifest.OCI_MANIFEST, manifest.DOCKER_MANIFEST, ""):
        parsed = parse_manifest(image(mediaType=media_type or None), "x", media_type)
        assert isinstance(parsed, Manifest)
        assert parsed.config.digest == DIGEST
        assert parsed.layers[0].size == 10


def test_an_index_keeps_order_and_platforms() -> None:
    entry = {
        **LAYER,
        "mediaType": manifest.OCI_MANIFEST,
        "platform": {"os": "linux", "architecture": "arm", "variant": "v7"},
    }
    plain = {**LAYER, "mediaType": manifest.OCI_MANIFEST, "annotations": {"a": "b"}}
    parsed = parse_manifest(index(entry, plain, mediaType=manifest.OCI_INDEX), "x", manifest.DOCKER_LIST)
    assert isinstance(parsed, Index)
    assert [each.platform for each in parsed.manifests] == [Platform("linux", "arm", "v7"), None]
    assert parsed.manifests[1].annotations == {"a": "b"}


@pytest.mark.parametrize(
    "document",
    [
        image(manifests=[]),
        index(config=CONFIG),
        index(layers=[]),
        image(fsLayers=[]),
        json.dumps({"schemaVersion": 2}).encode(),
        json.dumps({"schemaVersion": 1, "fsLayers": []}).encode(),
        image(mediaType=manifest.OCI_INDEX),
        image(mediaType="application/json"),
        image(mediaType=5),
        index(mediaType=manifest.DOCKER_MANIFEST),
        image(config={**CONFIG, "mediaType": "application/vnd.unknown.config"}),
        image(config={**CONFIG, "size": manifest.MAX_CONFIG + 1}),
        image(config=None),
        image(layers=[LAYER] * (manifest.MAX_LAYERS + 1)),
        image(layers=[{**LAYER, "mediaType": "application/vnd.in-toto+json"}]),
        image(layers=[{**LAYER, "digest": "sha256:../x"}]),
        image(layers=[{**LAYER, "digest": "md5:" + "0" * 32}]),
        image(layers=[{**LAYER, "size": -1}]),
        image(layers=[{**LAYER, "size": True}]),
        image(layers=[{**LAYER, "size": 1.5}]),
        image(layers=[{**LAYER, "size": 1 << 41}]),
        image(layers="x"),
        image(layers=["x"]),
        index(*[LAYER] * (manifest.MAX_MANIFESTS + 1)),
        index({**LAYER, "platform": "linux"}),
        b'{"schemaVersion": 2, "layers": [], "layers": []}',
    ],
)
def test_what_is_not_one_thing_is_refused(document: bytes) -> None:
    with pytest.raises(FailedPrecondition):
        parse_manifest(document, "x")


def test_a_contradicting_content_type_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="contradicts"):
        parse_manifest(image(), "x", manifest.OCI_INDEX)
    with pytest.raises(FailedPrecondition, match="contradicts"):
        parse_manifest(index(), "x", manifest.DOCKER_MANIFEST)


def test_an_oversized_manifest_is_refused_before_it_is_parsed() -> None:
    with pytest.raises(ResourceExhausted):
        parse_manifest(image(annotations={"x": "y" * (4 << 20)}), "x")


def test_foreign_urls_are_not_kept() -> None:
    foreign = {**LAYER, "mediaType": "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip", "urls": ["https://x"]}
    parsed = parse_manifest(image(layers=[foreign]), "x")
    assert isinstance(parsed, Manifest)
    assert "https" not in repr(parsed)
