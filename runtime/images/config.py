"""An image's own configuration: what its containers run by default, and its layers.

``pull`` and ``archive`` verify layers against it, ``cri.plan`` merges it with the
request. Source: OCI image-spec v1.1, config.md.

Invariant: each field has its type; a wrong one refuses the image instead of being
read as something near it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

from runtime.errors import FailedPrecondition
from runtime.images.manifest import MAX_LAYERS
from runtime.images.platforms import Platform
from runtime.images.reference import is_digest
from runtime.images.strictjson import get_object, get_text, get_text_map, get_texts, parse_object


@dataclass(frozen=True, slots=True)
class ImageConfig:
    """The fields that a container takes over. ``volumes`` are destinations in the image as
    written there; ``diff_ids`` are ``sha256:<hex>`` of the uncompressed layers, bottom first."""

    platform: Platform
    env: tuple[str, ...]
    entrypoint: tuple[str, ...]
    cmd: tuple[str, ...]
    user: str
    working_dir: str
    volumes: tuple[str, ...]
    labels: Mapping[str, str]
    stop_signal: str
    diff_ids: tuple[str, ...]


def parse_config(data: bytes, what: str) -> ImageConfig:
    """Read a config document of Docker or OCI; ``what`` names the image in errors.

    Raises:
        ResourceExhausted: larger than 4 MiB.
        FailedPrecondition: a field of a wrong type, ambiguous JSON.
    """
    document = parse_object(data, what)
    settings = get_object(document, "config", what)
    env = get_texts(settings, "Env", what)
    if any(entry.startswith("=") or not entry for entry in env):
        raise _refused(what, "Env has an entry without a name")
    volumes = get_object(settings, "Volumes", what)
    if not all(isinstance(value, dict) or value is None for value in volumes.values()) or "\0" in "".join(volumes):
        raise _refused(what, "Volumes is not an object of paths")
    return ImageConfig(
        platform=Platform(*(get_text(document, key, what) for key in ("os", "architecture", "variant"))),
        env=env,
        entrypoint=get_texts(settings, "Entrypoint", what),
        cmd=get_texts(settings, "Cmd", what),
        user=get_text(settings, "User", what),
        working_dir=get_text(settings, "WorkingDir", what),
        volumes=tuple(sorted(volumes)),
        labels=get_text_map(settings, "Labels", what),
        stop_signal=get_text(settings, "StopSignal", what),
        diff_ids=_parse_diff_ids(get_object(document, "rootfs", what), what),
    )


def chain_ids(diff_ids: tuple[str, ...]) -> tuple[str, ...]:
    """The chain id of each layer on top of those before it, hex without prefix.

    Source: OCI image-spec, "Layer ChainID".
    """
    chain: list[str] = []
    for diff_id in diff_ids:
        if chain:
            joined = f"sha256:{chain[-1]} {diff_id}".encode()
            chain.append(hashlib.sha256(joined).hexdigest())
        else:
            chain.append(diff_id.removeprefix("sha256:"))
    return tuple(chain)


def _parse_diff_ids(rootfs: dict[str, object], what: str) -> tuple[str, ...]:
    if rootfs and rootfs.get("type") != "layers":
        raise _refused(what, "rootfs.type is not layers")
    diff_ids = get_texts(rootfs, "diff_ids", what)
    if len(diff_ids) > MAX_LAYERS or not all(map(is_digest, diff_ids)):
        raise _refused(what, "rootfs.diff_ids is not a list of sha256 digests")
    return diff_ids


def _refused(what: str, reason: str) -> FailedPrecondition:
    return FailedPrecondition(reason, step="read image config", object=what)
