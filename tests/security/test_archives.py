"""Hostile archives through the import of a whole daemon: confined or refused, with the right code (R1, R6, R7, R10).

``tests/kernel/runtime/images`` has the layers one by one; here they take the whole way.
"""

from __future__ import annotations

import io
import json
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cri.demo_image import describe, digest, encode
from proto import admin_pb2, admin_pb2_grpc
from tests.security.attacks import Attacked, Code, refused
from tests.security.images import (
    CHARACTER,
    CONFIG,
    DIRECTORY,
    HARDLINK,
    LAYER,
    MANIFEST,
    Member,
    base_layer,
    build_archive,
    pack_members,
    symlink,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

FP, NF, RE = Code.FAILED_PRECONDITION, Code.NOT_FOUND, Code.RESOURCE_EXHAUSTED
NAME = "attack.local/bad:latest"


async def send(crisp: Attacked, archive: bytes) -> Any:
    """Import as ``crisp images import`` does it."""
    async with grpc.aio.insecure_channel(f"unix:{crisp.host.state}/admin.sock") as channel:
        stub: Any = admin_pb2_grpc.AdminStub(channel)

        def pieces() -> Iterator[admin_pb2.ImportImageRequest]:
            for at in range(0, len(archive), 1 << 20):
                yield admin_pb2.ImportImageRequest(chunk=archive[at : at + (1 << 20)])

        return await stub.ImportImage(pieces())


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    (tmp_path / "victim").write_text("of the host\n")
    return tmp_path


def escapes(outside: Path) -> dict[str, list[Member]]:
    """Each would write ``new`` or change ``victim`` in ``outside``, if it were believed."""
    climb = "../" * 6
    written = {"content": b"hostile\n", "mode": 0o644}
    return {
        "a name that climbs": [Member(f"{climb}{str(outside)[1:]}/new", **written)],  # type: ignore[arg-type]
        "an absolute name": [Member(f"{outside}/new", **written)],  # type: ignore[arg-type]
        "through a link": [symlink("out", str(outside)), Member("out/new", **written)],  # type: ignore[arg-type]
        "over a link": [symlink("out", f"{outside}/victim"), Member("out", **written)],  # type: ignore[arg-type]
        "through two links": [
            symlink("a", "b"),
            symlink("b", f"{climb}{str(outside)[1:]}"),
            Member("a/new", **written),  # type: ignore[arg-type]
        ],
        "a mode through a link": [symlink("out", str(outside)), Member("out/", DIRECTORY, mode=0o777)],
        "a whiteout through a link": [symlink("out", str(outside)), Member("out/.wh.victim")],
        "an opaque mark through a link": [symlink("out", str(outside)), Member("out/.wh..wh..opq")],
    }


def fingerprint(place: Path) -> list[tuple[str, int, int, bytes]]:
    return [
        (path.name, path.stat().st_mode, path.stat().st_ino, path.read_bytes() if path.is_file() else b"")
        for path in (place, *sorted(place.iterdir()))
    ]


@pytest.mark.parametrize("how", ["an absolute name", "through a link", "a name that climbs"])
async def test_the_standard_library_is_led_out(
    how: str, outside: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """CVE-2007-4559, CVE-2025-4517 as they were: an extraction that believes what the archive says."""
    before = fingerprint(outside)
    layer = pack_members(escapes(outside)[how])
    with tarfile.open(fileobj=io.BytesIO(layer)) as weak:
        if hasattr(weak, "extraction_filter"):  # Python 3.11.2 of Debian 12 knows no filters and believes all
            weak.extraction_filter = tarfile.fully_trusted_filter
        weak.extractall(tmp_path_factory.mktemp("weak"))
    assert fingerprint(outside) != before


@pytest.mark.parametrize("how", sorted(escapes(Path("/x"))))
async def test_a_layer_changes_nothing_outside_of_its_image(how: str, crisp: Attacked, outside: Path) -> None:
    """Rows 1 and 2; CVE-2021-32760, CVE-2025-47290, CVE-2025-4138, CVE-2025-4330, CVE-2026-7774."""
    before = fingerprint(outside)
    await send(crisp, build_archive(NAME, [base_layer(), pack_members(escapes(outside)[how])]))
    config = crisp.attacker("sleep", "1000", image=NAME)
    id = await crisp.run(await crisp.run_pod(), config)
    assert fingerprint(outside) == before
    if "new" in str([member.name for member in escapes(outside)[how]]):
        found = await crisp.say(id, "sh", "-c", f"find / -xdev -name new | xargs cat; ls -d {outside}")
        assert "hostile" in found


def bad_layers() -> dict[str, bytes]:
    return {
        "3: a hard link to outside": pack_members([Member("x", HARDLINK, link="../../../../etc/passwd")]),
        "4: a whiteout of dot dot": pack_members([Member(".wh...")]),
        "4: a whiteout of nothing": pack_members([Member("a/.wh.")]),
        "5: a raw whiteout": pack_members([Member("x", CHARACTER, device=(0, 0))]),
        "11: truncated": pack_members([Member("x", content=bytes(2048))])[:1000],
        "11: garbage": os.urandom(4096),
    }


@pytest.mark.parametrize("what", sorted(bad_layers()))
async def test_a_bad_layer_is_refused(what: str, crisp: Attacked) -> None:
    """Rows 3 to 5 and 11: content that has no right meaning."""
    await refused_and_unlisted(crisp, build_archive(NAME, [bad_layers()[what]]), FP)


def bad_documents() -> dict[str, tuple[grpc.StatusCode, Callable[[], bytes]]]:
    layer = pack_members([Member("x")])
    other = pack_members([Member("y")])
    config = encode({"architecture": "amd64", "os": "linux", "rootfs": {"type": "layers", "diff_ids": [digest(layer)]}})
    sane = {"schemaVersion": 2, "mediaType": MANIFEST, "config": describe(CONFIG, config)}
    layers = {"layers": [describe(LAYER, layer)]}

    def manifest(text: bytes) -> Callable[[], bytes]:
        return lambda: build_archive(NAME, [layer], config=config, manifest=text)

    def settings(**values: Any) -> Callable[[], bytes]:
        return lambda: build_archive(NAME, [layer], values)

    duplicate = json.dumps({**sane, **layers})[:-1].encode() + b',"schemaVersion":2}'
    return {
        "12: diff_id": (FP, lambda: build_archive(NAME, [layer], diff_ids=[digest(other)])),
        "13: blob": (FP, lambda: build_archive(NAME, [layer], blobs={digest(layer): other})),
        "14: digest": (FP, manifest(encode({**sane, "layers": [{**layers["layers"][0], "digest": "sha256:../../x"}]}))),
        "14: short digest": (
            FP,
            manifest(encode({**sane, "layers": [{**layers["layers"][0], "digest": "sha256:ab"}]})),
        ),
        "14: other digest": (
            FP,
            manifest(encode({**sane, "layers": [{**layers["layers"][0], "digest": "md5:" + "0" * 32}]})),
        ),
        "15: manifest": (RE, manifest(encode({**sane, **layers, "annotations": {"a": "x" * (5 << 20)}}))),
        "16: keys twice": (FP, manifest(duplicate)),
        "16: NaN": (FP, manifest(encode({**sane, **layers, "x": 0}).replace(b'"x":0', b'"x":NaN'))),
        "16: deep": (FP, manifest(b'{"x":' + b"[" * 100_000 + b"]" * 100_000 + b"}")),
        "16: Env is text": (FP, settings(Env="A=b")),
        "16: manifest and index": (FP, manifest(encode({**sane, **layers, "manifests": []}))),  # CVE-2021-41190
        "17: platform": (NF, lambda: build_archive(NAME, [layer], architecture="mips64")),
        "no archive": (FP, lambda: os.urandom(10_000)),
    }


@pytest.mark.parametrize("what", sorted(bad_documents()))
async def test_a_bad_archive_is_refused(what: str, crisp: Attacked) -> None:
    """Rows 12 to 17; CVE-2024-3727, CVE-2021-41190: over the admin socket, as the command line sends it."""
    code, build = bad_documents()[what]
    await refused_and_unlisted(crisp, build(), code)


async def refused_and_unlisted(crisp: Attacked, archive: bytes, code: grpc.StatusCode) -> None:
    host = crisp.host
    before = [image.id for image in host.images.all()], sorted(os.listdir(host.root / "layers"))
    temporary = sorted(os.listdir(host.root))
    await refused(send(crisp, archive), code)
    assert ([image.id for image in host.images.all()], sorted(os.listdir(host.root / "layers"))) == before
    assert sorted(os.listdir(host.root)) == temporary


async def test_setuid_bits_are_kept_and_overlay_attributes_are_not(crisp: Attacked) -> None:
    """Rows 7 and 8: what a layer may say of its files, and what it may not say to overlayfs."""
    record = b"SCHILY.xattr.trusted.overlay.redirect=/etc\n"
    record = b"%d %s" % (len(record) + 3, record)
    assert int(record.split()[0]) == len(record)
    layer = pack_members([Member("pax", b"x", record), Member("moved", DIRECTORY), Member("bin/su", mode=0o4755)])
    await send(crisp, build_archive(NAME, [base_layer(), layer]))
    id = await crisp.run(await crisp.run_pod(), crisp.attacker("sleep", "1000", image=NAME))
    assert (await crisp.say(id, "stat", "-c", "%a", "/bin/su")) == "4755"
    assert await crisp.say(id, "ls", "-A", "/moved") == ""


async def test_import_needs_root(crisp: Attacked) -> None:
    """CVE-2026-53492: an archive becomes an image only by way of a socket that root alone may open."""
    assert os.stat(crisp.host.state / "admin.sock").st_mode & 0o777 == 0o600
