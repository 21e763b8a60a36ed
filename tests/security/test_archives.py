"""Hostile archives through the import of a whole daemon: confined or refused, with the right code (R1, R6, R7, R10).

``tests/kernel/runtime/images`` has the layers one by one; here they take the whole way. What is refused
stands in ``bad_images``.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import resource
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import FailedPrecondition, ResourceExhausted
from tests.security.attacks import Attacked
from tests.security.images import (
    DIRECTORY,
    Member,
    base_layer,
    build_archive,
    pack_members,
    symlink,
)

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

NAME = "attack.local/bad:latest"


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
    await crisp.send_archive(build_archive(NAME, [base_layer(), pack_members(escapes(outside)[how])]))
    config = crisp.attacker("sleep", "1000", image=NAME)
    id = await crisp.run(await crisp.run_pod(), config)
    assert fingerprint(outside) == before
    if "new" in str([member.name for member in escapes(outside)[how]]):
        found = await crisp.say(id, "sh", "-c", f"find / -xdev -name new | xargs cat; ls -d {outside}")
        assert "hostile" in found


async def test_setuid_bits_are_kept_and_overlay_attributes_are_not(crisp: Attacked) -> None:
    """Rows 7 and 8: what a layer may say of its files, and what it may not say to overlayfs."""
    record = b"SCHILY.xattr.trusted.overlay.redirect=/etc\n"
    record = b"%d %s" % (len(record) + 3, record)
    assert int(record.split()[0]) == len(record)
    layer = pack_members([Member("pax", b"x", record), Member("moved", DIRECTORY), Member("bin/su", mode=0o4755)])
    await crisp.send_archive(build_archive(NAME, [base_layer(), layer]))
    id = await crisp.run(await crisp.run_pod(), crisp.attacker("sleep", "1000", image=NAME))
    assert (await crisp.say(id, "stat", "-c", "%a", "/bin/su")) == "4755"
    assert await crisp.say(id, "ls", "-A", "/moved") == ""


async def test_import_needs_root(crisp: Attacked) -> None:
    """CVE-2026-53492: an archive becomes an image only by way of a socket that root alone may open."""
    assert os.stat(crisp.host.state / "admin.sock").st_mode & 0o777 == 0o600


def resident() -> int:
    """Bytes of this process, which the daemon is a part of."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


DOCUMENT = b'{"a":"' + b"x" * (96 << 20) + b'"}'
HUNGRY = ("padding", "a whiteout of its own parent", "a sparse map", "a large document")


def hungry(what: str) -> bytes:
    """An archive that takes little place, packed, and asks for much."""
    layer, odd = pack_members([Member("x")]), dict[str, Any]()
    match what:
        case "padding":
            layer += bytes(80 << 20)
        case "a whiteout of its own parent":
            layer = pack_members([Member("a/", DIRECTORY), Member("a/.wh..")])
        case "a sparse map":
            layer = pack_members([Member("x", b"S", b"".join(b"%012o%012o" % (n, 1) for n in range(1 << 16)))])
        case "a large document":
            odd["manifest"] = DOCUMENT
    return build_archive(NAME, [layer], **odd)


async def test_careless_readers_take_as_much_as_they_are_told() -> None:
    """CVE-2023-25153, CVE-2025-58183, CVE-2017-14992 as they were: a document, or a header, is read whole."""
    before = resident()
    weak = json.loads(DOCUMENT)
    assert resident() - before > 64 << 20 and weak


@pytest.mark.parametrize("what", HUNGRY)
async def test_content_that_asks_for_much_memory_gets_little(what: str, crisp: Attacked, tmp_path: Path) -> None:
    """CVE-2017-14992, CVE-2021-20291, CVE-2023-25153, CVE-2025-58183: an error or a small image, in little memory and
    time; workers have a limit of their own."""
    before, peak = resident(), 0

    async def look() -> None:
        nonlocal peak
        while True:
            peak = max(peak, resident() - before)
            await asyncio.sleep(0.01)

    with tempfile.TemporaryFile(dir=tmp_path) as spool:
        spool.write(hungry(what))
        spool.seek(0)
        before = resident()
        looking = asyncio.create_task(look())
        try:
            async with asyncio.timeout(60):
                await crisp.host.images.import_archive(spool.fileno(), "")
        except (FailedPrecondition, ResourceExhausted):
            pass
        finally:
            looking.cancel()
    assert peak < 64 << 20


async def test_a_careless_reader_takes_one_document_for_two(tmp_path: Path) -> None:
    """CVE-2021-41190, GHSA-5j5w as they were: what a document is depends on which field one looks at;
    CVE-2024-3727: a digest is joined to a path."""
    document = {"mediaType": "application/vnd.oci.image.index.v1+json", "manifests": [], "layers": [], "config": {}}
    by_type = "index" if "index" in str(document["mediaType"]) else "image"
    by_field = "image" if "layers" in document else "index"
    assert by_type != by_field
    (tmp_path / "blobs/sha256").mkdir(parents=True)
    (tmp_path / "victim").write_text("of the host")
    weak = os.path.join(tmp_path, "blobs/sha256", "sha256:../../victim".partition(":")[2])
    assert Path(weak).read_text() == "of the host"


@pytest.mark.parametrize("how", ["annotations", "labels", "files"])
async def test_an_image_that_says_it_is_a_checkpoint_is_just_an_image(how: str, crisp: Attacked) -> None:
    """CVE-2024-8676, CVE-2026-53489, CVE-2026-53492, CVE-2026-50195: nothing of it is restored, and what it lists as
    mounts, names and log paths is believed by nobody; who does believe it, the weak variant, mounts the host."""
    config = json.dumps({"mounts": [{"destination": "/host", "source": "/", "type": "bind"}], "logPath": "/etc/passwd"})
    assert json.loads(config)["mounts"][0]["source"] == "/"
    marks = {
        "io.kubernetes.cri-o.annotations.checkpoint.name": "x",
        "io.container.checkpoint": "x",
        "org.criu.checkpoint.container.name": "x",
    }
    members = [Member(f"{name}", content=config.encode()) for name in ("config.dump", "spec.dump", "checkpoint/x.img")]
    image = await crisp.image(members if how == "files" else [], {"Labels": marks} if how == "labels" else {})
    container = crisp.attacker("sleep", "1000", image=image, annotations=marks if how == "annotations" else {})
    id = await crisp.run(await crisp.run_pod(), container)
    assert not os.path.exists(f"/proc/{crisp.pid(id)}/root/host")
    assert await crisp.say(id, "cat", "/proc/1/comm") == "sleep"
