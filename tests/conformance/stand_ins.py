"""Stand-ins for every image that critest names, made of Debian's busybox and programs of our own.

``plan`` says what there is, ``write_layout`` makes an OCI image layout of it, which ``registry``
serves under the images' own names. Each image has a config digest of its own, but for the tags that
the suite wants to be one image. Each name is an index whose first entry is of another
architecture, so that whoever does not choose gets an image in which nothing can be executed.

Invariant: nothing is fetched but Debian's package ``busybox``, and only where this machine has none
that is linked dynamically (the shell of the static one runs its applets without looking at their files).
"""

from __future__ import annotations

import functools
import gzip
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cri.demo_image import (
    ARCHITECTURES,
    EPOCH,
    PATH,
    Entry,
    describe,
    digest,
    encode,
    pack,
    plan_root,
    read_interpreter,
)
from tests import golang

HERE = Path(__file__).resolve().parent
INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar+gzip"
NAME = "org.opencontainers.image.ref.name"
"""The annotation that has an image's whole name in the layout's index."""

E2E = "registry.k8s.io/e2e-test-images"
STAGING = "gcr.io/k8s-staging-cri-tools"
USERS = """\
root:x:0:0:root:/root:/bin/sh
www-data:x:33:33:www-data:/var/www:/bin/false
default-user:x:1000:1000::/home/default-user:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/bin/false
"""
GROUPS = """\
root:x:0:
www-data:x:33:
users:x:100:nobody
default-user:x:1000:
group-defined-in-image:x:50000:default-user
nogroup:x:65534:
"""
MASTER = "nginx: master process nginx"


@dataclass(frozen=True, slots=True)
class StandIn:
    """One image under its ``names``; ``programs`` are sources beside this file by the path of what is made of them."""

    names: tuple[str, ...]
    command: tuple[str, ...] = ("sh",)
    entrypoint: tuple[str, ...] = ()
    user: str = ""
    programs: tuple[tuple[str, str], ...] = ()
    setuid: bool = False
    files: dict[str, str] = field(default_factory=dict)


def plan() -> list[StandIn]:
    architecture = ARCHITECTURES[os.uname().machine]
    users = {"uid": "1002", "username": "www-data", "uid-group": "1003:1004", "username-group": "www-data:1004"}
    plain = ["test-image-latest:latest", "test-image-tag:test", "test-image-tag:all"]
    plain += [f"test-image-{number}:latest" for number in (1, 2, 3)]
    return [
        StandIn((f"{E2E}/busybox:1.29-2",), programs=(("bin/pgrep", "pgrep.c"), ("bin/ipcs", "ipcs.c"))),
        server(f"{E2E}/nginx:1.14-2", "nginx", "80", MASTER, "/var/run/nginx.pid"),
        server(f"{E2E}/httpd:2.4.39-4", "httpd", "80", "httpd"),
        server(f"{STAGING}/hostnet-nginx-{architecture}:latest", "nginx", "12003", MASTER, "/var/run/nginx.pid"),
        StandIn((f"{E2E}/nonewprivs:1.3",), ("/nonewprivs",), programs=(("nonewprivs", "nonewprivs.c"),), setuid=True),
        *(StandIn((f"{STAGING}/{name}",)) for name in plain),
        StandIn(tuple(f"{STAGING}/test-image-tags:{number}" for number in (1, 2, 3))),
        *(StandIn((f"{STAGING}/test-image-user-{name}:latest",), user=user) for name, user in users.items()),
        StandIn(
            (f"{STAGING}/test-image-predefined-group:latest",),
            user="1000",
            files={"etc/passwd": USERS, "etc/group": GROUPS},
        ),
        StandIn(("registry.k8s.io/pause:3.9", "k8s.gcr.io/pause:3.9"), ("sleep", "infinity")),
    ]


def server(name: str, program: str, *arguments: str) -> StandIn:
    path = f"usr/sbin/{program}"
    return StandIn((name,), (), (f"/{path}", *arguments), programs=((path, "webserver.c"),))


def write_layout(folder: Path) -> list[str]:
    """Make the layout in the empty ``folder``; the names in it.

    Raises:
        subprocess.CalledProcessError: the compiler refused, or Debian's package could not be had.
    """
    base = pack([*plan_root(find_busybox()), Entry("var/run", 0o755, directory=True)])
    (folder / "blobs/sha256").mkdir(parents=True)
    entries = []
    for image in plan():
        index = write_image(folder, image, base)
        entries += [{**describe(INDEX, index), "annotations": {NAME: name}} for name in image.names]
    (folder / "oci-layout").write_bytes(encode({"imageLayoutVersion": "1.0.0"}))
    (folder / "index.json").write_bytes(encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": entries}))
    return [name for image in plan() for name in image.names]


def write_image(folder: Path, image: StandIn, base: bytes) -> bytes:
    """Its blobs; returns its index, which is one of them."""
    architecture = ARCHITECTURES[os.uname().machine]
    other = next(each for each in ARCHITECTURES.values() if each != architecture)
    extra = list(plan_layer(image))
    layers = {architecture: [base, *([pack(extra)] if extra else [])], other: [pack([])]}
    manifests = []
    for name in (other, architecture):
        manifest = write_manifest(folder, image, name, layers[name])
        manifests.append({**describe(MANIFEST, manifest), "platform": {"os": "linux", "architecture": name}})
    return write_blob(folder, encode({"schemaVersion": 2, "mediaType": INDEX, "manifests": manifests}))


def write_manifest(folder: Path, image: StandIn, architecture: str, layers: list[bytes]) -> bytes:
    settings: dict[str, Any] = {
        "Cmd": image.command,
        "Entrypoint": image.entrypoint,
        "Env": [f"PATH={PATH}"],
        "Labels": {"stands.in.for": image.names[0]},  # what gives it a digest of its own
        "User": image.user,
        "WorkingDir": "/",
    }
    config = write_blob(
        folder,
        encode(
            {
                "architecture": architecture,
                "os": "linux",
                "created": EPOCH,
                "config": settings,
                "rootfs": {"type": "layers", "diff_ids": [digest(layer) for layer in layers]},
            }
        ),
    )
    blobs = [write_blob(folder, compress(layer)) for layer in layers]
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": describe(CONFIG, config),
        "layers": [describe(LAYER, blob) for blob in blobs],
    }
    return write_blob(folder, encode(manifest))


def plan_layer(image: StandIn) -> Iterator[Entry]:
    """What the image has above the base."""
    for path, source in image.programs:
        if path.startswith("usr/sbin/"):
            yield Entry("usr/sbin", 0o755, directory=True)
        yield Entry(path, 0o4755 if image.setuid else 0o755, compile_program(source))
    for path, text in image.files.items():
        yield Entry(path, 0o644, text.encode())


def write_blob(folder: Path, blob: bytes) -> bytes:
    (folder / "blobs" / digest(blob).replace(":", "/")).write_bytes(blob)
    return blob


@functools.cache
def compress(layer: bytes) -> bytes:
    return gzip.compress(layer, 6, mtime=0)


@functools.cache
def compile_program(source: str) -> bytes:
    """The static program of ``source``, a file of ``images``."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program")
        flags = ["-Os", "-s", "-static", "-Wall", "-Wextra", "-Werror"]
        compiler = os.environ.get("CC", "gcc")
        subprocess.run([compiler, *flags, "-o", program, HERE / "images" / source], check=True)
        return program.read_bytes()


@functools.cache
def find_busybox() -> str:
    """A dynamic busybox: this machine's, else that of Debian's package, in the user's cache."""
    installed = shutil.which("busybox", path=PATH)
    if installed and read_interpreter(Path(installed).read_bytes()):
        return installed
    unpacked = golang.cache_folder() / "busybox"
    unpacked.mkdir(parents=True, exist_ok=True)
    if not list(unpacked.glob("**/bin/busybox")):
        with tempfile.TemporaryDirectory() as downloads:
            subprocess.run(["apt-get", "-q", "download", "busybox"], cwd=downloads, check=True)
            (package,) = Path(downloads).glob("busybox_*.deb")
            subprocess.run(["dpkg-deb", "-x", package, unpacked], check=True)
    return str(next(unpacked.glob("**/bin/busybox")))
