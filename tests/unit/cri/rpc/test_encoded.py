"""Lists joined from encodings: the bytes are those that protobuf would have made."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cri.rpc.encoded import EncodedList, field, varint
from proto import api_pb2 as api


class Record(msgspec.Struct, frozen=True):
    id: str
    labels: dict[str, str] = {}


def build(record: Record) -> api.Container:
    return api.Container(id=record.id, labels=record.labels)


@pytest.mark.parametrize(
    ("number", "encoded"),
    [
        (0, b"\x00"),
        (1, b"\x01"),
        (127, b"\x7f"),
        (128, b"\x80\x01"),
        (300, b"\xac\x02"),
        (0x3FFF, b"\xff\x7f"),
        (0x4000, b"\x80\x80\x01"),
        (1 << 35, b"\x80" * 5 + b"\x01"),
    ],
)
def test_a_number_is_written_in_base_128(number: int, encoded: bytes) -> None:
    assert varint(number) == encoded


def test_a_field_is_a_tag_a_length_and_the_message() -> None:
    assert field(1, api.Container(id="ab")) == b"\x0a\x04\x0a\x02ab"
    assert field(16, api.Container()) == b"\x82\x01\x00"


@given(st.lists(st.tuples(st.text(), st.dictionaries(st.text(), st.text(max_size=300), max_size=3)), max_size=5))
def test_the_joined_list_is_what_protobuf_would_write(items: list[tuple[str, dict[str, str]]]) -> None:
    records = [Record(f"{number}{id}", labels) for number, (id, labels) in enumerate(items)]
    joined = EncodedList(build).join(records)
    assert api.ListContainersResponse.FromString(joined) == api.ListContainersResponse(
        containers=[build(record) for record in records]
    )


def test_an_unchanged_record_is_encoded_once_and_a_new_one_again() -> None:
    built: list[Record] = []

    def counting(record: Record) -> api.Container:
        built.append(record)
        return build(record)

    listed, first, second = EncodedList(counting), Record("a", {"n": "1"}), Record("a", {"n": "2"})
    before = listed.join([first])
    assert listed.join([first]) == before and built == [first]
    assert listed.join([second]) != before and built == [first, second]
    listed.forget("a")
    listed.forget("a")
    listed.join([second])
    assert built == [first, second, second]


def test_the_elements_of_another_field_are_what_protobuf_would_write() -> None:
    records = [Record("a", {"n": "1"}), Record("b")]
    elements = EncodedList(build).elements(15, records)
    assert elements == b"".join(field(15, build(record)) for record in records)
    assert EncodedList(build).elements(3, []) == b""
