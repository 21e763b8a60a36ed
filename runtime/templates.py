"""Scripts that were written before, for requests that differ in nothing but ids.

Writing the script of a container takes milliseconds, and the next container of the same
kind gets the same one but for ids: of containers, pods and execs, and the pod's name in HOSTNAME. A script is a pure
function of its request, in which an id is never more than a part of a name. So the
request is written with marks in place of ids; its script is kept, and the marks in it
become the ids again.

Invariant: what comes back is byte for byte what writing the script anew would give.
"""

from __future__ import annotations

import json
import re
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterable
from typing import Any

from runtime.linux.script import Script

KEPT = 128
"""Scripts, of some tens of kilobytes each."""

LARGEST = 256 * 1024
"""Bytes of a request that is remembered; what is larger, by its environment, is written each time."""

# Each begins with plain text or a set of characters, which is searched for several times faster than
# alternatives are tried; the group is the id.
_IDS = (
    re.compile(r'"HOSTNAME=([-.a-zA-Z0-9]{2,})(?=")'),
    re.compile(r"/kube-api-access-([a-z0-9]{5})"),
    re.compile(r'/(exec-[0-9]+)(?=[/"])'),
    re.compile(
        r"([0-9a-f]{8}(?:[0-9a-f]{56}|(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}"
        r'|(?<=/.{8})(?=")))'  # kubelet's termination logs
    ),
)
# JSON never has it: what is so in a request is written \u007f.
_MARK = "\x7f"
_MARKABLE = re.compile(r"/?[-_.a-zA-Z0-9]{2}[-_./a-zA-Z0-9]*")
_NUMBERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"


class Templates:
    """The last ``KEPT`` scripts."""

    def __init__(self) -> None:
        self._kept: OrderedDict[tuple[Hashable, str], list[bytes]] = OrderedDict()
        """In pieces: text, a mark, text, and so on."""

    def script(self, fixed: Hashable, request: Any, write: Callable[[Any], Script], names: Iterable[str] = ()) -> bytes:
        """The bytes of ``write(request)``, which is pure; ``request`` is plain JSON.

        ``fixed`` is what else the script depends on: its kind, the content of a file. ``names`` are
        taken for ids as well.

        Raises:
            Exception: what ``write`` raises.
        """
        text = json.dumps(request)
        if len(text) > LARGEST:
            return write(request).bytes()
        marked, marks = _marked(text, names)
        if marks is None:
            return write(request).bytes()
        template = self._kept.get((fixed, marked))
        if template is None:
            written = self._write(marked, write)
            if written is None:
                return write(request).bytes()
            template = _split(written, marks.values())
            self._kept[fixed, marked] = template
            if len(self._kept) > KEPT:
                self._kept.popitem(last=False)
        else:
            self._kept.move_to_end((fixed, marked))
        ids = {mark.encode(): id.encode() for id, mark in marks.items()}
        pieces = template.copy()
        pieces[1::2] = [ids[mark] for mark in template[1::2]]
        return b"".join(pieces)

    def _write(self, marked: str, write: Callable[[Any], Script]) -> bytes | None:
        """None if it is refused; the words of that are those of the request itself."""
        try:
            return write(json.loads(marked)).bytes()
        except Exception:  # noqa: BLE001 - raised again by whoever asks
            return None


def _split(written: bytes, marks: Collection[str]) -> list[bytes]:
    if not marks:
        return [written]
    return re.split(b"(%b)" % b"|".join(re.escape(mark.encode()) for mark in marks), written)


def _marked(text: str, names: Iterable[str]) -> tuple[str, dict[str, str] | None]:
    """``text`` with marks, and the marks by what they stand for; None if there can be none."""
    marks: dict[str, str] = {}

    def mark_of(id: str) -> str:
        if id not in marks:
            number = _NUMBERS[len(marks) % len(_NUMBERS)]
            # Slashes stay: how deep a path is may decide something.
            masked = "/".join([_MARK * len(part) for part in id.split("/")])
            marks[id] = masked.replace(_MARK * 2, _MARK + number, 1)
        return marks[id]

    if "\\u007f" in text:
        return text, None
    for name in names:
        if _MARKABLE.fullmatch(name):
            text = text.replace(name, mark_of(name))
    for pattern in _IDS:
        text = pattern.sub(lambda found: found[0][: -len(found[1])] + mark_of(found[1]), text)
    return text, marks if len(marks) <= len(_NUMBERS) else None
