"""Paths inside a container."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.plan.paths import clean, depth, is_below


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [("/", "/"), ("", "/"), ("a", "/a"), ("//a//b/", "/a/b"), ("/../../etc", "/etc"), ("/a/./../b", "/b")],
)
def test_a_path_is_read_from_the_root(path: str, cleaned: str) -> None:
    assert clean(path) == cleaned


def test_below_means_strictly_inside() -> None:
    assert is_below("/a/b", "/a")
    assert is_below("/a", "/")
    assert not is_below("/a", "/a")
    assert not is_below("/ab", "/a")
    assert not is_below("/", "/")


def test_depth_counts_the_parts() -> None:
    assert [depth(path) for path in ("/", "/a", "/a/b")] == [0, 1, 2]


@given(st.text(alphabet="/.ab"))
def test_a_cleaned_path_cannot_climb(path: str) -> None:
    cleaned = clean(path)
    assert cleaned.startswith("/") and "//" not in cleaned
    assert not {".", ".."} & set(cleaned.split("/"))
    assert clean(cleaned) == cleaned
