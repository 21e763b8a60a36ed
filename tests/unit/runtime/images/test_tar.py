"""The tar reader: what layers use is read, all else is refused, nothing hangs."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Callable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.errors import FailedPrecondition, Fault, ResourceExhausted
from runtime.images.tar import MAX_EXTENSION, Entry, TarReader, parse_number
from tests.unit.runtime.images import tars


def pulls(data: bytes, chunk: int = 700) -> Callable[[], bytes]:
    pieces = iter([data[at : at + chunk] for at in range(0, len(data), chunk)])
    return lambda: next(pieces, b"")


def read(data: bytes, chunk: int = 700, headers: int = 1000) -> list[tuple[Entry, bytes]]:
    reader = TarReader(pulls(data, chunk), headers)
    found = []
    while (entry := reader.next_entry()) is not None:
        content = b""
        while part := reader.read_data():
            content += bytes(part)
        found.append((entry, content))
    reader.drain()
    return found


def only(data: bytes) -> Entry:
    [(entry, _)] = read(data)
    return entry


def test_a_file_has_its_data_and_attributes() -> None:
    [(entry, content)] = read(tars.archive(tars.entry(b"a/b", b"x" * 1500, mode=0o4755, uid=7, gid=8, mtime=9)))
    assert content == b"x" * 1500
    assert (entry.kind, entry.name, entry.mode, entry.uid, entry.gid) == (b"0", b"a/b", 0o4755, 7, 8)
    assert (entry.size, entry.mtime) == (1500, 9_000_000_000)


def test_unread_data_is_passed_over() -> None:
    reader = TarReader(pulls(tars.archive(tars.entry(b"a", b"x" * 5000), tars.entry(b"b", b"y"))), 10)
    names = []
    while (entry := reader.next_entry()) is not None:
        names.append(entry.name)
        bytes(reader.read_data())
    assert names == [b"a", b"b"]
    assert bytes(reader.read_data()) == b""


def test_every_kind_is_told() -> None:
    data = tars.archive(
        tars.directory(b"d/"),
        tars.symlink(b"s", b"target"),
        tars.hardlink(b"h", b"d/x"),
        tars.entry(b"c", kind=b"3", device=(1, 3)),
        tars.entry(b"b", kind=b"4", device=(8, 0)),
        tars.entry(b"f", kind=b"6"),
        tars.entry(b"old", b"z", kind=b"\0"),
        tars.entry(b"contiguous", b"z", kind=b"7"),
        tars.entry(b"olddir/", kind=b"\0"),
    )
    entries = [entry for entry, _ in read(data)]
    assert [entry.kind for entry in entries] == [b"5", b"2", b"1", b"3", b"4", b"6", b"0", b"0", b"5"]
    assert (entries[1].link, entries[2].link) == (b"target", b"d/x")
    assert (entries[3].major, entries[3].minor) == (1, 3)


def test_long_names_of_all_three_ways_are_joined() -> None:
    long = b"n" * 90 + b"/" + b"m" * 200
    assert only(tars.archive(tars.entry(b"name", prefix=b"some/prefix"))).name == b"some/prefix/name"
    assert only(tars.archive(tars.long_name(long), tars.entry(b"x"))).name == long
    assert only(tars.archive(tars.long_name(long, b"K"), tars.symlink(b"x", b"y"))).link == long
    entry = only(tars.archive(tars.pax({b"path": long, b"linkpath": long}), tars.symlink(b"x", b"y")))
    assert (entry.name, entry.link) == (long, long)
    assert only(tars.archive(tars.entry(b"name", prefix=b"p", magic=b"ustar  \0"))).name == b"name"


def test_pax_overrides_what_the_header_says() -> None:
    values = {b"size": b"3", b"uid": b"4000000000", b"gid": b"5", b"mtime": b"1.25", b"SCHILY.xattr.user.a": b"b"}
    [(entry, content)] = read(tars.archive(tars.pax(values), tars.entry(b"x", size=0) + tars.padded(b"abc")))
    assert content == b"abc"
    assert (entry.uid, entry.gid, entry.mtime, entry.xattrs) == (4000000000, 5, 1_250_000_000, {b"user.a": b"b"})


def test_a_global_header_is_ignored_unless_it_overrides() -> None:
    assert only(tars.archive(tars.pax({b"comment": b"c"}, b"g"), tars.entry(b"x"))).name == b"x"
    for key in (b"path", b"linkpath", b"size"):
        with pytest.raises(FailedPrecondition, match="global"):
            read(tars.archive(tars.pax({key: b"1"}, b"g"), tars.entry(b"x")))


def test_links_and_directories_have_no_data() -> None:
    data = tars.archive(
        tars.entry(b"d", kind=b"5", size=512), tars.entry(b"l", kind=b"1", link=b"d", size=99), tars.entry(b"x")
    )
    assert [entry.size for entry, _ in read(data)] == [0, 0, 0]


def test_base_256_numbers_are_read() -> None:
    big = b"\x80" + (10**10).to_bytes(11, "big")
    entry = only(tars.archive(tars.entry(b"x", uid=b"\x80\0\0\0\0\0\0\7", mtime=big)))
    assert (entry.uid, entry.mtime) == (7, 0)  # that far in the future no file can be
    assert parse_number(b"\xff" * 12, "x") == -1
    assert parse_number(b"\x80" + bytes(10) + b"\5", "x") == 5


@pytest.mark.parametrize(
    "data",
    [
        tars.entry(b"x", size=b"\xff" * 12),
        tars.entry(b"x", size=b"\x80" + b"\x7f" + b"\xff" * 10),
        tars.entry(b"x", uid=b"\xff" * 8),
        tars.entry(b"x", uid=b"\x80\0\0\0\xff\xff\xff\xff"),
        tars.entry(b"x", size=b"+7"),
        tars.entry(b"x", size=b"-7"),
        tars.entry(b"x", size=b"0o7"),
        tars.entry(b"x", size=b"1_0"),
        tars.entry(b"x", size=b"9"),
        tars.entry(b"x", kind=b"S"),
        tars.entry(b"x", kind=b"V"),
        tars.entry(b"x/", b"data"),
        tars.entry(b"x", kind=b"x", size=MAX_EXTENSION + 1),
        tars.entry(b"x", kind=b"L", size=b"\xff" * 12),
        tars.pax({b"size": b"-1"}) + tars.entry(b"x"),
        tars.pax({b"path": b"a"}) + tars.pax({b"path": b"b"}) + tars.entry(b"x"),
        tars.long_name(b"a") + tars.long_name(b"b") + tars.entry(b"x"),
        tars.pax({b"path": b"a"}),
        bytes(511) + b"x" + bytes(512),
        bytes(512) + b"x" * 512,
        tars.entry(b"x")[:148] + b"0000000\0" + tars.entry(b"x")[156:],
        b"x" * 512,
    ],
)
def test_a_malformed_archive_is_refused(data: bytes) -> None:
    with pytest.raises(FailedPrecondition):
        read(data + tars.END)


def test_a_truncated_archive_is_refused() -> None:
    data = tars.entry(b"x", b"y" * 600)
    for cut in (1, 511, 513, 1000, 1500):
        with pytest.raises(FailedPrecondition, match="too early"):
            read(data[:cut])
    reader = TarReader(pulls(data[:600]), 10)
    reader.next_entry()
    with pytest.raises(FailedPrecondition):
        reader.next_entry()


def test_an_end_at_an_entry_is_an_end() -> None:
    assert read(b"") == []
    assert read(bytes(512)) == []
    assert len(read(tars.entry(b"x", b"y"))) == 1
    assert len(read(tars.archive(tars.entry(b"x")) + b"trailing" * 9)) == 1


def test_headers_are_counted() -> None:
    data = tars.archive(*[tars.pax({b"comment": b"c"}, b"g") + tars.entry(b"x")] * 5)
    assert len(read(data, headers=10)) == 5
    with pytest.raises(ResourceExhausted):
        read(data, headers=9)


def test_a_loop_of_extensions_ends() -> None:
    def endless() -> Iterator[bytes]:
        while True:
            yield tars.pax({b"comment": b"c"}, b"g")

    blocks = endless()
    with pytest.raises(Fault):
        TarReader(lambda: next(blocks), 1000).next_entry()


@given(st.binary(max_size=3000), st.integers(1, 800))
def test_any_bytes_end_in_entries_or_a_fault(data: bytes, chunk: int) -> None:
    try:
        read(data, chunk)
    except Fault:
        return


@given(st.data())
@settings(max_examples=200)
def test_a_damaged_archive_ends_in_entries_or_a_fault(data: st.DataObject) -> None:
    whole = bytearray(
        tars.archive(
            tars.pax({b"path": b"p" * 200, b"SCHILY.xattr.user.x": b"y"}),
            tars.entry(b"a", b"x" * 700),
            tars.long_name(b"q" * 300),
            tars.symlink(b"s", b"t"),
            tars.directory(b"d"),
        )
    )
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
        header = at - at % 512
        block = whole[header : header + 512]
        if data.draw(st.booleans()):  # with a right checksum the damage gets further
            block[148:156] = b" " * 8
            whole[header + 148 : header + 156] = b"%06o\0 " % (sum(block) & 0o777777)
    try:
        read(bytes(whole), data.draw(st.integers(1, 2000)))
    except Fault:
        return


_names = st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1, max_size=120)


@given(st.lists(st.tuples(_names, st.binary(max_size=1200)), max_size=6), st.sampled_from([0, 1, 2]))
@settings(max_examples=100)
def test_what_python_writes_is_read(members: list[tuple[str, bytes]], form: int) -> None:
    members = [(name, data) for name, data in members if form or len(name.encode()) <= 100]
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=form) as archive:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    found = [(entry.name.decode(), data) for entry, data in read(buffer.getvalue())]
    assert found == members
