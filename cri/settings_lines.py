"""Where in the text of a settings file a key or an entry of a list is.

``tomllib`` keeps no positions, hence these scans; ``cri.settings_file`` puts the lines into its errors.

Invariant: pure; any text has a line, the first one if nothing better is known.
"""

from __future__ import annotations

import re


def find_line(text: str, path: tuple[str, ...]) -> int:
    """The line (from 1) where ``text`` sets the key ``path``, else where its table begins, else 1.

    Tables, bare, quoted and dotted keys are known; strings over several lines are stepped over.
    """
    table: tuple[str, ...] = ()
    best, best_length, fence = 1, 0, ""
    for number, line in enumerate(text.splitlines(), 1):
        if fence:
            fence = "" if line.count(fence) % 2 else fence
            continue
        if header := HEADER.match(line):
            place = table = _split_key(header[1])
        elif key := KEY.match(line):
            place = table + _split_key(key[1])
            fence = next((mark for mark in ('"""', "'''") if line.count(mark) % 2), "")
        else:
            continue
        if place == path[: len(place)] and len(place) > best_length:
            best, best_length = number, len(place)
    return best


def find_entry(text: str, path: tuple[str, ...], number: int) -> int:
    """The line of the entry ``number`` (from 0) of the list of tables ``path``, in either way of writing one."""
    lines = text.splitlines()
    matches = ((at, ARRAY.match(line)) for at, line in enumerate(lines, 1))
    headers = [at for at, header in matches if header and _split_key(header[1]) == path]
    if headers:
        return headers[min(number, len(headers) - 1)]
    begin = find_line(text, path)
    opened = -1
    for at, line in enumerate(lines[begin - 1 :], begin):
        for mark in MARK.findall(line):
            opened += mark == "{"
            if opened == number:
                return at
    return begin


_PART = r"""(?:[A-Za-z0-9_-]+|"[^"]*"|'[^']*')"""
_DOTTED = rf"{_PART}(?:\s*\.\s*{_PART})*"
KEY = re.compile(rf"\s*({_DOTTED})\s*=")
HEADER = re.compile(rf"\s*\[\[?\s*({_DOTTED})\s*\]")
ARRAY = re.compile(rf"\s*\[\[\s*({_DOTTED})\s*\]\]")
MARK = re.compile(r"""\"[^"]*"|'[^']*'|#.*|\{""")
"""What may have a brace in it that opens no table, and those that do."""


def _split_key(key: str) -> tuple[str, ...]:
    return tuple(part.strip("\"'") for part in re.findall(_PART, key))
