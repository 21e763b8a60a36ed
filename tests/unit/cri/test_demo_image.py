"""The archive is read back with tarfile, GNU tar's format checks and the digests in it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import tarfile
from pathlib import Path

import pytest

from cri import demo_image
from cri.demo_image import Entry, build_demo_image, list_libraries, pack, plan_root, read_interpreter
from runtime.errors import FailedPrecondition


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("image") / "demo.tar"
    assert build_demo_image(path) == "crisp.local/demo:latest"
    return path


def read(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar if member.isfile()}  # type: ignore[union-attr]


def layer_of(files: dict[str, bytes]) -> tarfile.TarFile:
    (image,) = json.loads(files["manifest.json"])
    return tarfile.open(fileobj=io.BytesIO(files[image["Layers"][0]]))


def test_every_blob_has_the_digest_that_names_it(archive: Path) -> None:
    files = read(archive)
    blobs = {name: content for name, content in files.items() if name.startswith("blobs/sha256/")}
    assert len(blobs) == 3
    for name, content in blobs.items():
        assert name == f"blobs/sha256/{hashlib.sha256(content).hexdigest()}"


def test_the_oci_and_the_docker_index_name_the_same_image(archive: Path) -> None:
    files = read(archive)
    (entry,) = json.loads(files["index.json"])["manifests"]
    (image,) = json.loads(files["manifest.json"])
    manifest = json.loads(files[f"blobs/{entry['digest'].replace(':', '/')}"])
    assert f"blobs/{manifest['config']['digest'].replace(':', '/')}" == image["Config"]
    assert entry["annotations"]["io.containerd.image.name"] == image["RepoTags"][0] == "crisp.local/demo:latest"
    config = json.loads(files[image["Config"]])
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
    assert config["config"]["Cmd"] == demo_image.COMMAND


def test_the_same_busybox_gives_the_same_bytes(archive: Path, tmp_path: Path) -> None:
    build_demo_image(tmp_path / "again.tar")
    assert (tmp_path / "again.tar").read_bytes() == archive.read_bytes()


def test_applets_are_hard_links_and_users_are_there(archive: Path) -> None:
    layer = layer_of(read(archive))
    shell = layer.getmember("bin/sh")
    assert shell.islnk() and shell.linkname == "bin/busybox"
    assert layer.getmember("tmp").mode == 0o1777
    passwd = layer.extractfile("etc/passwd")
    assert passwd is not None and passwd.read().startswith(b"root:x:0:0:")


def test_the_unpacked_root_runs(archive: Path, tmp_path: Path) -> None:
    """Without a chroot (no root needed): its own loader runs its own shell on its own libraries."""
    files = read(archive)
    (image,) = json.loads(files["manifest.json"])
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=files[image["Layers"][0]], check=True)
    busybox = tmp_path / "bin/busybox"
    assert busybox.stat().st_nlink > 50
    loader = read_interpreter(busybox.read_bytes())
    libraries = {
        str(tmp_path / Path(path).parent.relative_to("/"))
        for path in list_libraries(str(busybox))
        if path != str(busybox)
    }
    prefix = [str(tmp_path / loader[1:]), "--library-path", ":".join(sorted(libraries))] if loader else []
    done = subprocess.run([*prefix, str(busybox), "sh", "-c", "echo ready"], capture_output=True, text=True, check=True)
    assert done.stdout == "ready\n"


def test_a_static_program_brings_no_libraries(tmp_path: Path) -> None:
    source = tmp_path / "static.c"
    source.write_text('#include <stdio.h>\nint main(void) { puts("true"); puts("sh"); return 0; }\n')
    subprocess.run(["gcc", "-static", "-o", str(tmp_path / "busybox"), str(source)], check=True)
    assert list_libraries(str(tmp_path / "busybox")) == []
    names = [entry.name for entry in plan_root(str(tmp_path / "busybox"))]
    assert names[-3:] == ["bin/busybox", "bin/sh", "bin/true"]


def test_a_script_in_place_of_busybox_is_refused(tmp_path: Path) -> None:
    script = tmp_path / "busybox"
    script.write_text("#!/bin/sh\n")
    with pytest.raises(FailedPrecondition, match="not a 64-bit ELF program"):
        build_demo_image(tmp_path / "demo.tar", str(script))


def test_a_machine_without_busybox_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_image, "PATH", str(tmp_path))
    with pytest.raises(FailedPrecondition, match="install-deps"):
        build_demo_image(tmp_path / "demo.tar")


def test_tar_headers_are_those_of_ustar() -> None:
    packed = pack([Entry("a", 0o1777, directory=True), Entry("a/b", 0o640, b"x" * 513), Entry("c", 0o755, link="a/b")])
    assert len(packed) == 512 * (1 + 1 + 2 + 1) + 1024
    with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
        members = [(member.name, member.mode, member.size, member.type, member.linkname) for member in tar]
    assert members == [
        ("a", 0o1777, 0, tarfile.DIRTYPE, ""),
        ("a/b", 0o640, 513, tarfile.REGTYPE, ""),
        ("c", 0o755, 0, tarfile.LNKTYPE, "a/b"),
    ]
    listed = subprocess.run(["tar", "-tv"], input=packed, capture_output=True, env={**os.environ, "LC_ALL": "C"})
    assert (listed.returncode, listed.stderr) == (0, b"")


def test_a_path_that_ustar_cannot_hold_is_refused() -> None:
    with pytest.raises(FailedPrecondition, match="more than 100 bytes"):
        pack([Entry("x" * 101, 0o644)])
