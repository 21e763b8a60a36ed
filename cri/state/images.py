"""The image records in the state database: ``runtime.images.model.Records``.

``runtime.images.store`` decides which images there are; this remembers.

Invariant: what was saved survives a power cut, for images outlive a boot.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

import msgspec

from cri.state.database import Database
from cri.state.rows import quarantine
from runtime.images.model import Image

PUT = "INSERT INTO images (id, record) VALUES (?, ?) ON CONFLICT (id) DO UPDATE SET record = excluded.record"
IMAGE = msgspec.json.Decoder(Image)


class ImageTable:
    """Implements the Protocol."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def load_images(self) -> Sequence[Image]:
        """Every image whose record can be decoded; the rest goes to quarantine."""
        return await self._database.run(load)

    async def save_images(self, put: Sequence[Image], remove: Sequence[str], then: Callable[[], None]) -> None:
        """Insert or replace ``put`` by id and delete the ids in ``remove``; ``then`` as in the Protocol.

        Raises:
            ResourceExhausted: the disk is full; removing alone still works.
        """
        rows = [(image.id, msgspec.json.encode(image)) for image in put]

        def write(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM images WHERE id = ?", [(id,) for id in remove])
            connection.executemany(PUT, rows)

        await self._database.run(write, then=lambda _: then(), durable=True, urgent=not put, begins=bool(put))


def load(connection: sqlite3.Connection) -> list[Image]:
    images = []
    for id, blob in connection.execute("SELECT id, record FROM images").fetchall():
        try:
            images.append(IMAGE.decode(blob))
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            quarantine(connection, "images", "id", id, blob, str(error))
    return images
