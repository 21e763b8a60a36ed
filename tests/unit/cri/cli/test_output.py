"""Tables for people, JSON for programs, and nothing that a terminal would act upon."""

from __future__ import annotations

import io
import json

import pytest

from cri.cli.output import clean, print_json, print_table, render_table, short, size


def test_columns_are_aligned_and_the_last_is_not_padded() -> None:
    assert render_table(("A", "LONG"), [("first", "x"), ("2", "yy")]) == "A      LONG\nfirst  x\n2      yy"


def test_an_empty_table_has_its_header() -> None:
    assert render_table(("A", "B"), []) == "A  B"


def test_a_name_cannot_clear_the_screen() -> None:
    assert clean("a\x1b[2Jb\n\u202e") == "a\ufffd[2Jb\ufffd\ufffd"
    stream = io.StringIO()
    print_table(("NAME",), [("a\x1b[2J",)], stream)
    assert "\x1b" not in stream.getvalue()


def test_json_is_one_document() -> None:
    stream = io.StringIO()
    print_json({"a": ["ä"]}, stream)
    assert json.loads(stream.getvalue()) == {"a": ["ä"]}


@pytest.mark.parametrize(
    ("number", "words"),
    [(0, "0 B"), (999, "999 B"), (1234, "1.23 kB"), (5_600_000, "5.6 MB"), (3 * 10**15, "3 PB")],
)
def test_a_size_has_the_unit_that_fits(number: int, words: str) -> None:
    assert size(number) == words


def test_a_short_id_has_no_algorithm() -> None:
    assert short("sha256:" + "ab" * 32) == "ababababababa"
