"""A registry on loopback that serves an OCI image layout, whatever registry its names are of.

The distribution specification's pull: manifests by tag and digest, blobs by digest. ``stand_ins``
makes the layout. Who pulls gets here by ``hosts.toml`` (``write_hosts``), which stands in for all
registries, so that a name that is not in the layout is not found, and never looked for elsewhere.

Invariant: it listens on loopback only, and serves nothing but blobs that the layout has.
"""

from __future__ import annotations

import contextlib
import json
import re
import threading
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cri.demo_image import digest, encode
from tests.conformance.stand_ins import INDEX, NAME

PATHS = re.compile(r"/v2/(?:(?P<repository>[a-z0-9./_-]+)/(?P<kind>manifests|blobs)/(?P<what>[\w.:-]+))?(?:\?.*)?")
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@contextlib.contextmanager
def serve(layout: Path, port: int = 0) -> Iterator[str]:
    """Serves ``layout`` until the end; yields ``127.0.0.1:<port>``, any free port if it is 0."""
    server = ThreadingHTTPServer(("127.0.0.1", port), make_handler(layout))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, name="registry")
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def write_hosts(certs: Path, host: str) -> Path:
    """Have all registries be ``host`` for those who read ``certs`` (``[registry] config_path``); the file."""
    file = certs / "_default/hosts.toml"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(f'server = "http://{host}"\n')
    return file


def read_tags(layout: Path) -> dict[tuple[str, str], str]:
    """Digests by repository, without its registry, and tag."""
    tags = {}
    for entry in json.loads((layout / "index.json").read_bytes())["manifests"]:
        _, _, path = entry["annotations"][NAME].partition("/")
        repository, _, tag = path.rpartition(":")
        tags[repository, tag] = entry["digest"]
    return tags


def make_handler(layout: Path) -> type[BaseHTTPRequestHandler]:
    tags = read_tags(layout)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.answer(body=True)

        def do_HEAD(self) -> None:
            self.answer(body=False)

        def answer(self, *, body: bool) -> None:
            asked = PATHS.fullmatch(self.path)
            if asked and asked["kind"] is None:
                return self.send(HTTPStatus.OK, b"{}", "application/json", body)
            name = asked["what"] if asked else ""
            if asked and asked["kind"] == "manifests":
                name = tags.get((asked["repository"], name), name)
            blob = layout / "blobs" / name.replace(":", "/")
            if not DIGEST.fullmatch(name) or not blob.exists():
                refusal = encode({"errors": [{"code": "MANIFEST_UNKNOWN", "message": "not in the layout"}]})
                return self.send(HTTPStatus.NOT_FOUND, refusal, "application/json", body)
            content = blob.read_bytes()
            kind = read_media_type(content) if asked and asked["kind"] == "manifests" else "application/octet-stream"
            return self.send(HTTPStatus.OK, content, kind, body)

        def send(self, status: HTTPStatus, content: bytes, kind: str, body: bool) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(content)))
            self.send_header("Docker-Content-Digest", digest(content))
            self.end_headers()
            if body:
                self.wfile.write(content)

        def log_message(self, format: str, *arguments: Any) -> None:
            """Nothing: who pulled in vain says so."""

    return Handler


def read_media_type(manifest: bytes) -> str:
    return str(json.loads(manifest).get("mediaType", INDEX))
