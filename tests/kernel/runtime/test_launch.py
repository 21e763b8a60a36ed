"""The program ``launch`` does what each call of a script says, to the byte, and says where it has failed."""

from __future__ import annotations

import errno
import os
import re
import signal
import socket
import struct
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from runtime import channel
from runtime.errors import Fault, HostFault, StartRefused
from runtime.identity import Filter, load_seccomp
from runtime.linux.libc import AT_FDCWD
from runtime.linux.passing import hand_over
from runtime.linux.script import ANY, UNEXPECTED, Argument, Label, Loaded, Script, Slot, load, number, offset, plus
from runtime.linux.spawn import MAGIC, spawn
from runtime.program import LAUNCH, open_program
from tests.kernel.runtime.forked import in_child
from tests.kernel.runtime.launched import carried_out, launch, needs_launch
from tests.kernel.runtime.observed import end, fields, stopped, values

pytestmark = needs_launch

UNREAD = 0xFFFFFFFF
REFUSED = (StartRefused, "refused")


def answer(content: bytes, given: int = 0) -> tuple[bytes, int]:
    """The report, and the exit code, of what carries out ``content`` with so many descriptors of the null device."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    program, memfd, null = open_program(LAUNCH), os.memfd_create("script"), os.open("/dev/null", os.O_RDWR)
    with ours, theirs:
        os.write(memfd, content)
        try:
            pid = spawn(program, memfd, theirs.fileno(), [null] * given)
        finally:
            channel.close_all([program, memfd, null])
        theirs.close()
        packet = ours.recv(4096)
        _, status = os.waitpid(pid, 0)
    return packet, os.waitstatus_to_exitcode(status)


def packet(at: int, number: int) -> bytes:
    return struct.pack("=IIi", MAGIC, at, number)


# ------------------------------------------------------------------ the way through a script


def path_taken(write: Callable[[Script, Label], None]) -> int:
    """1 if the script went on at the label."""

    def written(script: Script) -> list[Slot]:
        taken, label, over = script.slot(), Label(), Label()
        write(script, label)
        script.jump(over)
        script.here(label)
        script.set(taken, 1)
        script.here(over)
        return [taken]

    return values(written)[0]


def test_a_jump_goes_to_its_label() -> None:
    assert path_taken(lambda script, label: script.jump(label)) == 1
    assert path_taken(lambda script, label: None) == 0


@pytest.mark.parametrize(
    ("value", "equals", "mask", "same"),
    [
        (5, 5, 2**64 - 1, True),
        (5, 4, 2**64 - 1, False),
        (-2, -2, 2**64 - 1, True),
        (0x1FF, 0xFF, 0xFF, True),
        (0x1FF, 0x1FF, 0xFF, False),
        (2**63, 2**63, 2**64 - 1, True),
        (2**32, 0, 2**64 - 1, False),
        (2**32, 0, 2**32 - 1, True),
        (7, 0, 0, True),
    ],
)
def test_conditions_compare_under_their_mask(value: int, equals: int, mask: int, same: bool) -> None:
    assert path_taken(lambda script, label: script.jump_if(value, equals, label, mask)) == int(same)
    assert path_taken(lambda script, label: script.jump_unless(value, equals, label, mask)) == int(not same)

    def expecting(script: Script) -> None:
        script.expect(value, equals, *REFUSED, object="/x", mask=mask)

    if same:
        carried_out(expecting)
    else:
        with pytest.raises(StartRefused, match=r"^/x: refused$"):
            carried_out(expecting)


def test_a_script_may_go_back() -> None:
    def write(script: Script) -> list[Slot]:
        tries, again, done = script.slot(), Label(), Label()
        script.call("getcwd", script.room(64), 64)
        script.here(again)
        script.jump_unless(tries, 0, done)
        script.set(tries, 3)
        script.jump(again)
        script.here(done)
        return [tries]

    assert values(write) == [3]


def test_a_script_that_ends_ends_the_process() -> None:
    assert end(Script()) == 0
    script = Script()
    script.call("exit_group", 3)
    assert end(script) == 3


# ------------------------------------------------------------------ data


def test_a_slot_holds_what_is_set_and_what_a_call_returned() -> None:
    def write(script: Script) -> list[Slot]:
        untouched, copied, opened = script.slot(), script.slot(), script.opened("openat", AT_FDCWD, "/", 0, 0)
        script.set(copied, -7)
        script.call("getcwd", script.room(64), 64, to=untouched)
        return [untouched, copied, opened]

    length, copied, opened = values(write)
    assert (length, copied) == (len(os.getcwd()) + 1, -7)
    assert opened > 2


def test_eight_bytes_are_stored_and_loaded_at_any_address() -> None:
    def write(script: Script) -> list[Loaded]:
        room = script.room(24)
        script.fill(room, b"\xee" * 24)
        script.store(plus(room, 5), 0x0807060504030201)
        return [load(room), load(room, 5), load(room, 8), load(room, 16)]

    packed = b"\xee" * 5 + bytes(range(1, 9)) + b"\xee" * 11
    assert values(write) == [struct.unpack_from("=q", packed, at)[0] for at in (0, 5, 8, 16)]


def test_what_is_loaded_is_what_is_there_when_the_call_is_made() -> None:
    def write(script: Script) -> list[Slot]:
        room, before, after = script.room(8), script.slot(), script.slot()
        script.set(before, load(room))
        script.store(room, 5)
        script.set(after, load(room))
        return [before, after]

    assert values(write) == [0, 5]


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_exactly_the_words_that_are_listed_become_addresses(count: int) -> None:
    def write(script: Script) -> list[Argument]:
        room = script.room(32)
        script.fill(room, struct.pack("=4Q", 16, 0, 24, 32))
        script.relocate(room, count)
        return [*(load(room, 8 * index) for index in range(4)), plus(room, -offset(room) + 16)]

    *words, base = values(write)
    base -= 16
    wanted = [16 + base, 0, 24 + base, 32]
    assert words == wanted[:count] + [16, 0, 24, 32][count:]


def test_a_vector_reaches_the_program() -> None:
    reads, writes = os.pipe()
    script = Script(["out"])
    script.call("dup3", script.given["out"], 1, 0)
    script.call("execve", "/usr/bin/env", script.vector(["env", "printf", "%s|", "a", "", "a", "é"]), script.vector([]))
    try:
        pid, report = launch(script, [writes])
        os.close(writes)
        assert report.recv(100) == b""
        report.close()
        os.waitpid(pid, 0)
        assert os.read(reads, 100).decode() == "a||a|é|"
    finally:
        os.close(reads)


class Composed:
    """What COMPOSE made of ``template`` in ``room`` bytes: its result, the text, and what lies behind the room."""

    def __init__(self, template: str | bytes, room: int, *slots: int) -> None:
        guard = b"\xa5" * 32

        def write(script: Script) -> Sequence[Argument]:
            made = [script.slot() for _ in slots]
            for slot, value in zip(made, slots, strict=True):
                script.set(slot, value)
            text = template if isinstance(template, bytes) else template.format(*map(number, made)).encode()
            into, result = script.room(room + 32), script.slot()
            script.fill(into, b"\xcc" * room + guard)
            script.call("COMPOSE", into, room, text, to=result, forgive=(errno.E2BIG,))
            return [result, *(load(into, at) for at in range(0, room + 32, 8))]

        self.result, *words = values(write)
        packed = struct.pack(f"={len(words)}q", *words)
        self.text = packed[:room].split(b"\0")[0].decode(errors="replace") if self.result == 0 else ""
        self.intact = packed[room : room + 32] == guard


def test_numbers_of_slots_are_composed_in_decimal() -> None:
    made = Composed("a=\1{0};,b=\1{1};:\1{2};:\1{0};.", 128, 0, 10, 4294967295)
    assert (made.result, made.text) == (0, "a=0,b=10:4294967295:0.")
    assert Composed("\1{0};", 32, 2**32 - 1).text == "4294967295"
    assert Composed("", 16).text == ""


@pytest.mark.parametrize("value", [0, 7, 4294967295])
def test_what_is_composed_never_leaves_its_room(value: int) -> None:
    """Of each length around the limit: it fits and is whole, or it is refused; what lies behind stays as it was."""
    room = 64
    fitted = set()
    for length in range(room - 16, room + 12):
        for template, text in (
            ("x" * length, "x" * length),
            ("x" * length + "\1{0};", "x" * length + str(value)),
            ("x" * length + "\1{0};\1{0};", "x" * length + str(value) * 2),
        ):
            made = Composed(template, room, value)
            assert made.intact, (length, template)
            assert made.result in (0, -errno.E2BIG)
            if made.result == 0:
                assert made.text == text
                fitted.add(len(text))
            else:
                assert len(text) > room - 12
    assert room - 12 in fitted


@pytest.mark.parametrize("room", [1, 8, 11, 12, 13])
def test_a_tiny_room_takes_nothing_or_refuses(room: int) -> None:
    made = Composed("xx", room)
    assert made.intact
    assert made.result == -errno.E2BIG
    assert Composed("", room).intact


def test_what_does_not_fit_ends_the_script_with_the_words_for_it() -> None:
    with pytest.raises(StartRefused, match="too many layers"):
        carried_out(
            lambda script: script.call(
                "COMPOSE", script.room(16), 16, "x" * 16, refuse={errno.E2BIG: (StartRefused, "too many layers")}
            )
        )


# ------------------------------------------------------------------ descriptors


def links(pid: int) -> dict[int, str]:
    return {int(name): os.readlink(f"/proc/{pid}/fd/{name}") for name in os.listdir(f"/proc/{pid}/fd")}


def closes_on_exec(pid: int, fd: int) -> bool:
    flags = Path(f"/proc/{pid}/fdinfo/{fd}").read_text().split("flags:")[1].split()[0]
    return bool(int(flags, 8) & os.O_CLOEXEC)


@pytest.fixture
def files(tmp_path: Path) -> Iterator[list[int]]:
    opened = [os.open(tmp_path / f"file-{index}", os.O_RDWR | os.O_CREAT) for index in range(24)]
    yield opened
    channel.close_all(opened)


@pytest.mark.parametrize("count", [1, 5, 6, 7, 13])
def test_exactly_the_descriptors_that_are_listed_are_closed(files: list[int], count: int) -> None:
    names = [str(index) for index in range(14)]
    given = dict(zip(names, files, strict=False))
    with stopped(lambda script: script.close(*(script.given[name] for name in names[:count])), given) as (pid, _):
        left = {int(path.rsplit("-", 1)[1]) for path in links(pid).values() if "/file-" in path}
    assert left == set(range(count, 14))


def test_only_what_is_given_is_open_wherever_it_lies(files: list[int]) -> None:
    """Of all that the spawner lets its children inherit, and whatever is beside it."""
    for fd in files:
        os.set_inheritable(fd, True)
    for wanted in ([], [0], [23], [5, 6, 7], [9, 2, 17, 3], list(range(0, 24, 2))):
        given = {str(index): files[index] for index in wanted}
        with stopped(lambda script: None, given) as (pid, _):
            found = links(pid)
            closing = [fd for fd in found if closes_on_exec(pid, fd)]
        assert sorted(path for path in found.values() if "/file-" in path) == sorted(
            os.readlink(f"/proc/self/fd/{files[index]}") for index in wanted
        )
        assert sorted(found.keys() - closing) == [0, 1, 2]
        # The streams, the report, the pipe that it waits at; neither the script nor the program.
        assert len(found) == 3 + 2 + len(wanted)


def test_a_given_standard_stream_is_lifted_above_the_streams(files: list[int]) -> None:
    def work() -> list[str]:
        os.dup2(files[0], 0)
        os.dup2(files[2], 2)

        def write(script: Script) -> None:
            script.call("dup3", script.given["in"], 2, 0)
            script.call("dup3", script.given["err"], 0, 0)

        with stopped(write, {"in": 0, "err": 2}) as (pid, _):
            found = links(pid)
        return [found[0].rsplit("-", 1)[1], found[2].rsplit("-", 1)[1]]

    assert in_child(work) == ["2", "0"]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 8, 21])
def test_descriptors_are_handed_over_in_order_and_stay_open(files: list[int], count: int) -> None:
    names = [str(index) for index in range(count)]

    def write(script: Script) -> list[Slot]:
        slots = [script.given[name] for name in reversed(names)]
        hand_over(script, b"first", slots)
        return slots

    handed = carried_out(write, dict(zip(names, files, strict=False)))
    inodes = [os.fstat(fd).st_ino for fd in handed]
    channel.close_all(handed)
    wanted = [os.fstat(files[index]).st_ino for index in reversed(range(count))]
    assert inodes == wanted * 2


def test_a_word_comes_with_its_descriptors_and_by_itself(files: list[int]) -> None:
    for count, word in ((0, b"namespaces"), (1, b"x"), (2, b"console")):
        script = Script([str(index) for index in range(count)])
        hand_over(script, word, [script.given[str(index)] for index in range(count)])
        pid, report = launch(script, files[:count])
        with report:
            message, ancillary, flags, _ = report.recvmsg(100, socket.CMSG_SPACE(16))
            rights = b"".join(data for _, _, data in ancillary)
            assert (message, len(rights), flags & socket.MSG_CTRUNC) == (word, 4 * count, 0)
            assert {(level, kind) for level, kind, _ in ancillary} <= {(socket.SOL_SOCKET, socket.SCM_RIGHTS)}
            channel.close_all(struct.unpack(f"={count}i", rights))
        os.waitpid(pid, 0)


# ------------------------------------------------------------------ rights and signals


@pytest.mark.parametrize("keep", [0, 1, 1 << 5 | 1 << 21, (1 << 41) - 1, 1 << 63 | 1])
def test_the_bounding_set_is_limited_to_what_is_kept(keep: int) -> None:
    with stopped(lambda script: None) as (pid, _):
        before = int(fields(pid, "CapBnd")[0], 16)
    with stopped(lambda script: script.call("LIMIT_BOUNDING", keep)) as (pid, _):
        assert int(fields(pid, "CapBnd")[0], 16) == before & keep


def test_a_bounding_set_that_cannot_be_limited_is_a_fault() -> None:
    def write(script: Script) -> None:
        script.call("capset", struct.pack("=Ii", 0x20080522, 0), bytes(24))
        script.call("LIMIT_BOUNDING", 0)

    with pytest.raises(HostFault, match="limit_bounding: operation not permitted"):
        carried_out(write)


def test_no_signal_is_ignored_and_all_are_blocked() -> None:
    def work() -> list[str]:
        for ignored in (signal.SIGHUP, signal.SIGUSR1, signal.SIGRTMAX):
            signal.signal(ignored, signal.SIG_IGN)
        with stopped(lambda script: None) as (pid, _):
            return fields(pid, "SigIgn", "SigCgt", "SigBlk")

    ignored, caught, blocked = (int(text, 16) for text in in_child(work))
    assert (ignored, caught) == (0, 0)
    assert blocked == (1 << 64) - 1 & ~(1 << signal.SIGKILL - 1 | 1 << signal.SIGSTOP - 1)


def test_a_process_cannot_be_looked_at_from_its_first_moment() -> None:
    """CVE-2016-9962: it may be born beside processes of a container."""

    def write(script: Script) -> list[Slot]:
        dumpable = script.slot()
        script.call("prctl", 3, to=dumpable)
        return [dumpable]

    assert values(write) == [0]


# ------------------------------------------------------------------ failures


def test_a_failed_call_is_reported_by_its_number_and_its_errno() -> None:
    script = Script()
    script.call("getcwd", script.room(64), 64)
    script.call("chdir", "/absent")
    script.call("exit_group", 0)
    assert answer(script.bytes()) == (packet(1, errno.ENOENT), 127)


def test_an_expectation_that_is_not_met_is_no_errno() -> None:
    script = Script()
    script.expect(1, 2, *REFUSED)
    assert answer(script.bytes()) == (packet(0, UNEXPECTED), 127)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_failure_may_be_blamed_on_another_call(sign: int) -> None:
    script = Script()
    script.call("setsid")
    script.call("umask", 0, refuse={errno.EACCES: (StartRefused, "the one to blame")})
    blamed = script.slot()
    script.set(blamed, script.last - 0)
    script.fail_as(sign * errno.EACCES, blamed)
    assert answer(script.bytes()) == (packet(1, errno.EACCES), 127)
    with pytest.raises(StartRefused, match="the one to blame"):
        end(script)


def test_a_failure_of_its_own_has_its_own_words() -> None:
    script = Script()
    script.call("setsid")
    script.fail(StartRefused, "there is none", object="/x", errno=errno.EACCES)
    assert answer(script.bytes()) == (packet(1, errno.EACCES), 127)
    with pytest.raises(StartRefused, match=r"^/x: there is none$"):
        end(script)
    script = Script()
    script.fail(StartRefused, "the first call, and no errno")
    with pytest.raises(StartRefused, match="the first call"):
        end(script)


def test_a_forgiven_failure_leaves_its_errno_and_goes_on_where_it_says() -> None:
    def write(script: Script) -> list[Slot]:
        result, other, fine = script.slot(), script.slot(), script.slot()
        absent, over = Label(), Label()
        script.call("chdir", "/absent", to=result, forgive=(errno.EACCES, errno.ENOENT), otherwise=absent)
        script.fail(*REFUSED)
        script.here(absent)
        script.call("chdir", "/etc/passwd/x", to=other, forgive=(errno.ENOTDIR,))
        script.call("chdir", "/", to=fine, forgive=(errno.ENOENT,), otherwise=over)
        script.set(fine, 1)
        script.here(over)
        return [result, other, fine]

    assert values(write) == [-errno.ENOENT, -errno.ENOTDIR, 1]


def test_what_is_not_forgiven_ends_the_script() -> None:
    with pytest.raises(HostFault) as failed:
        carried_out(lambda script: script.call("chdir", "/absent", forgive=(errno.EACCES, errno.ENOTDIR)))
    assert (failed.value.call, failed.value.errno) == ("chdir", errno.ENOENT)


def test_any_errno_of_the_kernels_is_forgiven_but_no_refusal_of_ours() -> None:
    def write(script: Script) -> list[Slot]:
        results = [script.slot() for _ in range(3)]
        script.call("chdir", "/absent", to=results[0], forgive=ANY)
        script.call("socket", 9999, 1, 0, to=results[1], forgive=ANY)
        script.call("fsopen", "x" * 4096, 0, to=results[2], forgive=ANY)
        return results

    first, family, _ = values(write)
    assert (first, family) == (-errno.ENOENT, -errno.EAFNOSUPPORT)
    with pytest.raises(Fault):
        root = os.open("/", os.O_PATH)
        try:
            make = lambda script: script.call("MAKE_EXACT", script.given["root"], "..", 0o755, forgive=ANY)  # noqa: E731
            carried_out(make, {"root": root})
        finally:
            os.close(root)


@pytest.mark.parametrize("code", [1, 31, 32, 62, 63])
def test_each_errno_has_a_bit_of_its_own(code: int) -> None:
    umask = {"x86_64": 95, "aarch64": 166}[os.uname().machine]
    steps = ((0x20, 0, 0, 0), (0x15, 0, 1, umask), (0x06, 0, 0, 0x50000 | code), (0x06, 0, 0, 0x7FFF0000))
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)

    def write(script: Script, *forgiven: int) -> list[Slot]:
        result = script.slot()
        load_seccomp(script, Filter(program))
        script.call("umask", 0, to=result, forgive=forgiven)
        return [result]

    assert values(lambda script: write(script, code)) == [-code]
    with pytest.raises(HostFault) as failed:
        values(lambda script: write(script, *(other for other in range(1, 64) if other != code)))
    assert failed.value.errno == code


def test_an_errno_above_63_is_reported_like_any_other() -> None:
    with pytest.raises(HostFault) as failed:
        carried_out(lambda script: script.call("socket", 9999, 1, 0, forgive=(errno.ENOENT,)))
    assert failed.value.errno == errno.EAFNOSUPPORT > 63


def test_a_failure_ends_also_when_nobody_hears_of_it() -> None:
    script = Script()
    hand_over(script, b"word", [script.given["report"]])
    script.call("exit_group", 0)
    pid, report = launch(script)
    report.close()
    _, status = os.waitpid(pid, 0)
    assert os.waitstatus_to_exitcode(status) in (0, 127)  # it may have been faster


def whole() -> bytes:
    script = Script(["one"])
    script.data(bytes(range(256)) * 64)
    script.call("exit_group", 0)
    return script.bytes()


@pytest.mark.parametrize("length", [0, 1, 31, 32, 4096, len(whole()) - 72, len(whole()) - 1])
def test_a_script_that_is_cut_off_is_refused(length: int) -> None:
    if length < 32:
        content = whole()[:length]
        ours = answer_short(content)
    else:
        ours = answer(whole()[:length], 1)
    assert ours == (packet(UNREAD, errno.EINVAL), 127)


def answer_short(content: bytes) -> tuple[bytes, int]:
    """As ``answer``; launch makes the file as long as the pid needs."""
    return answer(content.ljust(16, b"\0"), 1)


def test_what_is_no_script_is_refused() -> None:
    assert answer(b"\0" + whole()[1:], 1) == (packet(UNREAD, errno.EINVAL), 127)
    assert answer(whole() + b"\0", 1) == (packet(UNREAD, errno.EINVAL), 127)
    assert answer(whole(), 1) == (b"", 0)


def test_a_script_that_is_given_less_than_it_names_is_refused() -> None:
    """Else the descriptor that is missing would be 0."""
    assert answer(whole(), 0) == (packet(UNREAD, errno.EBADF), 127)


def test_the_program_alone_does_nothing() -> None:
    pid = os.posix_spawn(LAUNCH, ["launch"], {})
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 126


def test_its_file_is_static_and_asks_for_no_executable_stack() -> None:
    content = Path(LAUNCH).read_bytes()
    assert not re.search(rb"ld-linux|libc\.so", content)
    offset_of, size, count = struct.unpack_from("=Q", content, 32)[0], *struct.unpack_from("=HH", content, 54)
    kinds = [struct.unpack_from("=II", content, offset_of + size * index) for index in range(count)]
    assert 3 not in [kind for kind, _ in kinds]  # PT_INTERP
    assert [flags & 1 for kind, flags in kinds if kind == 0x6474E551] == [0]  # PT_GNU_STACK
