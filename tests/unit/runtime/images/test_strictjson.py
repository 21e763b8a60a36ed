"""JSON with one meaning, or none."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import FailedPrecondition, Fault, ResourceExhausted
from runtime.images import strictjson


@pytest.mark.parametrize(
    "data",
    [
        b'{"a": 1, "a": 2}',
        b'{"x": {"a": 1, "a": 1}}',
        b'{"a": NaN}',
        b'{"a": Infinity}',
        b'{"a": 1e999}',
        b'{"a": 12345678901234567890123}',
        b'{"a": "\\ud800"}',
        b'{"\\udc00": [1]}',
        b"[" * 65 + b"]" * 65,
        b"[" * 100_000,
        b'{"a": ' * 2000 + b"1" + b"}" * 2000,
        b'{"a": "\xff"}',
        b"{",
        b"",
        b"{} {}",
        b"\xef\xbb\xbf{}",
    ],
)
def test_what_two_parsers_could_read_differently_is_refused(data: bytes) -> None:
    with pytest.raises(FailedPrecondition):
        strictjson.parse(data, "test")


def test_an_oversized_document_is_a_matter_of_resources() -> None:
    with pytest.raises(ResourceExhausted):
        strictjson.parse(b" " * (strictjson.MAX_BYTES + 1), "test")
    with pytest.raises(ResourceExhausted):
        strictjson.parse(b"[1, 2]", "test", limit=5)


def test_only_an_object_is_an_object() -> None:
    assert strictjson.parse_object(b'{"a": [1.5, "\\ud83d\\ude00", "[[{{"]}', "test") == {"a": [1.5, "😀", "[[{{"]}
    with pytest.raises(FailedPrecondition, match="not a JSON object"):
        strictjson.parse_object(b"[]", "test")


def test_brackets_in_strings_are_no_depth() -> None:
    assert strictjson.parse(json.dumps(["[" * 200, '\\"[']).encode(), "test") == ["[" * 200, '\\"[']


@pytest.mark.parametrize(
    ("getter", "right", "empty"),
    [
        (strictjson.get_object, {"k": 1}, {}),
        (strictjson.get_list, [1], []),
        (strictjson.get_text, "t", ""),
        (strictjson.get_texts, ["t"], ()),
        (strictjson.get_text_map, {"k": "v"}, {}),
    ],
)
def test_a_field_has_its_type(getter: Any, right: Any, empty: Any) -> None:
    found = getter({"f": right}, "f", "test")
    assert (list(found) if isinstance(found, tuple) else found) == right
    assert getter({}, "f", "test") == empty
    assert getter({"f": None}, "f", "test") == empty
    with pytest.raises(FailedPrecondition, match="f is not"):
        getter({"f": 7}, "f", "test")


@pytest.mark.parametrize("wrong", [["a", 1], ["a\0"], "x"])
def test_a_list_of_texts_holds_texts_only(wrong: Any) -> None:
    with pytest.raises(FailedPrecondition):
        strictjson.get_texts({"f": wrong}, "f", "test")


def test_a_text_has_no_nul_and_a_map_no_numbers() -> None:
    with pytest.raises(FailedPrecondition):
        strictjson.get_text({"f": "a\0b"}, "f", "test")
    with pytest.raises(FailedPrecondition):
        strictjson.get_text_map({"f": {"a": 1}}, "f", "test")


@given(st.binary(max_size=200))
def test_any_bytes_end_in_a_value_or_a_fault(data: bytes) -> None:
    try:
        strictjson.parse(data, "test")
    except Fault:
        return


_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**62), 2**62) | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=20,
)


@given(_values)
def test_what_is_unambiguous_is_read_as_it_was_written(value: Any) -> None:
    data = json.dumps(value)
    data.encode("utf-8", "strict")
    assert strictjson.parse(data.encode(), "test") == value
