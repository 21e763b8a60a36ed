"""Rows 1 to 18 of the table of bad inputs: content of images, by import over the admin socket and by pull.

Bad content is FAILED_PRECONDITION; a bad name in a request is INVALID_ARGUMENT. What is confined,
dropped or kept is looked for in the tree of the layer.
"""

from __future__ import annotations

import gzip
import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from cri.demo_image import ARCHITECTURES, describe, digest, encode
from proto import api_pb2 as api
from runtime.images import layers as layer_store
from tests.security.images import CONFIG, LAYER, MANIFEST, Member, build_archive, pack_members, symlink
from tests.security.input_row import FP, IA, NF, OK, RE, Ask, Check, Row, Try, images, runtime
from tests.security.place import Place
from tests.unit.runtime.images import tars
from tests.unit.runtime.images.registries import FakeRegistry, image_documents, index_of, layer_with

HERE = ARCHITECTURES[os.uname().machine]
NAME = "attack.local/row:latest"
CAPABILITY = bytes.fromhex("0100000200200000000000000000000000000000")  # cap_net_raw, capabilities(7)
OUTSIDE = f"{tempfile.gettempdir()}/crisp-row"
"""A place of the host that escaping names lead to, and that nothing may make."""


def imported(build: Callable[[], bytes]) -> Ask:
    """The import of an archive, as the command line sends it."""

    async def ask(place: Place) -> Any:
        return await place.crisp.send_archive(build())

    return ask


def with_layer(layer: bytes) -> Ask:
    return imported(lambda: build_archive(NAME, [layer]))


def with_members(*members: Member) -> Ask:
    return with_layer(pack_members(members))


def pulled(prepare: Callable[[FakeRegistry], object], layer_bytes: int = 0, layer_entries: int = 0) -> Ask:
    """The pull of ``row:v1`` from a registry that ``prepare`` has filled; the budget of a layer may be small."""

    async def ask(place: Place) -> Any:
        async with FakeRegistry() as server:
            prepare(server)
            image = api.ImageSpec(image=f"{server.domain}/row:v1")
            with pytest.MonkeyPatch.context() as patch:
                if layer_bytes:
                    patch.setattr(layer_store, "MAX_LAYER_BYTES", layer_bytes)
                if layer_entries:
                    patch.setattr(layer_store, "MAX_LAYER_ENTRIES", layer_entries)
                return await place.crisp.images.PullImage(api.PullImageRequest(image=image))

    return ask


def serving(*layers: bytes, **documents: Any) -> Callable[[FakeRegistry], object]:
    return lambda server: server.add_image("row", "v1", layers, **{"architecture": HERE, **documents})


def serving_blob(blob: bytes, stored: bytes | None = None) -> Callable[[FakeRegistry], object]:
    """A layer of exactly these bytes; ``stored`` is what the registry gives instead."""

    def prepare(server: FakeRegistry) -> None:
        config, manifest = image_documents([layer_with(b"x")], architecture=HERE)
        document = json.loads(manifest)
        document["layers"] = [describe("application/vnd.oci.image.layer.v1.tar+gzip", blob)]
        server.add_blob(config)
        server.add_blob(blob)
        if stored is not None:
            server.blobs[digest(blob)] = stored
        server.add_manifest("row", "v1", encode(document))

    return prepare


def tree_of(place: Place) -> Path:
    """The topmost layer of the image, on the host."""
    record = place.crisp.host.images.resolve(NAME)
    assert record is not None
    return Path(place.crisp.host.images.lowerdirs(record.layers)[0])


def confined(*names: str) -> Check:
    """The layer has exactly the files ``names``, and the host has nothing new."""

    async def check(place: Place, answer: Any) -> None:
        tree = tree_of(place)
        assert {str(path.relative_to(tree)) for path in tree.rglob("*") if path.is_file()} == set(names)
        assert not os.path.exists(OUTSIDE)

    return check


def xattr(key: bytes, value: bytes) -> Member:
    return Member("pax", b"x", tars.records({b"SCHILY.xattr." + key: value}))


async def no_attribute_of_overlayfs(place: Place, answer: Any) -> None:
    tree = tree_of(place)
    found = {path.name: os.listxattr(path, follow_symlinks=False) for path in (tree / "file", tree / "moved")}
    assert not [name for names in found.values() for name in names if "overlay" in name], found


async def setuid_and_capabilities(place: Place, answer: Any) -> None:
    tree = tree_of(place)
    assert os.lstat(tree / "su").st_mode & 0o7777 == 0o4755
    assert os.lstat(tree / "sg").st_mode & 0o7777 == 0o2755
    assert os.getxattr(tree / "ping", "security.capability") == CAPABILITY


def huge_device() -> bytes:
    """A header whose major number is 2 to the 33rd, in GNU's base 256."""
    header = bytearray(tars.header(b"x", kind=b"3"))
    header[329:337] = b"\x80" + (1 << 33).to_bytes(7, "big")
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header) + tars.END


FILE = pack_members([Member("x")])
OTHER = pack_members([Member("y")])
CONTENT = encode({"architecture": HERE, "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(FILE)]}})
SANE = {"schemaVersion": 2, "mediaType": MANIFEST, "config": describe(CONFIG, CONTENT)}
LAYERS = {"layers": [describe(LAYER, FILE)]}


def with_manifest(text: bytes) -> Ask:
    return imported(lambda: build_archive(NAME, [FILE], config=CONTENT, manifest=text))


def with_settings(**values: Any) -> Ask:
    return imported(lambda: build_archive(NAME, [FILE], values))


def with_digest(text: str) -> Try:
    """CVE-2024-3727: a manifest whose layer is called so."""
    return Try(with_manifest(encode({**SANE, "layers": [{**LAYERS["layers"][0], "digest": text}]})), FP, "digest")


def naming(text: str) -> Mapping[str, Try]:
    """A reference in each request that has one."""
    spec = api.ImageSpec(image=text)
    return {
        f"pull {text}": Try(images("PullImage", api.PullImageRequest(image=spec)), IA),
        f"status {text}": Try(images("ImageStatus", api.ImageStatusRequest(image=spec)), IA),
        f"remove {text}": Try(images("RemoveImage", api.RemoveImageRequest(image=spec)), IA),
        f"create {text}": Try(
            runtime(
                "CreateContainer",
                lambda place: api.CreateContainerRequest(
                    pod_sandbox_id=place.pod, config=place.crisp.attacker("true", image=text)
                ),
            ),
            IA,
            "image",
        ),
    }


def as_user(user: str) -> Try:
    """A container of an image with this USER."""

    async def ask(place: Place) -> Any:
        config = place.crisp.attacker("id", image=await place.crisp.image(settings={"User": user}))
        return await place.crisp.create(place.pod, config)

    return Try(ask, FP, "user|USER", prepares=True)


def links_to(target: str, *members: Member) -> Ask:
    return with_members(symlink("out", target), *members)


CLIMB = "../" * 12
BOMB = pack_members([Member("x", content=bytes(64 << 20))])
LONG = {b"comment": b"x" * (1 << 20)}

ROWS: Sequence[Row] = [
    Row(1, "tar name `../x`, `/x`", {
        "../x": Try(with_members(Member("../x")), OK, check=confined("x")),
        "climbs to the host": Try(with_members(Member(f"{CLIMB}{OUTSIDE[1:]}")), OK, check=confined(OUTSIDE[1:])),
        "/x": Try(with_members(Member(OUTSIDE)), OK, check=confined(OUTSIDE[1:])),
    }),
    Row(2, "write through symlink parent", {
        "absolute": Try(links_to(OUTSIDE, Member("out/x")), OK, check=confined(f"{OUTSIDE[1:]}/x")),
        "climbing": Try(links_to(f"{CLIMB}{OUTSIDE[1:]}", Member("out/x")), OK, check=confined(f"{OUTSIDE[1:]}/x")),
    }),
    Row(3, "hardlink to outside", {
        "climbing": Try(with_members(Member("x", b"1", link=f"{CLIMB}etc/passwd")), FP, "outside of the image"),
        "absolute": Try(with_members(Member("x", b"1", link="/etc/passwd")), FP, "passwd"),
        "through a link": Try(links_to("/etc", Member("x", b"1", link="out/passwd")), FP, "passwd"),
    }),
    Row(4, "`.wh..`, `.wh...`", {
        ".wh..": Try(with_members(Member(".wh..")), FP, "whiteout"),
        ".wh...": Try(with_members(Member(".wh...")), FP, "whiteout"),
        "a/.wh...": Try(with_members(Member("a/", b"5"), Member("a/.wh...")), FP, "whiteout"),
        "a/.wh.": Try(with_members(Member("a/.wh.")), FP, "whiteout"),
    }),
    Row(5, "raw 0:0 char device", {
        "0:0": Try(with_members(Member("x", b"3", device=(0, 0))), FP, "0:0|whiteout"),
    }),
    Row(6, "device number >2³²", {
        "major 2^33": Try(with_layer(huge_device()), FP, "device"),
        "major 2^12": Try(with_members(Member("x", b"4", device=(1 << 12, 0))), FP, "device"),
    }),
    Row(7, "`trusted.overlay.*` xattr", {
        "redirect, opaque": Try(with_members(
            xattr(b"trusted.overlay.redirect", b"/etc"), Member("moved/", b"5"),
            xattr(b"trusted.overlay.opaque", b"y"), Member("file"),
        ), OK, check=no_attribute_of_overlayfs),
        "of a user": Try(with_members(
            xattr(b"user.overlay.redirect", b"/etc"), Member("moved/", b"5"), Member("file"),
        ), OK, check=no_attribute_of_overlayfs),
    }),
    Row(8, "setuid, `security.capability`", {
        "kept": Try(with_members(
            Member("su", mode=0o4755), Member("sg", mode=0o2755), xattr(b"security.capability", CAPABILITY),
            Member("ping"),
        ), OK, check=setuid_and_capabilities),
    }),
    Row(9, "pax/sparse header >1 MiB", {
        "pax": Try(with_members(Member("pax", b"x", tars.records(LONG)), Member("x")), FP, "larger than"),
        "global pax": Try(with_members(Member("pax", b"g", tars.records(LONG)), Member("x")), FP, "larger than"),
        "long name": Try(with_members(Member("name", b"L", b"n" * (2 << 20)), Member("x")), FP, "larger than"),
        "sparse": Try(with_members(Member("x", b"S", bytes(2 << 20))), FP, "sparse"),
    }),
    Row(10, "gzip bomb, 10M entries", {
        "zeros": Try(pulled(serving(BOMB), layer_bytes=16 << 20), RE, "allowed"),
        "entries": Try(pulled(serving(pack_members([Member("x")] * 20_000)), layer_entries=4000), RE, "allowed"),
    }),
    Row(11, "truncated/garbage stream", {
        "truncated": Try(with_layer(pack_members([Member("x", content=bytes(2048))])[:1000]), FP),
        "garbage": Try(with_layer(bytes(range(256)) * 16), FP),
        "no archive": Try(imported(lambda: bytes(range(256)) * 40), FP),
        "truncated gzip": Try(pulled(serving_blob(gzip.compress(layer_with(b"x"), mtime=0)[:-9])), FP),
        "garbage for gzip": Try(pulled(serving_blob(bytes(range(256)) * 40)), FP),
    }),
    Row(12, "diff_id mismatch", {
        "import": Try(imported(lambda: build_archive(NAME, [FILE], diff_ids=[digest(OTHER)])), FP, "verify layer"),
        "pull": Try(pulled(serving_blob(gzip.compress(layer_with(b"y"), mtime=0))), FP, "verify layer"),
    }),
    Row(13, "blob digest mismatch", {
        "import": Try(imported(lambda: build_archive(NAME, [FILE], blobs={digest(FILE): OTHER})), FP, "verify blob"),
        "pull": Try(pulled(serving_blob(gzip.compress(FILE), gzip.compress(OTHER))), FP, "verify blob"),
    }),
    Row(14, "invalid digest/reference", {
        **naming("demo@sha256:../../etc"), **naming("demo@sha256:abcd"), **naming("demo@md5:" + "0" * 32),
        **naming("UPPER/Case:tag"), **naming("../../etc/passwd"), **naming("localhost:99999/x"),
        "digest that is a path": with_digest("sha256:../../x"),
        "short digest": with_digest("sha256:ab"),
        "other digest": with_digest("md5:" + "0" * 32),
    }),
    Row(15, "manifest >4.39 MB", {
        "import": Try(with_manifest(encode({**SANE, **LAYERS, "annotations": {"a": "x" * (5 << 20)}})), RE, "larger"),
        "pull": Try(
            pulled(lambda server: server.add_manifest("row", "v1", encode({**SANE, **LAYERS, "x": "x" * (5 << 20)}))),
            RE, "larger",
        ),
    }),
    Row(16, "duplicate keys, NaN, deep JSON, `Env:\"x\"`", {
        "keys twice": Try(with_manifest(encode({**SANE, **LAYERS})[:-1] + b',"schemaVersion":2}'), FP, "twice"),
        "NaN": Try(with_manifest(encode({**SANE, **LAYERS, "x": 0}).replace(b'"x":0', b'"x":NaN')), FP, "NaN"),
        "deep": Try(with_manifest(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}"), FP, "deep|nest"),
        "Env is text": Try(with_settings(Env="A=b"), FP, "Env"),
        "Env has a number": Try(with_settings(Env=[1]), FP, "Env"),
        "manifest and index": Try(with_manifest(encode({**SANE, **LAYERS, "manifests": []})), FP),  # CVE-2021-41190
    }),
    Row(17, "no matching platform", {
        "import": Try(imported(lambda: build_archive(NAME, [FILE], architecture="mips64")), NF, "mips64|platform"),
        "pull": Try(pulled(lambda server: server.add_manifest(
            "row", "v1", index_of((image_documents([FILE])[1], "mips64")), "application/vnd.oci.image.index.v1+json",
        )), NF, "platform"),
    }),
    Row(18, "USER out of range", {
        user: as_user(user) for user in ("4294967296", "2147483648", "-1", "0:4294967296", "1" * 30)
    }),
]  # fmt: skip
