"""A small image built on the spot from the busybox of this machine.

``crisp demo`` and the tests have something to run without any registry. The archive is an
OCI layout and a docker archive at once, as ``docker save`` writes them, with one
uncompressed layer. The dynamic busybox (Debian's package ``busybox``) brings its loader and
libraries along, at the paths where its ELF header looks for them; the static one needs none.

Invariant: the same busybox gives the same bytes, so the image has the same id.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
import struct
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from runtime.errors import FailedPrecondition

REFERENCE = "crisp.local/demo:latest"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
COMMAND = ["/bin/sh", "-c", "trap 'exit 0' TERM; echo ready; while :; do sleep 3600 & wait; done"]
EPOCH = "1970-01-01T00:00:00Z"
FILES = {
    "etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/nonexistent:/bin/false\n",
    "etc/group": "root:x:0:\nusers:x:100:nobody\nnogroup:x:65534:\n",
}
DIRECTORIES = {
    **dict.fromkeys(("bin", "dev", "etc", "home", "lib", "proc", "run", "sys", "usr", "usr/bin", "var"), 0o755),
    "root": 0o700,
    "tmp": 0o1777,
}
PT_INTERP = 3  # elf(5)


@dataclass(frozen=True, slots=True)
class Entry:
    """A member of a tar archive; ``link`` makes it a hard link to that member."""

    name: str
    mode: int
    content: bytes = b""
    link: str = ""
    directory: bool = False


def build_demo_image(path: str | os.PathLike[str], busybox: str = "") -> str:
    """Write the archive to ``path``; the reference under which it will be imported.

    Raises:
        FailedPrecondition: this machine has no busybox, or not one that crisp understands.
        OSError: the archive could not be written.
    """
    program = busybox or shutil.which("busybox", path=PATH)
    if program is None:
        raise FailedPrecondition("busybox is not installed (deploy/install-deps)", step="build the demo image")
    layer = pack(plan_root(program))
    Path(path).write_bytes(pack(plan_archive(layer, ARCHITECTURES[os.uname().machine])))
    return REFERENCE


# ---------------------------------------------------------------------------- the root


def plan_root(program: str) -> list[Entry]:
    """Everything in the image's layer, parents first."""
    directories = dict(DIRECTORIES)
    files = {name: Entry(name, 0o644, text.encode()) for name, text in FILES.items()}
    for source in list_libraries(program):
        name = source.lstrip("/")
        files[name] = Entry(name, 0o755, Path(source).read_bytes())
        for parent in Path(name).parents:
            if parent.name:
                directories.setdefault(str(parent), 0o755)
    entries = [Entry(name, mode, directory=True) for name, mode in sorted(directories.items())]
    entries += [files[name] for name in sorted(files)]
    entries.append(Entry("bin/busybox", 0o755, Path(program).read_bytes()))
    entries += [Entry(f"bin/{applet}", 0o755, link="bin/busybox") for applet in list_applets(program)]
    return entries


def list_applets(program: str) -> list[str]:
    """Hard links, not symbolic ones: busybox's shell then finds an applet as a program."""
    listed = subprocess.run([program, "--list"], check=True, capture_output=True, text=True, stdin=subprocess.DEVNULL)
    return sorted({name for name in listed.stdout.split() if "/" not in name} - {"busybox"})


def list_libraries(program: str) -> list[str]:
    """The loader and the libraries of ``program``, as the loader itself lists them."""
    loader = read_interpreter(Path(program).read_bytes())
    if not loader:
        return []
    listed = subprocess.run([loader, "--list", program], check=True, capture_output=True, text=True)
    paths = {word for line in listed.stdout.splitlines() for word in line.split() if word.startswith("/")}
    return sorted(paths - {program} | {loader})


def read_interpreter(elf: bytes) -> str:
    """The path in PT_INTERP of a 64-bit little-endian ELF file; empty for a static one.

    Raises:
        FailedPrecondition: it is no such file.
    """
    if elf[:6] != b"\x7fELF\x02\x01":
        raise FailedPrecondition("busybox is not a 64-bit ELF program", step="build the demo image")
    (table,) = struct.unpack_from("<Q", elf, 32)
    size, count = struct.unpack_from("<HH", elf, 54)
    for at in range(table, table + size * count, size):
        kind, _flags, offset, _virtual, _physical, length = struct.unpack_from("<IIQQQQ", elf, at)
        if kind == PT_INTERP:
            return elf[offset : offset + length].rstrip(b"\0").decode()
    return ""


# ---------------------------------------------------------------------------- the archive


def plan_archive(layer: bytes, architecture: str) -> list[Entry]:
    """The members of an OCI layout (image-spec, image-layout.md) that docker reads as well."""
    config = encode(
        {
            "architecture": architecture,
            "os": "linux",
            "created": EPOCH,
            "config": {"Cmd": COMMAND, "Env": [f"PATH={PATH}"], "WorkingDir": "/", "StopSignal": "SIGTERM"},
            "rootfs": {"type": "layers", "diff_ids": [digest(layer)]},
            "history": [{"created": EPOCH, "created_by": "crisp demo"}],
        }
    )
    manifest = encode(
        {
            "schemaVersion": 2,
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": describe("application/vnd.oci.image.config.v1+json", config),
            "layers": [describe("application/vnd.oci.image.layer.v1.tar", layer)],
        }
    )
    named = {"io.containerd.image.name": REFERENCE, "org.opencontainers.image.ref.name": REFERENCE.rpartition(":")[2]}
    entry = {**describe("application/vnd.oci.image.manifest.v1+json", manifest), "annotations": named}
    docker = [{"Config": blob_path(config), "RepoTags": [REFERENCE], "Layers": [blob_path(layer)]}]
    return [
        Entry("oci-layout", 0o644, encode({"imageLayoutVersion": "1.0.0"})),
        Entry("index.json", 0o644, encode({"schemaVersion": 2, "manifests": [entry]})),
        Entry("manifest.json", 0o644, encode(docker)),
        Entry("blobs", 0o755, directory=True),
        Entry("blobs/sha256", 0o755, directory=True),
        *(Entry(blob_path(blob), 0o644, blob) for blob in (config, manifest, layer)),
    ]


def encode(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":"), sort_keys=True).encode()


def digest(blob: bytes) -> str:
    return f"sha256:{hashlib.sha256(blob).hexdigest()}"


def blob_path(blob: bytes) -> str:
    return f"blobs/{digest(blob).replace(':', '/')}"


def describe(media_type: str, blob: bytes) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest(blob), "size": len(blob)}


def pack(entries: list[Entry]) -> bytes:
    """A tar archive (ustar, POSIX.1-1988), owned by root, from the epoch."""
    return b"".join(piece for entry in entries for piece in pack_entry(entry)) + bytes(1024)


def pack_entry(entry: Entry) -> Iterator[bytes]:
    name = (entry.name + "/" if entry.directory else entry.name).encode()
    if len(name) > 100 or len(entry.link) > 100:
        raise FailedPrecondition("a path has more than 100 bytes", step="build the demo image", object=entry.name)
    kind = b"5" if entry.directory else b"1" if entry.link else b"0"
    header = b"".join(
        (
            name.ljust(100, b"\0"),
            b"%07o\0" % stat.S_IMODE(entry.mode),
            b"%07o\0%07o\0" % (0, 0),
            b"%011o\0%011o\0" % (len(entry.content), 0),
            b" " * 8,
            kind,
            entry.link.encode().ljust(100, b"\0"),
            b"ustar\x0000" + b"root".ljust(32, b"\0") * 2,
            b"%07o\0%07o\0" % (0, 0),
        )
    ).ljust(512, b"\0")
    yield header[:148] + b"%06o\0 " % sum(header) + header[156:]
    yield entry.content
    yield bytes(-len(entry.content) % 512)
