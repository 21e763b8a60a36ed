"""The checks of single values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.validate import text
from runtime.errors import FailedPrecondition, InvalidArgument, NotFound


@pytest.mark.parametrize(
    ("check", "value"),
    [
        (text.check_name, "web_1.x-y"),
        (text.check_name, "ünï"),
        (text.check_text, ""),
        (text.check_text, "a b\u00a0c"),
        (text.check_word, "ndots:5"),
        (text.check_path, "/"),
        (text.check_path, "//a/./b..c/"),
        (text.check_relative, ""),
        (text.check_relative, "a/..b"),
    ],
)
def test_a_good_value_passes(check: Callable[[str, str], None], value: str) -> None:
    check(value, "field")


@pytest.mark.parametrize(
    ("check", "value", "words"),
    [
        (text.check_name, "", "is empty"),
        (text.check_name, "a/b", "slash"),
        (text.check_name, "é" * 127, "longer than 253 bytes"),
        (text.check_text, "a\x85", "control character"),
        (text.check_text, "a\u2028", "control character"),
        (text.check_word, "", "is empty"),
        (text.check_word, "a\u00a0b", "has a blank"),
        (text.check_path, "", "is empty"),
        (text.check_path, "a", "absolute path"),
        (text.check_path, "/a/..", "'..'"),
        (text.check_path, "/a\0", "control character"),
        (text.check_path, "/" + "a" * 4096, "longer than 4095"),
        (text.check_path, "/a/" + "é" * 128 + "/b", "a name of more than 255 bytes"),
        (text.check_relative, "/a", "relative path"),
    ],
)
def test_a_bad_value_is_refused(check: Callable[[str, str], None], value: str, words: str) -> None:
    with pytest.raises(InvalidArgument) as raised:
        check(value, "field")
    assert str(raised.value).startswith("field: ")
    assert words in str(raised.value)


def test_a_range_includes_its_ends() -> None:
    text.check_range(1, "f", 1, 2)
    text.check_range(2, "f", 1, 2)
    for value in (0, 3):
        with pytest.raises(InvalidArgument, match=f"between 1 and 2, not {value}"):
            text.check_range(value, "f", 1, 2)


def test_a_choice_names_the_others() -> None:
    text.check_choice(0, "f", {0: "POD"})
    with pytest.raises(InvalidArgument, match="one of POD, NODE, not 7"):
        text.check_choice(7, "f", {0: "POD", 2: "NODE"})


def test_a_map_is_bounded_in_all() -> None:
    text.check_map({str(n): "x" * 1000 for n in range(1000)}, "f")
    with pytest.raises(InvalidArgument, match="more than"):
        text.check_map({str(n): "x" * 1000 for n in range(1100)}, "f")


def test_an_unknown_handler_is_not_found() -> None:
    text.check_handler("", "f")
    text.check_handler("crisp", "f")
    with pytest.raises(NotFound):
        text.check_handler("Crisp", "f")


def test_a_missing_feature_is_named() -> None:
    fault = text.not_yet("f", "image volumes")
    assert type(fault) is FailedPrecondition
    assert str(fault) == "f: image volumes: not supported yet"


@given(st.text(max_size=300))
def test_a_message_shows_the_beginning_only(value: str) -> None:
    assert len(text.show(value)) <= 82 * len("\\U0010ffff")
    assert text.show(value)[:2] == repr(value)[:2]


@given(st.text())
def test_a_path_that_passes_stays_below_the_root(value: str) -> None:
    try:
        text.check_path(value, "f")
    except InvalidArgument:
        return
    assert value.startswith("/") and "\0" not in value and "\n" not in value
    assert ".." not in value.split("/")
