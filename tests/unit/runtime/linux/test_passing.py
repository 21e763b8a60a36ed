"""Descriptors go from one process to another whole and in order, and room for them is there."""

from __future__ import annotations

import struct

import pytest

from runtime.linux import script as scripts
from runtime.linux.passing import hand_over, take_over
from runtime.linux.script import Label, Script
from tests.unit.runtime.linux.test_script import Read


def test_a_number_goes_along_with_what_is_handed_over() -> None:
    script = Script()
    hand_over(script, b"word:", [script.given["report"]], script.given["report"])
    read = Read(script)
    stored = [read.args(call) for call in range(read.count) if read.calls[call][0] == scripts._CALLS["STORE"]]
    header = struct.unpack("=7Q", read.at(read.args(read.count - 1)[1], 56))
    word, size = struct.unpack("=2Q", read.at(header[2], 16))
    assert (read.at(word, 5), size, stored[0][0]) == (b"word:", 13, word + 5)


@pytest.mark.parametrize("count", [0, 1, 2, 3, 7])
def test_handing_over_stays_in_its_room(count: int) -> None:
    script = Script([str(number) for number in range(count)])
    before = len(script._data)
    hand_over(script, b"w", [script.given[str(number)] for number in range(count)])
    read = Read(script)
    *stores, sent = [call for call in range(read.count) if read.calls[call][0] != scripts._CALLS["RELOCATE"]]
    header = struct.unpack("=7Q", read.at(read.args(sent)[1], 56))
    assert header[3] == 1  # one piece
    assert header[5] == 16 + (count + 1) // 2 * 8
    assert struct.unpack("=Qii", read.at(header[4], 16)) == (16 + 4 * count, 1, 1)
    places = [read.args(call)[0] for call in stores]
    assert places == [header[4] + 16 + 4 * index for index in range(count)]
    # Eight bytes are written for each, and the room for the rights is the last but for the word.
    assert all(before <= place and place + 8 <= read.slots for place in places)
    word = struct.unpack("=2Q", read.at(header[2], 16))
    assert (read.at(word[0], 2), word[1]) == (b"w\0", 1)
    assert max(places, default=0) + 8 <= header[4] + 16 + 4 * count + 8


@pytest.mark.parametrize("count", [1, 2, 3])
def test_taking_over_has_room_for_as_many_and_asks_for_them_all(count: int) -> None:
    script, ended = Script(["socket"]), Label()
    taken = take_over(script, script.given["socket"], count, ended)
    script.here(ended)
    script.call("exit_group", 0)
    read = Read(script)

    def calls(name: str) -> list[int]:
        return [call for call in range(read.count) if read.calls[call][0] == scripts._CALLS[name]]

    (received,) = calls("recvmsg")
    header = struct.unpack("=7Q", read.at(read.args(received)[1], 56))
    assert struct.unpack("=2Q", read.at(header[2], 16))[1] == 1  # a word of one byte
    assert header[5] == 16 + (count + 1) // 2 * 8
    assert len(taken) == len(set(taken)) == count
    (expected,) = calls("EXPECT")
    assert read.args(expected)[2] == 16 + 4 * count
    assert calls("IF_SAME"), "the end of the other side has to lead somewhere"
