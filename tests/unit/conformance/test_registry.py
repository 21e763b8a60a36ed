from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.demo_image import describe, digest, encode
from runtime.images.hosts import load_hosts
from tests.conformance import registry
from tests.conformance.stand_ins import INDEX, NAME

INDEX_BYTES = encode({"mediaType": INDEX, "manifests": []})


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    (tmp_path / "blobs/sha256").mkdir(parents=True)
    (tmp_path / "blobs" / digest(INDEX_BYTES).replace(":", "/")).write_bytes(INDEX_BYTES)
    entry = {**describe(INDEX, INDEX_BYTES), "annotations": {NAME: "registry.example/a/b:1"}}
    (tmp_path / "index.json").write_text(json.dumps({"manifests": [entry]}))
    with registry.serve(tmp_path) as host:
        yield host


def ask(host: str, path: str, method: str = "GET") -> tuple[int, str, bytes]:
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        connection.request(method, path)
        answer = connection.getresponse()
        return answer.status, answer.headers["Content-Type"], answer.read()
    finally:
        connection.close()


@pytest.mark.parametrize("what", ["1", "1?ns=registry.example", digest(INDEX_BYTES)])
def test_a_manifest_is_found_by_tag_and_by_digest(host: str, what: str) -> None:
    assert ask(host, f"/v2/a/b/manifests/{what}") == (200, INDEX, INDEX_BYTES)
    assert ask(host, f"/v2/a/b/manifests/{what}", "HEAD") == (200, INDEX, b"")


def test_a_blob_is_bytes_and_the_root_says_that_it_is_a_registry(host: str) -> None:
    status, kind, content = ask(host, f"/v2/a/b/blobs/{digest(INDEX_BYTES)}")
    assert (status, kind, content) == (200, "application/octet-stream", INDEX_BYTES)
    assert ask(host, "/v2/")[0] == 200


@pytest.mark.parametrize(
    "path",
    [
        *("/v2/a/b/manifests/2", "/v2/a/c/manifests/1", "/v2/a/b/blobs/1", f"/v2/a/b/manifests/sha256:{'0' * 64}"),
        *("/v2/a/b/blobs/../../index.json", "/index.json", "/"),
    ],
)
def test_what_is_not_in_the_layout_is_not_found(host: str, path: str) -> None:
    assert ask(host, path)[0] == 404


def test_all_registries_are_the_one_on_loopback(tmp_path: Path) -> None:
    registry.write_hosts(tmp_path, "127.0.0.1:5000")
    for domain in ("registry.k8s.io", "gcr.io", "docker.io"):
        (found,) = load_hosts(str(tmp_path), domain)
        assert str(found.url) == "http://127.0.0.1:5000/v2" and found.namespace == domain
