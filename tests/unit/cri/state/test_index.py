"""Records in memory: by id, by shortened id, by name."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.state.index import Index
from runtime.errors import InvalidArgument, NotFound


@dataclass(frozen=True)
class Thing:
    id: str
    name: str


def index(*things: Thing) -> Index[Thing]:
    made: Index[Thing] = Index("thing", lambda thing: thing.name)
    for thing in things:
        made.put(thing)
    return made


def test_a_record_is_found_by_id_by_prefix_and_by_name() -> None:
    things = index(Thing("abcd", "one"), Thing("abef", "two"))
    assert things.get("abcd").name == "one"
    assert things.get("abe").name == "two"
    assert things.resolve("abc") == "abcd"
    assert things.holder("two") == "abef"
    assert things.find("ab") is None
    assert len(things) == 2
    assert "abcd" in things
    assert [thing.name for thing in things.values()] == ["one", "two"]


def test_a_prefix_of_several_ids_is_refused_with_both() -> None:
    with pytest.raises(InvalidArgument, match="ambiguous: abcd, abef"):
        index(Thing("abcd", "one"), Thing("abef", "two")).get("ab")


def test_an_id_that_is_the_prefix_of_another_is_itself() -> None:
    assert index(Thing("ab", "one"), Thing("abc", "two")).get("ab").name == "one"


def test_an_empty_id_is_no_prefix_of_everything() -> None:
    with pytest.raises(InvalidArgument, match="empty"):
        index(Thing("abcd", "one")).get("")


@pytest.mark.parametrize("id", ["abce", "z", "abcde"])
def test_what_is_not_there_is_not_found(id: str) -> None:
    with pytest.raises(NotFound, match=f"thing {id}"):
        index(Thing("abcd", "one")).get(id)


def test_a_renamed_record_gives_its_old_name_back() -> None:
    things = index(Thing("a", "one"))
    things.put(Thing("a", "two"))
    assert things.holder("one") is None
    assert things.holder("two") == "a"
    assert len(things) == 1


def test_removing_twice_is_removing_once() -> None:
    things = index(Thing("a", "one"), Thing("b", "two"))
    things.remove("a")
    things.remove("a")
    assert [thing.id for thing in things] == ["b"]
    assert things.holder("one") is None


@given(st.sets(st.text("ab", min_size=1, max_size=5)), st.text("ab", min_size=1, max_size=5))
def test_a_prefix_resolves_exactly_when_one_id_has_it(ids: set[str], prefix: str) -> None:
    things = index(*(Thing(id, f"name of {id}") for id in ids))
    matches = [id for id in ids if id.startswith(prefix)]
    if prefix in ids:
        assert things.resolve(prefix) == prefix
    elif len(matches) == 1:
        assert things.resolve(prefix) == matches[0]
    else:
        with pytest.raises(InvalidArgument if matches else NotFound):
            things.resolve(prefix)


def test_walking_survives_a_removal() -> None:
    things = index(Thing("a", "one"), Thing("b", "two"))
    for thing in things:
        things.remove(thing.id)
    assert len(things) == 0
