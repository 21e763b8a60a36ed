"""The terminal's sizes, as the resize stream of a session tells them: JSON documents one after the other.

Fed by ``cri.streaming.spdy_command`` and ``channels``; read through ``CommandStreams.next_size``.

Invariant: no more than the newest size and ``DOCUMENT_LIMIT`` characters are kept; what is no
size ends the sizes, never the session.
"""

from __future__ import annotations

import asyncio
import json

from cri.streaming.session import Size

DOCUMENT_LIMIT = 1024
_MAX = 0xFFFF


class Resizes:
    def __init__(self) -> None:
        self._text = ""
        self._newest: Size | None = None
        self._over = False
        self._changed = asyncio.Event()

    def feed(self, data: bytes) -> None:
        """The next bytes of the stream."""
        if self._over:
            return
        self._text += data.decode("latin-1")
        try:
            while (text := self._text.lstrip()) and "}" in text:
                document, end = json.JSONDecoder().raw_decode(text)
                self._text = text[end:]
                self._newest = parse_size(document)
                self._changed.set()
        except (ValueError, RecursionError):
            self.end()
        if len(self._text) > DOCUMENT_LIMIT:
            self.end()

    def end(self) -> None:
        """No more sizes come; the newest one can still be read."""
        self._over = True
        self._text = ""
        self._changed.set()

    async def next_size(self) -> Size | None:
        """As ``CommandStreams.next_size``."""
        while self._newest is None and not self._over:
            self._changed.clear()
            await self._changed.wait()
        newest, self._newest = self._newest, None
        return newest


def parse_size(document: object) -> Size:
    """Raises ValueError for what is no size of a terminal."""
    if not isinstance(document, dict):
        raise ValueError("not an object")
    fields = {str(name).lower(): value for name, value in document.items()}  # as Go reads names
    width, height = fields.get("width", 0), fields.get("height", 0)
    for value in (width, height):
        if type(value) is not int or not 0 <= value <= _MAX:
            raise ValueError("not a size")
    return Size(width, height)
