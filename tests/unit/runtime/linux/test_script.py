"""A script is what was written, in the bytes that ``launch.c`` reads, and knows what each failure means."""

from __future__ import annotations

import errno
import re
import struct
from pathlib import Path

import pytest

from runtime.errors import HostFault, InvalidArgument, StartRefused
from runtime.linux import script as scripts
from runtime.linux.numbers import NUMBERS
from runtime.linux.script import ANY, Label, Script, load, number, offset, plus
from runtime.linux.spawn import MAGIC

LAUNCH = (Path(scripts.__file__).parent.parent / "launch.c").read_text()
PLAIN, SLOT, POINTER, LOADED = range(4)
FIRST_OF_OURS = 1000
NOWHERE = 0xFFFFFFFF


class Read:
    """A script's bytes, taken apart as ``launch.c`` does."""

    def __init__(self, script: Script) -> None:
        self.bytes = script.bytes()
        head = struct.unpack_from("=IIiiIIII", self.bytes)
        self.magic, self.size, self.born, self.failed, self.first, self.count, self.slots, self.given = head
        self.calls = [struct.unpack_from("=4I7Q", self.bytes, self.first + 72 * at) for at in range(self.count)]

    def kinds(self, call: int) -> list[int]:
        return [self.calls[call][1] >> 4 * index & 15 for index in range(6)]

    def args(self, call: int) -> list[int]:
        return list(self.calls[call][5:])

    def at(self, where: int, length: int) -> bytes:
        return self.bytes[where : where + length]


def names_of(enum: str) -> list[str]:
    found = re.search(enum, LAUNCH, re.DOTALL)
    assert found is not None
    return [name.split("=")[0].strip() for name in found[1].split(",")]


def test_the_calls_of_launch_have_its_numbers() -> None:
    listed = names_of(r"enum \{\n\t(JUMP.*?)\n\}")
    assert {name: scripts._CALLS[name] for name in listed} == {name: 1000 + n for n, name in enumerate(listed)}
    assert scripts._CALLS.keys() == {*NUMBERS, *listed}
    assert f"#define FIRST_OF_OURS {FIRST_OF_OURS}\n" in LAUNCH
    assert f"#define MAGIC {MAGIC:#x}\n" in LAUNCH


def test_the_refusals_of_launch_have_its_numbers() -> None:
    listed = names_of(r"enum \{ (LEADS_OUT.*?) \}")
    assert "LEADS_OUT = 5001" in LAUNCH
    assert [getattr(scripts, name) for name in listed] == [5001, 5002, 5003, 5004]


def test_an_empty_script_is_a_head_and_the_slots_of_what_is_given() -> None:
    read = Read(Script(["a", "b"]))
    assert (read.magic, read.size, read.born, read.failed) == (MAGIC, len(read.bytes), 0, 0)
    assert (read.count, read.given, read.first - read.slots) == (0, 3, 24)


def test_arguments_keep_their_kinds_and_values() -> None:
    script = Script(["a"])
    room = script.room(16)
    script.call("mount", 7, script.given["a"], room, load(room, 8), None, -1)
    read = Read(script)
    assert read.calls[0][0] == NUMBERS["mount"]
    assert read.kinds(0) == [PLAIN, SLOT, POINTER, LOADED, PLAIN, PLAIN]
    assert read.args(0) == [7, 1, offset(room), offset(room) + 8, 0, 0xFFFFFFFFFFFFFFFF]
    assert (read.calls[0][2], read.calls[0][3], read.calls[0][4]) == (NOWHERE, 0, 0)


@pytest.mark.parametrize("value", [0, 1, 2**31, 2**32, 2**63, 2**64 - 1, -(2**63)])
def test_a_number_is_never_taken_for_anything_else(value: int) -> None:
    script = Script()
    script.call("close", value)
    read = Read(script)
    assert (read.kinds(0)[0], read.args(0)[0]) == (PLAIN, value % 2**64)


def test_the_sixth_argument_has_a_kind_and_there_is_no_seventh() -> None:
    script = Script()
    script.call("mount", 0, 0, 0, 0, 0, script.given["report"])
    assert Read(script).kinds(0)[5] == SLOT
    script.call("mount", 0, 0, 0, 0, 0, 0, 0)
    with pytest.raises(struct.error):
        script.bytes()


def test_strings_and_bytes_end_with_a_nul_and_are_kept_once() -> None:
    script = Script()
    for content in ("text", b"text", "ünïcode\udcff", b"\0\0", "", b""):
        first = script.data(content)
        assert script.data(content) == first
        wanted = content if isinstance(content, bytes) else content.encode("utf-8", "surrogateescape")
        assert Read(script).at(offset(first), len(wanted) + 1) == wanted + b"\0"
        assert offset(first) % 8 == 0
    assert offset(script.data("a")) != 0


def test_a_string_with_a_nul_is_refused() -> None:
    script = Script()
    with pytest.raises(ValueError, match="null byte"):
        script.data("a\0b")
    script.call("chdir", "a\0b")
    with pytest.raises(ValueError, match="null byte"):
        script.bytes()


@pytest.mark.parametrize("size", [0, 1, 7, 8, 9, 4096])
def test_room_is_zero_aligned_and_nobody_elses(size: int) -> None:
    script = Script()
    before, room, after = script.data(b"\xff" * 8), script.room(size), script.data(b"\xee" * 8)
    assert offset(room) % 8 == 0
    assert offset(room) >= offset(before) + 9
    assert offset(after) >= offset(room) + size
    assert Read(script).at(offset(room), size) == bytes(size)


def test_what_is_filled_in_stays_where_it_is() -> None:
    script = Script()
    room = script.room(16)
    script.fill(plus(room, 4), b"abcd")
    assert Read(script).at(offset(room), 16) == b"\0\0\0\0abcd" + bytes(8)


def test_a_vector_is_offsets_that_are_made_addresses_and_ends_with_null() -> None:
    script = Script()
    vector = script.vector(["a", "b", "a"])
    read = Read(script)
    offsets = struct.unpack("=4Q", read.at(offset(vector), 32))
    assert [read.at(start, 2) for start in offsets[:3]] == [b"a\0", b"b\0", b"a\0"]
    assert offsets[3] == 0
    assert read.calls[0][0] == scripts._CALLS["RELOCATE"]
    assert (read.args(0)[:2], read.kinds(0)[:2]) == ([offset(vector), 3], [POINTER, PLAIN])


def test_slots_are_new_each_time_and_zero_at_first() -> None:
    script = Script(["a"])
    first, second = script.slot(), script.opened("openat", 0, "x", 0, 0)
    assert [number(slot) for slot in (script.given["report"], script.given["a"], first, second)] == [0, 1, 2, 3]
    script.set(first, 9)
    read = Read(script)
    assert read.first - read.slots == 32
    assert read.at(read.slots, 32) == bytes(32)
    assert [call[2] for call in read.calls] == [3, 2]


def test_labels_lead_forward_and_back_and_one_that_leads_nowhere_is_refused() -> None:
    script = Script()
    back, ahead, lost = Label(), Label(), Label()
    script.call("setsid", forgive=(errno.EPERM,), otherwise=ahead)
    script.here(back)
    script.jump_if(script.given["report"], 5, ahead, mask=7)
    script.jump_unless(1, -2, back)
    script.jump(ahead)
    script.here(ahead)
    read = Read(script)
    assert [call[3] for call in read.calls] == [4, 4, 1, 4]
    assert [call[0] - FIRST_OF_OURS for call in read.calls[1:]] == [1, 2, 0]
    assert read.args(1)[:3] == [0, 7, 5]
    assert read.args(2)[:3] == [1, 2**64 - 1, 2**64 - 2]
    script.jump(lost)
    with pytest.raises(ValueError, match="a label that is nowhere"):
        script.bytes()


def test_the_first_call_is_nowhere_to_go_to() -> None:
    script, first = Script(), Label()
    script.here(first)
    script.call("setsid", forgive=(errno.EPERM,), otherwise=first)
    with pytest.raises(ValueError, match="before the first call"):
        script.bytes()


def test_forgiven_errnos_are_bits() -> None:
    script = Script()
    script.call("setsid", forgive=(errno.EPERM, errno.EPERM, 63))
    script.call("setsid", forgive=ANY)
    assert [call[4] for call in Read(script).calls] == [1 << errno.EPERM | 1 << 63, 2**64 - 1]
    script.call("setsid", forgive=(errno.EOPNOTSUPP,))
    with pytest.raises(ValueError, match="setsid: only errnos below 64"):
        script.bytes()


def test_the_same_call_is_packed_the_same_in_any_script() -> None:
    def written() -> bytes:
        script = Script(["a"])
        script.call("dup3", script.given["a"], 1, 0)
        script.call("dup3", 1, 1, 0)
        return script.bytes()

    once = written()
    assert written() == once
    limit, Script._packed = Script._packed, {(n,): b"" for n in range(scripts._PACKED_LIMIT)}
    try:
        assert written() == once
        assert len(Script._packed) == 2
    finally:
        Script._packed = limit


def test_taking_the_bytes_twice_changes_nothing() -> None:
    script = Script()
    script.call("chdir", "/x")
    script.vector(["a", "b"])
    assert script.bytes() == script.bytes()


def test_an_unknown_call_is_an_error() -> None:
    script = Script()
    script.call("reboot")
    with pytest.raises(KeyError):
        script.bytes()


def test_many_descriptors_are_closed_six_at_a_time() -> None:
    script = Script([str(number) for number in range(7)])
    script.close(*(script.given[str(number)] for number in range(7)))
    script.close()
    read = Read(script)
    assert [read.kinds(call) for call in range(read.count)] == [[SLOT] * 6, [SLOT] + [PLAIN] * 5]
    assert read.args(0) + read.args(1)[:1] == [1, 2, 3, 4, 5, 6, 7]


def test_a_failure_of_the_host_has_step_object_call_and_errno() -> None:
    script = Script()
    with script.step("mount it", "/x"):
        script.call("mount")
        script.call("mount", object="/y")
    script.call("mount")
    assert str(script.fault(0, errno.EBUSY)) == "mount it: /x: mount: device or resource busy (EBUSY)"
    assert str(script.fault(1, errno.EBUSY)) == "mount it: /y: mount: device or resource busy (EBUSY)"
    assert str(script.fault(2, errno.EBUSY)) == "mount: device or resource busy (EBUSY)"
    assert isinstance(script.fault(0, errno.EBUSY), HostFault)


def test_steps_are_named_by_the_innermost_and_end() -> None:
    script = Script()
    with script.step("outer", "/o"):
        with script.step("inner"):
            script.call("setsid")
        script.call("setsid")
    assert [(script.fault(at, 1).step, script.fault(at, 1).object) for at in (0, 1)] == [("inner", ""), ("outer", "/o")]
    assert script.where == ("", "")


def test_a_fault_that_is_raised_inside_gets_the_step_and_keeps_what_it_says_itself() -> None:
    script = Script()
    with pytest.raises(StartRefused) as failed, script.step("outer", "/x"), script.step("inner"):
        raise StartRefused("no", object="/y")
    assert str(failed.value) == "inner: /y: no"
    with pytest.raises(HostFault) as host, script.step("outer", "/x"):
        raise HostFault("no", call="mount")
    assert (host.value.step, host.value.object, host.value.call) == ("outer", "/x", "mount")
    with pytest.raises(KeyError), script.step("outer"):
        raise KeyError("x")
    assert script.where == ("", "")


def test_a_refusal_is_of_the_kind_that_was_written() -> None:
    script = Script()
    refuse = {errno.ENOENT: (StartRefused, "is not there"), errno.EINVAL: (InvalidArgument, "")}
    with script.step("look"):
        script.call("chdir", "/x", object="/x", refuse=refuse)
    assert str(script.fault(0, errno.ENOENT)) == "look: /x: is not there"
    assert isinstance(script.fault(0, errno.EINVAL), InvalidArgument)
    assert str(script.fault(0, errno.EINVAL)) == "look: /x: invalid argument"
    assert isinstance(script.fault(0, errno.EIO), HostFault)


def test_an_object_that_the_message_names_is_said_once() -> None:
    script = Script()
    script.call("execve", "/x", object="/x", refuse={errno.ENOENT: (StartRefused, 'exec: "/x": no such file')})
    assert str(script.fault(0, errno.ENOENT)) == 'exec: "/x": no such file'
    assert str(script.fault(0, errno.ENOMEM)) == "/x: execve: cannot allocate memory (ENOMEM)"


def test_expectations_and_failures_have_their_own_words() -> None:
    script = Script()
    script.expect(1, 1, HostFault, "is not the overlay", "/s", mask=3)
    script.fail(StartRefused, "is a directory", errno=errno.EACCES)
    assert (script.last, Read(script).args(0)[:3]) == (1, [1, 3, 1])
    assert str(script.fault(0, scripts.UNEXPECTED)) == "/s: is not the overlay"
    assert isinstance(script.fault(1, errno.EACCES), StartRefused)


def test_what_comes_before_the_first_call_is_a_fault_of_the_host() -> None:
    fault = Script().fault(0xFFFFFFFF, errno.EINVAL)
    assert str(fault) == "start a process: launch: the script cannot be carried out: invalid argument (EINVAL)"
    assert isinstance(fault, HostFault)


def test_a_fault_is_bounded() -> None:
    script, huge = Script(), "x" * 10_000_000
    script.call("chdir", huge, object=huge, refuse={errno.ENOENT: (StartRefused, huge)})
    assert len(str(script.fault(0, errno.ENOENT))) < 10_000
    assert len(str(script.fault(0, errno.EIO))) < 10_000
