"""Importing images from archives: what ``docker save`` writes, and OCI layouts.

The archive itself is unpacked by the jailed worker into a temporary directory; what
is read from there is resolved inside it, without leaving. Layers then take the same
way as those of a pull.

Invariant: nothing is listed whose config and layers did not match their digests.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from runtime.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from runtime.images.config import ImageConfig, chain_ids, parse_config
from runtime.images.manifest import Descriptor, Manifest, parse_manifest
from runtime.images.model import Image
from runtime.images.platforms import Platform, host_platform
from runtime.images.pull import MAX_INDEX_DEPTH, check_config, check_platform, choose_manifest
from runtime.images.reference import Reference, parse
from runtime.images.sink import feed_descriptor
from runtime.images.stages import READ_ARCHIVE
from runtime.images.store import ImageStore
from runtime.images.strictjson import MAX_BYTES, get_text, get_texts
from runtime.images.strictjson import parse as parse_json
from runtime.images.threads import finish
from runtime.linux.files import RESOLVE_IN_ROOT, RESOLVE_NO_MAGICLINKS, openat2

MAX_IMAGES = 1000
_NAME_ANNOTATIONS = ("io.containerd.image.name", "org.opencontainers.image.ref.name")
_CONFIG_NAME = re.compile(r"(?:blobs/sha256/([0-9a-f]{64})|([0-9a-f]{64})\.json)", re.ASCII)
_BLOB_NAME = re.compile(r"blobs/sha256/([0-9a-f]{64})", re.ASCII)
_STEP = "read archive"


@dataclass(frozen=True, slots=True)
class ArchivedLayer:
    """A layer's file in the archive; ``digest`` of its bytes where the archive tells it, else empty."""

    name: str
    digest: str


@dataclass(frozen=True, slots=True)
class ArchivedImage:
    """What the archive says of one image. ``digest`` is its manifest's, empty in docker's own format."""

    id: str
    content: bytes
    config: ImageConfig
    layers: tuple[ArchivedLayer, ...]
    tags: tuple[str, ...]
    digest: str


class ArchiveDirectory:
    """The unpacked archive at ``path``; use it as a context manager. All methods block."""

    def __init__(self, path: str) -> None:
        self._root = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)

    def __enter__(self) -> ArchiveDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        os.close(self._root)

    def open(self, name: str) -> int:
        """A reading descriptor of the regular file ``name``; links stay inside the archive.

        Raises:
            NotFound: there is none. FailedPrecondition: it is no regular file.
        """
        try:
            found = openat2(self._root, name, os.O_PATH, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS)
        except (OSError, ValueError) as error:
            raise NotFound("the archive does not have it", step=_STEP, object=ascii(name[:200])) from error
        try:
            if not stat.S_ISREG(os.fstat(found).st_mode):  # before it is opened: a device acts on open
                raise _refused(name, "is not a regular file")
            return os.open(f"/proc/self/fd/{found}", os.O_RDONLY | os.O_CLOEXEC)
        finally:
            os.close(found)

    def read(self, name: str) -> bytes:
        """The whole file ``name``. Raises as :meth:`open`, and ResourceExhausted above 4 MiB."""
        with os.fdopen(self.open(name), "rb") as file:
            data = file.read(MAX_BYTES + 1)
        if len(data) > MAX_BYTES:
            raise ResourceExhausted(f"is larger than {MAX_BYTES} bytes", step=_STEP, object=ascii(name[:200]))
        return data

    def read_blob(self, digest: str) -> bytes:
        """The blob ``digest`` of an OCI layout, verified."""
        data = self.read(f"blobs/{digest.replace(':', '/')}")
        _check_digest(data, digest, digest)
        return data


async def import_archive(
    store: ImageStore, archive: int, platform: Platform | None = None, name: str = ""
) -> list[Image]:
    """Import every image of the archive that the descriptor ``archive`` reads (a file,
    compressed or not; it stays the caller's). ``name`` is for one that brings none along.

    Docker archives and OCI layouts are told apart by what they hold; one that is both
    (as newer ``docker save`` writes) is read as OCI layout and gets the tags of both.
    Of several images each is listed as soon as it is whole.

    Raises:
        InvalidArgument: ``name`` is none, or the archive has several images.
        FailedPrecondition: neither, damaged, or content that is not acceptable.
        NotFound: no image for this platform in it.
        ResourceExhausted: too large.
    """
    platform, tag = platform or host_platform(), str(parse(name)) if name else ""
    async with store.layers.spool(feed_descriptor(archive, "archive")) as path:
        with ArchiveDirectory(path) as directory:
            async with store.stages.stage(READ_ARCHIVE):
                images = name_image(await finish(read_archive, directory, platform), tag)
            return [await _import_image(store, directory, image) for image in images]


def name_image(images: list[ArchivedImage], tag: str) -> list[ArchivedImage]:
    """``images``, of which the only one gets ``tag`` if it has no name. Raises as :func:`import_archive`."""
    if not tag:
        return images
    if len(images) > 1:
        raise InvalidArgument(f"the archive has {len(images)} images; one name is not for all", object=tag)
    return [image if image.tags else replace(image, tags=(tag,)) for image in images]


def read_archive(directory: ArchiveDirectory, platform: Platform) -> list[ArchivedImage]:
    """The images that the archive describes. Blocking. Raises as :func:`import_archive`."""
    docker = _read_optional(directory, "manifest.json")
    index = _read_optional(directory, "index.json")
    tagged = _read_docker(directory, docker, platform) if docker is not None and index is None else []
    if index is not None:
        tagged = _read_layout(directory, index, platform)
        if docker is not None:
            tagged = _join_tags(directory, docker, tagged)
    if not tagged:
        raise _refused("archive", "holds no image: neither manifest.json nor index.json lists one")
    return tagged


async def _import_image(store: ImageStore, directory: ArchiveDirectory, archived: ArchivedImage) -> Image:
    chain = chain_ids(archived.config.diff_ids)
    with store.hold(chain):
        for position, layer in enumerate(archived.layers):
            opened: list[int] = []
            try:
                fd = await finish(directory.open, layer.name, then=opened.append)
                feed = feed_descriptor(fd, layer.name, layer.digest)
                await store.layers.ensure(chain[: position + 1], archived.config.diff_ids[position], feed)
            finally:
                for fd in opened:
                    os.close(fd)
        digests = tuple(str(parse(tag).with_digest(archived.digest)) for tag in archived.tags if archived.digest)
        return await store.add(
            Image(
                id=archived.id,
                config=archived.content,
                layers=chain,
                size=sum(store.layers.known[chain_id].size for chain_id in chain),
                repo_tags=archived.tags,
                repo_digests=tuple(dict.fromkeys(digests)),
                created_at=time.time_ns(),
            )
        )


def _read_docker(directory: ArchiveDirectory, data: bytes, platform: Platform) -> list[ArchivedImage]:
    images = []
    for entry in _docker_entries(data):
        name = get_text(entry, "Config", "manifest.json")
        content = directory.read(name)
        image_id = _docker_id(name, content)
        config = parse_config(content, name)
        check_platform(config, platform, name)
        layers = tuple(ArchivedLayer(layer, _named_digest(layer)) for layer in get_texts(entry, "Layers", name))
        if len(layers) != len(config.diff_ids):
            raise _refused(name, f"has {len(layers)} layers, its config {len(config.diff_ids)}")
        images.append(ArchivedImage(image_id, content, config, layers, _docker_tags(entry), ""))
    return images


def _read_layout(directory: ArchiveDirectory, data: bytes, platform: Platform) -> list[ArchivedImage]:
    layout = parse_json(directory.read("oci-layout"), "oci-layout")
    if not isinstance(layout, dict) or layout.get("imageLayoutVersion") != "1.0.0":
        raise _refused("oci-layout", "is not of version 1.0.0")
    index = parse_manifest(data, "index.json")
    if isinstance(index, Manifest):
        raise _refused("index.json", "is not an index")
    images: dict[str, ArchivedImage] = {}
    for entry in index.manifests[:MAX_IMAGES]:
        image = _read_entry(directory, entry, platform)
        known = images.get(image.id)
        images[image.id] = image if known is None else replace(known, tags=_union(known.tags, image.tags))
    return list(images.values())


def _read_entry(directory: ArchiveDirectory, entry: Descriptor, platform: Platform) -> ArchivedImage:
    chosen = entry
    for _ in range(MAX_INDEX_DEPTH + 1):
        document = parse_manifest(directory.read_blob(chosen.digest), chosen.digest, chosen.media_type)
        if isinstance(document, Manifest):
            content = directory.read_blob(document.config.digest)
            config = parse_config(content, document.config.digest)
            check_config(config, document, platform, chosen.digest)
            layers = tuple(
                ArchivedLayer(f"blobs/{each.digest.replace(':', '/')}", each.digest) for each in document.layers
            )
            return ArchivedImage(document.config.digest, content, config, layers, _layout_tags(entry), entry.digest)
        chosen = choose_manifest(document, platform, chosen.digest)
    raise _refused(entry.digest, "indexes are nested too deep")


def _join_tags(directory: ArchiveDirectory, docker: bytes, images: Sequence[ArchivedImage]) -> list[ArchivedImage]:
    """Add the tags that manifest.json has for the same configs."""
    tags: dict[str, tuple[str, ...]] = {}
    for entry in _docker_entries(docker):
        name = get_text(entry, "Config", "manifest.json")
        image_id = _docker_id(name, directory.read(name))
        tags[image_id] = _union(tags.get(image_id, ()), _docker_tags(entry))
    return [replace(image, tags=_union(image.tags, tags.get(image.id, ()))) for image in images]


def _docker_entries(data: bytes) -> list[dict[str, object]]:
    entries = parse_json(data, "manifest.json")
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        raise _refused("manifest.json", "is not a list of images")
    return entries[:MAX_IMAGES]


def _docker_id(name: str, content: bytes) -> str:
    match = _CONFIG_NAME.fullmatch(name)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    if match and digest != f"sha256:{match[1] or match[2]}":
        raise FailedPrecondition(f"the content is {digest}", step="verify config", object=ascii(name[:200]))
    return digest


def _docker_tags(entry: dict[str, object]) -> tuple[str, ...]:
    return tuple(str(_tag(text)) for text in get_texts(entry, "RepoTags", "manifest.json"))


def _layout_tags(entry: Descriptor) -> tuple[str, ...]:
    for key in _NAME_ANNOTATIONS:
        name = entry.annotations.get(key, "")
        if "/" in name or ":" in name:  # else it is a bare tag, of no name
            return (str(_tag(name)),)
    return ()


def _tag(text: str) -> Reference:
    try:
        reference = parse(text)
    except InvalidArgument as fault:
        raise _refused(text, f"is no valid name: {fault.message}") from fault
    if reference.tag is None:
        raise _refused(text, "is a name without a tag")
    return reference


def _named_digest(name: str) -> str:
    match = _BLOB_NAME.fullmatch(name)
    return f"sha256:{match[1]}" if match else ""


def _read_optional(directory: ArchiveDirectory, name: str) -> bytes | None:
    try:
        return directory.read(name)
    except NotFound:
        return None


def _check_digest(data: bytes, digest: str, what: str) -> None:
    found = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if found != digest:
        raise FailedPrecondition(f"the content is {found}", step="verify blob", object=what)


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))


def _refused(name: str, reason: str) -> FailedPrecondition:
    return FailedPrecondition(reason, step=_STEP, object=ascii(name[:200]))
