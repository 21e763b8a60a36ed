"""Images that attack: the demo image with layers of hostile members on top, as archives.

``cri.demo_image`` gives the base (busybox and its libraries); ``probe.c`` is added to it as
``/bin/probe``, so that a test can try system calls that no shell has.

Invariant: what is packed here is only ever unpacked by crisp, or by a weak variant inside
of a temporary directory.
"""

from __future__ import annotations

import functools
import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cri.demo_image import ARCHITECTURES, EPOCH, Entry, blob_path, describe, digest, encode, pack, plan_root

HERE = Path(__file__).resolve().parent
FILE, HARDLINK, SYMLINK, CHARACTER, BLOCK, DIRECTORY, FIFO = (b"%d" % n for n in range(7))  # tar(5)
LAYER = "application/vnd.oci.image.layer.v1.tar"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"


@dataclass(frozen=True, slots=True)
class Member:
    """A member of a layer; ``device`` is a major and minor number."""

    name: str
    kind: bytes = FILE
    content: bytes = b""
    link: str = ""
    mode: int = 0o755
    uid: int = 0
    device: tuple[int, int] = (0, 0)


def symlink(name: str, target: str) -> Member:
    return Member(name, SYMLINK, link=target, mode=0o777)


def pack_members(members: Iterable[Member], end: bytes = bytes(1024)) -> bytes:
    """A ustar archive of ``members``."""
    return b"".join(map(pack_member, members)) + end


def pack_member(member: Member) -> bytes:
    header = b"".join(
        (
            member.name.encode().ljust(100, b"\0"),
            b"%07o\0" % stat.S_IMODE(member.mode),
            b"%07o\0%07o\0" % (member.uid, member.uid),
            b"%011o\0%011o\0" % (len(member.content), 0),
            b" " * 8,
            member.kind,
            member.link.encode().ljust(100, b"\0"),
            b"ustar\x0000".ljust(72, b"\0"),
            b"%07o\0%07o\0" % member.device,
        )
    ).ljust(512, b"\0")
    header = header[:148] + b"%06o\0 " % sum(header) + header[156:]
    return header + member.content + bytes(-len(member.content) % 512)


@functools.cache
def compile_program(source: str, *flags: str) -> bytes:
    """The program of ``source``, a file beside this one."""
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "program")
        compiler = os.environ.get("CC", "gcc")
        subprocess.run([compiler, "-O1", "-Wall", "-Werror", *flags, "-o", program, HERE / source], check=True)
        return program.read_bytes()


def build_probe() -> bytes:
    return compile_program("probe.c", "-static")


def build_inside() -> bytes:
    return compile_program("inside.c", "-static")


def build_loader() -> bytes:
    """Something to stand where a program's ELF header names its loader."""
    return compile_program("loader.c", "-nostdlib", "-static-pie", "-fPIE", "-ffreestanding", "-fno-stack-protector")


@functools.cache
def base_layer() -> bytes:
    program = shutil.which("busybox")
    assert program, "busybox is not installed (deploy/install-deps)"
    probe = build_probe()
    return pack([*plan_root(program), Entry("bin/probe", 0o755, probe)])


def build_archive(reference: str, layers: Sequence[bytes], settings: dict[str, Any] | None = None, **odd: Any) -> bytes:
    """An OCI layout with one image; ``settings`` are its ``config``, ``odd`` replaces whole documents.

    ``odd`` may have ``diff_ids``, ``config`` and ``manifest`` (bytes), ``architecture``, and
    ``blobs``: content by the digest under which it is stored.
    """
    config = odd.get("config") or encode(
        {
            "architecture": odd.get("architecture", ARCHITECTURES[os.uname().machine]),
            "os": "linux",
            "created": EPOCH,
            "config": {"Cmd": ["sleep", "1000"], **(settings or {})},
            "rootfs": {"type": "layers", "diff_ids": odd.get("diff_ids") or [digest(layer) for layer in layers]},
        }
    )
    manifest = odd.get("manifest") or encode(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": describe(CONFIG, config),
            "layers": [describe(LAYER, layer) for layer in layers],
        }
    )
    entry = {**describe(MANIFEST, manifest), "annotations": {"io.containerd.image.name": reference}}
    blobs = {blob_path(blob): blob for blob in (config, manifest, *layers)}
    blobs |= {f"blobs/{name.replace(':', '/')}": blob for name, blob in odd.get("blobs", {}).items()}
    return pack(
        [
            Entry("oci-layout", 0o644, encode({"imageLayoutVersion": "1.0.0"})),
            Entry("index.json", 0o644, encode({"schemaVersion": 2, "manifests": [entry]})),
            Entry("blobs", 0o755, directory=True),
            Entry("blobs/sha256", 0o755, directory=True),
            *(Entry(name, 0o644, blob) for name, blob in blobs.items()),
        ]
    )


def extend_demo(reference: str, members: Iterable[Member] = (), settings: dict[str, Any] | None = None) -> bytes:
    """An archive of the base with a layer of ``members``."""
    extra = [pack_members(members)] if members else []
    return build_archive(reference, [base_layer(), *extra], settings)
