"""Records in memory: by id, by shortened id, and by the name that they hold.

``cri.state.store`` keeps one for the sandboxes and one for the containers, as a
mirror of the tables.

Invariant: the four views always show the same records.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Callable, Iterator, ValuesView
from typing import Generic, Protocol, TypeVar

from runtime.errors import InvalidArgument, NotFound

SHOWN = 12
"""How many digits of an id a message shows."""


class Record(Protocol):
    @property
    def id(self) -> str: ...


RecordT = TypeVar("RecordT", bound=Record)


class Index(Generic[RecordT]):
    """``noun`` names the records in messages; ``key_of`` gives the unique name."""

    def __init__(self, noun: str, key_of: Callable[[RecordT], str]) -> None:
        self._noun = noun
        self._key_of = key_of
        self._by_id: dict[str, RecordT] = {}
        self._by_key: dict[str, str] = {}
        self._sorted: list[str] = []

    def __len__(self) -> int:
        return len(self._by_id)

    def __contains__(self, id: object) -> bool:
        return id in self._by_id

    def __iter__(self) -> Iterator[RecordT]:
        """A copy is walked, so that the index may change meanwhile."""
        return iter(tuple(self._by_id.values()))

    def values(self) -> ValuesView[RecordT]:
        return self._by_id.values()

    def find(self, id: str) -> RecordT | None:
        """The record with exactly this id."""
        return self._by_id.get(id)

    def get(self, id: str) -> RecordT:
        """The record with this id, which may be shortened where it is unique.

        Raises:
            NotFound: there is none.
            InvalidArgument: the id is empty or several begin with it.
        """
        found = self._by_id.get(id)
        return found if found is not None else self._by_id[self.resolve(id)]

    def resolve(self, prefix: str) -> str:
        """The full id that begins with ``prefix``; raises as ``get``."""
        if prefix in self._by_id:
            return prefix
        if not prefix:
            raise InvalidArgument(f"the {self._noun} id is empty")
        at = bisect_left(self._sorted, prefix)
        matches = [id for id in self._sorted[at : at + 2] if id.startswith(prefix)]
        if not matches:
            raise NotFound("does not exist", object=f"{self._noun} {prefix}")
        if len(matches) > 1:
            shown = ", ".join(id[: max(SHOWN, len(prefix) + 1)] for id in matches)
            raise InvalidArgument(f"the shortened id is ambiguous: {shown}", object=f"{self._noun} {prefix}")
        return matches[0]

    def holder(self, key: str) -> str | None:
        """The id of the record that holds this name."""
        return self._by_key.get(key)

    def put(self, record: RecordT) -> None:
        old = self._by_id.get(record.id)
        if old is None:
            insort(self._sorted, record.id)
        else:
            self._by_key.pop(self._key_of(old), None)
        self._by_id[record.id] = record
        self._by_key[self._key_of(record)] = record.id

    def remove(self, id: str) -> None:
        """Idempotent."""
        old = self._by_id.pop(id, None)
        if old is not None:
            del self._sorted[bisect_left(self._sorted, id)]
            self._by_key.pop(self._key_of(old), None)
