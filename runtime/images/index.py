"""The images by id and by every name, in memory.

``store`` changes it after the database has the change. Names are normalised
references; one name belongs to one image.

Invariant: every name of every image leads to that image, and no name to one that
is not listed.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from msgspec.structs import replace

from runtime.errors import InvalidArgument
from runtime.images.model import Image
from runtime.images.reference import parse

_HEX = re.compile(r"[0-9a-f]{1,64}", re.ASCII)
_PREFIX = "sha256:"


class ImageIndex:
    """Images of one store."""

    def __init__(self, images: Iterable[Image] = ()) -> None:
        self._images: dict[str, Image] = {}
        self._names: dict[str, str] = {}
        for image in images:
            self.put(image)

    def __len__(self) -> int:
        return len(self._images)

    def get(self, image_id: str) -> Image | None:
        """The image with this id (``sha256:<hex>``)."""
        return self._images.get(image_id)

    def all(self) -> list[Image]:
        """Every image, oldest first."""
        return sorted(self._images.values(), key=lambda image: (image.created_at, image.id))

    def put(self, image: Image) -> None:
        """Insert or replace ``image`` by id."""
        self.drop(image.id)
        self._images[image.id] = image
        for name in (*image.repo_tags, *image.repo_digests):
            self._names[name] = image.id

    def drop(self, image_id: str) -> None:
        """Forget an image. Absent is fine."""
        image = self._images.pop(image_id, None)
        if image is not None:
            for name in (*image.repo_tags, *image.repo_digests):
                if self._names.get(name) == image_id:
                    del self._names[name]

    def resolve(self, text: str) -> Image | None:
        """The image that ``text`` means: an id, a reference, a digest, or the beginning of one id.

        As with the peers a name goes before the beginning of an id, and ``sha256:<hex>`` is
        an image id first, then a manifest's digest.

        Raises:
            InvalidArgument: it is nothing of that, or the beginning of several ids.
        """
        if (found := self._images.get(text) or self._images.get(_PREFIX + text)) is not None:
            return found
        is_hex = _HEX.fullmatch(text.removeprefix(_PREFIX)) is not None
        if not (is_hex and (text.startswith(_PREFIX) or len(text) == 64)):
            named = self._names.get(str(parse(text)))
            if named is not None or not is_hex:
                return self._images[named] if named is not None else None
        return self._resolve_digits(text, _PREFIX + text.removeprefix(_PREFIX))

    def _resolve_digits(self, text: str, prefix: str) -> Image | None:
        found = {image.id for image in self._images.values() if image.id.startswith(prefix)}
        if not found and len(prefix) == len(_PREFIX) + 64:
            found = {image_id for name, image_id in self._names.items() if name.endswith("@" + prefix)}
        if len(found) > 1:
            raise InvalidArgument("several images begin like that", step="find image", object=text)
        return self._images[found.pop()] if found else None

    def plan_add(self, image: Image) -> list[Image]:
        """The records that change when ``image`` is added: itself, joined with what is known
        of it, first, then those that lose a tag to it. Digests are content: they do not move."""
        changed = [image]
        known = self._images.get(image.id)
        if known is not None:
            changed[0] = replace(
                image,
                repo_tags=_union(known.repo_tags, image.repo_tags),
                repo_digests=_union(known.repo_digests, image.repo_digests),
                pinned=known.pinned or image.pinned,
                created_at=known.created_at,
            )
        taken = {*image.repo_tags, *image.repo_digests}
        for other in self._images.values():
            if other.id != image.id and not taken.isdisjoint((*other.repo_tags, *other.repo_digests)):
                tags = tuple(tag for tag in other.repo_tags if tag not in taken)
                digests = tuple(digest for digest in other.repo_digests if digest not in taken)
                changed.append(replace(other, repo_tags=tags, repo_digests=digests))
        return changed


def _union(first: tuple[str, ...], second: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys((*first, *second)))
