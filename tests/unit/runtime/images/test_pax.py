"""Pax records: whole, right, or the archive is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.errors import FailedPrecondition
from runtime.images import pax
from tests.unit.runtime.images import tars


def test_records_are_read_and_the_last_one_wins() -> None:
    data = tars.records({b"path": b"a\nb=c"}) + tars.records({b"path": b"second", b"x": b""})
    assert pax.parse_records(data) == {b"path": b"second", b"x": b""}


@pytest.mark.parametrize(
    "data",
    [
        b"x",
        b" path=a\n",
        b"0 path=a\n",
        b"-1 path=a\n",
        b"3 a\n",
        b"99 path=a\n",
        b"10 path=ab\nX",
        b"8 path=a",
        b"7 path=a\n",
        b"6 a=b\n\n",
        b"5 =b\n",
        b"8 a\0b=c\n",
        b"123456789 path=a\n",
        b"\xd9\xa1 path=a\n",
        tars.records({b"GNU.sparse.major": b"1"}),
    ],
)
def test_a_malformed_record_refuses_the_archive(data: bytes) -> None:
    with pytest.raises(FailedPrecondition):
        pax.parse_records(data)


def test_names_fall_back_when_empty_and_have_no_nul() -> None:
    assert pax.get_name({b"path": b""}, b"path", b"header") == b"header"
    assert pax.get_name({b"path": b"x"}, b"path", b"header") == b"x"
    with pytest.raises(FailedPrecondition):
        pax.get_name({b"path": b"x\0y"}, b"path", b"")


def test_numbers_are_plain_decimals() -> None:
    assert pax.get_number({}, b"size", 3) == 3
    assert pax.get_number({b"size": b"007"}, b"size", 3) == 7
    for wrong in (b"-1", b"+1", b"1_0", b"0x1", b" 1", b"1.0", b"9" * 20, "１".encode()):
        with pytest.raises(FailedPrecondition):
            pax.get_number({b"size": wrong}, b"size", 3)


@pytest.mark.parametrize(
    ("text", "time"),
    [
        (b"1", 10**9),
        (b"1.5", 1_500_000_000),
        (b"1.1234567899", 1_123_456_789),
        (b"-3.5", 0),
        (b"9" * 19, 0),
        (b"1.", 10**9),
    ],
)
def test_times_are_exact_and_bounded(text: bytes, time: int) -> None:
    assert pax.get_time({b"mtime": text}, 5) == time


def test_what_is_no_time_is_refused() -> None:
    assert pax.get_time({}, 5) == 5
    for wrong in (b"x", b"1e9", b"--1", b"1.2.3", b"nan"):
        with pytest.raises(FailedPrecondition):
            pax.get_time({b"mtime": wrong}, 5)


def test_extended_attributes_are_collected_by_name() -> None:
    assert pax.get_xattrs({b"path": b"x"}) is None
    assert pax.get_xattrs({b"SCHILY.xattr.user.a": b"\0\xff"}) == {b"user.a": b"\0\xff"}
    for wrong in ({b"SCHILY.xattr.": b"x"}, {b"SCHILY.xattr." + b"n" * 256: b"x"}, {b"SCHILY.xattr.a": bytes(65537)}):
        with pytest.raises(FailedPrecondition):
            pax.get_xattrs(wrong)


@given(st.dictionaries(st.binary(min_size=1).filter(lambda k: b"=" not in k and b"\0" not in k), st.binary()))
def test_what_is_written_is_read(values: dict[bytes, bytes]) -> None:
    values = {key: value for key, value in values.items() if not key.startswith(b"GNU.sparse.")}
    assert pax.parse_records(tars.records(values)) == values


@given(st.binary(max_size=100))
def test_any_bytes_end_in_records_or_a_fault(data: bytes) -> None:
    try:
        pax.parse_records(data)
    except FailedPrecondition:
        return
