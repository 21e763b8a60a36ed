"""What the command line prints: aligned tables for people, JSON for programs.

Every subcommand builds rows or plain values and hands them here.

Invariant: nothing from outside (names, labels, messages) reaches a terminal with
its control characters; JSON output is one document on stdout and nothing else.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from typing import Any, TextIO

UNITS = ("B", "kB", "MB", "GB", "TB", "PB", "EB")
SHORT = 13
"""Digits of an id in a table, as crictl shows them."""


def clean(text: str) -> str:
    """``text`` without what a terminal would act upon."""
    return "".join(letter if letter.isprintable() else "\ufffd" for letter in text)


def render_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns two blanks apart; the last one is not padded."""
    lines = [tuple(header), *(tuple(clean(cell) for cell in row) for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in lines
    )


def print_table(header: Sequence[str], rows: Iterable[Sequence[str]], stream: TextIO | None = None) -> None:
    print(render_table(header, rows), file=stream or sys.stdout)


def print_json(value: Any, stream: TextIO | None = None) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False), file=stream or sys.stdout)


def size(number: int) -> str:
    """Bytes in the largest decimal unit that leaves at least 1."""
    value, unit = float(number), 0
    while value >= 1000 and unit < len(UNITS) - 1:
        value, unit = value / 1000, unit + 1
    return f"{number} B" if unit == 0 else f"{value:.3g} {UNITS[unit]}"


def short(id: str) -> str:
    """The beginning of an id, without its ``sha256:``."""
    return id.removeprefix("sha256:")[:SHORT]
