"""Image manifests and indexes, Docker schema 2 and OCI, read strictly.

``pull`` and ``archive`` read what a registry or an archive holds through here;
``config`` reads the image's own configuration.

Invariant: a document has one shape. What could be read as an index and as a
manifest is refused, whatever its media type says (CVE-2021-41190).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from runtime.errors import FailedPrecondition
from runtime.images.platforms import Platform
from runtime.images.reference import is_digest
from runtime.images.strictjson import Object, get_list, get_object, get_text, get_text_map, parse_object

DOCKER_MANIFEST = "application/vnd.docker.distribution.manifest.v2+json"
DOCKER_LIST = "application/vnd.docker.distribution.manifest.list.v2+json"
OCI_MANIFEST = "application/vnd.oci.image.manifest.v1+json"
OCI_INDEX = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPES = frozenset({DOCKER_MANIFEST, OCI_MANIFEST})
INDEX_TYPES = frozenset({DOCKER_LIST, OCI_INDEX})
ACCEPTED = (OCI_INDEX, DOCKER_LIST, OCI_MANIFEST, DOCKER_MANIFEST)

CONFIG_TYPES = frozenset({"application/vnd.docker.container.image.v1+json", "application/vnd.oci.image.config.v1+json"})
# The codec is told by the stream's own magic; the type only says that it is a layer that we can apply.
LAYER_TYPES = frozenset(
    {
        "application/vnd.docker.image.rootfs.diff.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar",
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip",
        "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.oci.image.layer.nondistributable.v1.tar",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip",
        "application/vnd.oci.image.layer.nondistributable.v1.tar+zstd",
    }
)
MAX_LAYERS = 500  # what one overlay mount takes
MAX_MANIFESTS = 1000
MAX_BLOB = 1 << 40
MAX_CONFIG = 4 << 20


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob by content: ``digest`` ``sha256:<hex>``, ``size`` in bytes. What a descriptor
    says about other places to fetch from (``urls``) is not kept: nothing is fetched from there."""

    media_type: str
    digest: str
    size: int
    platform: Platform | None = None
    annotations: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


@dataclass(frozen=True, slots=True)
class Manifest:
    """One image: its config and its layers, bottom first."""

    config: Descriptor
    layers: tuple[Descriptor, ...]


@dataclass(frozen=True, slots=True)
class Index:
    """Several images, or several platforms of one, in the document's order."""

    manifests: tuple[Descriptor, ...]


def parse_manifest(data: bytes, what: str, media_type: str = "") -> Manifest | Index:
    """Read a manifest or an index of either kind.

    ``media_type`` is what the outside said (Content-Type, descriptor), empty if nothing;
    ``what`` names the document in errors.

    Raises:
        ResourceExhausted: larger than 4 MiB.
        FailedPrecondition: malformed, ambiguous, of a kind that is not supported.
    """
    document = parse_object(data, what)
    if document.get("schemaVersion") != 2:
        raise _refused(what, f"schema version {str(document.get('schemaVersion'))[:20]} is not supported")
    is_index, is_manifest = "manifests" in document, "layers" in document or "config" in document
    if is_index == is_manifest or "fsLayers" in document:
        raise _refused(what, "is not clearly an image manifest or an index")
    wrong = MANIFEST_TYPES if is_index else INDEX_TYPES
    known = MANIFEST_TYPES | INDEX_TYPES
    said = get_text(document, "mediaType", what)
    if media_type in wrong or (said and (said not in known or said in wrong)):
        raise _refused(what, "its media type contradicts its content")
    return _parse_index(document, what) if is_index else _parse_image(document, what)


def _parse_index(document: Object, what: str) -> Index:
    entries = get_list(document, "manifests", what)
    if len(entries) > MAX_MANIFESTS:
        raise _refused(what, f"lists more than {MAX_MANIFESTS} manifests")
    return Index(tuple(_parse_descriptor(entry, what) for entry in entries))


def _parse_image(document: Object, what: str) -> Manifest:
    config = _parse_descriptor(document.get("config"), what)
    if config.media_type not in CONFIG_TYPES:
        raise _refused(what, f"is not a container image: its config is {config.media_type[:100]!r}")
    if config.size > MAX_CONFIG:
        raise _refused(what, f"its config is larger than {MAX_CONFIG} bytes")
    entries = get_list(document, "layers", what)
    if len(entries) > MAX_LAYERS:
        raise _refused(what, f"has more than {MAX_LAYERS} layers")
    layers = tuple(_parse_descriptor(entry, what) for entry in entries)
    for layer in layers:
        if layer.media_type not in LAYER_TYPES:
            raise _refused(what, f"layer type {layer.media_type[:100]!r} is not supported")
    return Manifest(config, layers)


def _parse_descriptor(value: Any, what: str) -> Descriptor:
    if not isinstance(value, dict):
        raise _refused(what, "a descriptor is not an object")
    digest, size = get_text(value, "digest", what), value.get("size")
    if not is_digest(digest):
        raise _refused(what, f"digest {digest[:80]!r} is not sha256: and 64 hex digits")
    if type(size) is not int or not 0 <= size <= MAX_BLOB:
        raise _refused(what, f"the size of {digest} is not a number of bytes")
    annotations = MappingProxyType(get_text_map(value, "annotations", what))
    return Descriptor(get_text(value, "mediaType", what), digest, size, _parse_platform(value, what), annotations)


def _parse_platform(descriptor: Object, what: str) -> Platform | None:
    if descriptor.get("platform") is None:
        return None
    platform = get_object(descriptor, "platform", what)
    return Platform(*(get_text(platform, key, what) for key in ("os", "architecture", "variant")))


def _refused(what: str, reason: str) -> FailedPrecondition:
    return FailedPrecondition(reason, step="read manifest", object=what)
