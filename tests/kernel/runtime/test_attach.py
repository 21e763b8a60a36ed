"""Several clients hear a container at once, each in full, and one that does not listen is let go."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import attach
from runtime.errors import AlreadyExists, FailedPrecondition, NotFound
from tests.descriptors import open_descriptors
from tests.kernel.runtime.conftest import Clock
from tests.kernel.runtime.containers import Image, needs_busybox
from tests.kernel.runtime.driven import Driven, cgroups, driven

pytestmark = needs_busybox

BOTH = ["stdout", "stderr"]


class Container:
    """A container ``one`` of busybox whose log is kept."""

    def __init__(self, pod: Driven, image: Image, log: Path) -> None:
        self.pod, self.image, self.log = pod, image, log
        self._open: list[int] = []

    def start(self, *args: str, stdin: bool = False, terminal: bool = False) -> None:
        request: Any = self.image.request(*args, terminal=terminal)
        request.update({"container": "one", "cgroup": self.pod_cgroup, "log_path": str(self.log), "stdin": stdin})
        self.pod.do("start", request)

    pod_cgroup: Any = None

    def attach(self, id: str = "a", streams: list[str] | None = None, stdin: bool = False) -> list[int]:
        """The descriptors, non-blocking; closed at the end of the test."""
        asked = {"container": "one", "attach": id, "streams": streams or ["stdout"], "stdin": stdin}
        _, descriptors = self.pod.ask("attach", asked)
        for fd in descriptors:
            os.set_blocking(fd, False)
        self._open += descriptors
        return descriptors

    def read(self, fd: int, size: int) -> bytes:
        """``size`` bytes, while the monitor goes on."""
        seen = bytearray()

        def full() -> bool:
            with contextlib.suppress(BlockingIOError):
                seen.extend(os.read(fd, size - len(seen)))
            return len(seen) >= size

        self.pod.turn_until(full)
        return bytes(seen)

    def read_all(self, fd: int) -> bytes:
        """To the end."""
        seen = bytearray()

        def ended() -> bool:
            with contextlib.suppress(BlockingIOError):
                while chunk := os.read(fd, 1 << 20):
                    seen.extend(chunk)
                return True
            return False

        self.pod.turn_until(ended)
        return bytes(seen)

    def hang_up(self, *fds: int) -> None:
        for fd in fds:
            self._open.remove(fd)
            os.close(fd)

    def logged(self) -> bytes:
        """What the log has, without the prefixes."""
        lines = self.log.read_bytes().splitlines(keepends=True)
        return b"".join(text if kind == b"F" else text[:-1] for _, _, kind, text in (x.split(b" ", 3) for x in lines))

    def close(self) -> None:
        self.hang_up(*list(self._open))


@pytest.fixture
def one(tmp_path: Path) -> Iterator[Container]:
    (tmp_path / "pod").mkdir()
    (tmp_path / "image").mkdir()
    before = len(open_descriptors())
    with cgroups("attach") as dirs, driven(tmp_path / "pod") as pod:
        made = Container(pod, Image(tmp_path / "image"), tmp_path / "log")
        made.pod_cgroup = dirs
        yield made
        made.close()
    assert len(open_descriptors()) == before


def behind(one: Container, id: str) -> bool:
    """Whether something of the output waits for this client."""
    return any(tap.left for tap in one.pod.monitor.pod.attached[id].taps)


def pass_time(one: Container, clock: Clock, seconds: float) -> None:
    """Let the monitor look at its clients as often as it does in so much time."""
    for _ in range(round(seconds / attach._LOOK)):
        clock.advance(attach._LOOK)
        one.pod.monitor.loop.turn(0)


def quiet(one: Container) -> bool:
    return one.pod.monitor.pod.attached == {}


def test_all_who_are_attached_hear_everything_from_then_on(one: Container) -> None:
    one.start("sh", "-c", "echo early; while read x; do echo got $x; echo err $x >&2; done", stdin=True)
    one.pod.turn_until(lambda: one.logged() == b"early\n")
    out, err, typed = one.attach("a", BOTH, stdin=True)
    other, other_typed = one.attach("b", stdin=True)
    os.write(typed, b"one\n")
    assert one.read(other, 8) == b"got one\n"
    os.write(other_typed, b"two\n")
    assert one.read(out, 16) == b"got one\ngot two\n"
    assert one.read(err, 16) == b"err one\nerr two\n"
    assert one.read(other, 8) == b"got two\n"
    assert b"early\ngot one\n" in one.logged()


def test_the_end_of_the_container_comes_after_its_output(one: Container) -> None:
    one.start("sh", "-c", "read x; dd if=/dev/zero bs=1000 count=900 2>/dev/null; echo end", stdin=True)
    out, typed = one.attach(stdin=True)
    os.write(typed, b"\n")
    one.hang_up(typed)
    assert one.read_all(out) == bytes(900_000) + b"end\n"
    assert one.pod.event("exit")["record"]["code"] == 0
    assert one.pod.event("attach_end") == {"event": "attach_end", "attach": "a", "error": ""}
    assert len(one.logged()) == 900_004


def test_output_of_the_last_moment_waits_for_a_client_that_is_behind(one: Container) -> None:
    one.start("sh", "-c", "read x; dd if=/dev/zero bs=1000 count=110 2>/dev/null; echo end", stdin=True)
    out, typed = one.attach(stdin=True)
    os.write(typed, b"\n")
    one.pod.event("exit")
    assert "a" in one.pod.monitor.pod.attached  # more than a pipe holds is still to be taken
    assert one.read_all(out) == bytes(110_000) + b"end\n"
    assert one.pod.event("attach_end")["error"] == ""


def test_a_client_that_makes_progress_delays_output_and_loses_nothing(one: Container, clock: Clock) -> None:
    one.start("sh", "-c", "read x; dd if=/dev/zero bs=1000 count=400 2>/dev/null; echo end; sleep 100", stdin=True)
    slow, typed = one.attach("slow", stdin=True)
    (quick,) = one.attach("quick")
    os.write(typed, b"\n")
    one.pod.turn_until(lambda: behind(one, "slow"))
    for _ in range(5):  # some bytes now and then, never a page within the patience
        assert len(os.read(slow, 100)) == 100
        with contextlib.suppress(BlockingIOError):
            os.read(quick, 1 << 20)
        pass_time(one, clock, attach.PATIENCE - 1)
        assert "slow" in one.pod.monitor.pod.attached
    one.hang_up(quick)
    rest = one.read(slow, 400_004 - 500)
    assert rest.endswith(b"end\n") and set(rest[:-4]) == {0}


def test_one_that_takes_nothing_is_let_go_and_the_others_and_the_log_go_on(one: Container, clock: Clock) -> None:
    one.start("sh", "-c", "read x; dd if=/dev/zero bs=1000 count=400 2>/dev/null; echo end; sleep 100", stdin=True)
    stuck, typed = one.attach("stuck", stdin=True)
    (quick,) = one.attach("quick")
    os.write(typed, b"\n")
    one.pod.turn_until(lambda: behind(one, "stuck"))
    heard = len(os.read(quick, 1 << 20))
    pass_time(one, clock, attach.PATIENCE - 1)
    assert "stuck" in one.pod.monitor.pod.attached
    with contextlib.suppress(BlockingIOError):
        heard += len(os.read(quick, 1 << 20))
    pass_time(one, clock, 3)
    end = one.pod.event("attach_end")
    assert (attach.PATIENCE, end["attach"], end["error"]) == (5.0, "stuck", "took no stdout for 5 s")
    assert one.read(quick, 400_004 - heard).endswith(b"end\n")
    assert list(one.pod.monitor.pod.attached) == ["quick"]
    one.pod.turn_until(lambda: len(one.logged()) == 400_004)
    assert len(one.read_all(stuck)) > 32_000  # what it was given before stays its own


def test_a_client_that_leaves_costs_nothing_even_when_the_container_is_silent(one: Container) -> None:
    one.start("sleep", "1000", stdin=True)
    loop, before = one.pod.monitor.loop, len(open_descriptors())
    watched = len(loop._watched)
    for number in range(200):
        one.hang_up(*one.attach(f"a{number}", BOTH, stdin=True))
    one.pod.turn_until(lambda: quiet(one))
    assert len(open_descriptors()) == before and len(loop._watched) == watched
    assert {event["error"] for event in one.pod.events if event["event"] == "attach_end"} == {""}


def test_a_client_that_leaves_while_it_is_behind_frees_the_others(one: Container) -> None:
    one.start("sh", "-c", "read x; dd if=/dev/zero bs=1000 count=400 2>/dev/null; echo end; sleep 100", stdin=True)
    behind, typed = one.attach("behind", stdin=True)
    (quick,) = one.attach("quick")
    os.write(typed, b"\n")
    one.read(quick, 60_000)
    one.hang_up(behind)
    assert one.read(quick, 340_004).endswith(b"end\n")


def test_stdin_stays_open_for_the_next_one_unless_it_is_ended(one: Container) -> None:
    one.start("sh", "-c", "while read x; do echo got $x; done; echo over", stdin=True)
    for word in (b"first", b"second"):
        out, typed = one.attach(word.decode(), stdin=True)
        os.write(typed, word + b"\n")
        assert one.read(out, len(word) + 5) == b"got " + word + b"\n"
        one.hang_up(out, typed)
    out, typed = one.attach("third", stdin=True)
    one.pod.do("close_stdin", {"container": "one"})
    assert len(one.attach("late", stdin=True)) == 1  # there is none any more
    os.write(typed, b"third\n")
    one.hang_up(typed)
    assert one.read_all(out) == b"got third\nover\n"
    assert one.pod.event("exit")["record"]["code"] == 0


def test_a_terminal_is_raw_and_has_the_size_that_it_is_given(one: Container) -> None:
    script = "trap 'stty size' WINCH; echo ready; while :; do read x; echo; done"
    one.start("sh", "-c", script, stdin=True, terminal=True)
    one.pod.turn_until(lambda: b"ready" in one.logged())
    out, typed = one.attach(stdin=True)
    one.pod.do("resize", {"container": "one", "width": 132, "height": 43})
    os.write(typed, b"typed\n")
    one.pod.turn_until(lambda: b"43 132\r\n" in one.logged())
    seen = one.read(out, 7)
    assert b"typed\r\n" in seen or b"43 132" in seen
    one.pod.do("close_stdin", {"container": "one"})
    assert len(one.attach("late", stdin=True)) == 1
    one.pod.do("kill", {"container": "one"})
    assert one.pod.event("attach_end")["error"] == ""


def test_what_cannot_be_is_refused(one: Container) -> None:
    one.start("sleep", "1000")
    assert len(one.attach(stdin=True)) == 1  # it has no stdin
    with pytest.raises(AlreadyExists):
        one.attach()
    with pytest.raises(FailedPrecondition, match="has no terminal"):
        one.pod.do("resize", {"container": "one", "width": 1, "height": 1})
    with pytest.raises(NotFound):
        one.pod.do("attach", {"container": "two", "attach": "x", "streams": ["stdout"], "stdin": False})
    one.pod.do("kill", {"container": "one"})
    one.pod.event("exit")
    with pytest.raises(FailedPrecondition, match="not running"):
        one.attach("late")


def test_an_attach_that_is_short_of_descriptors_leaves_none(one: Container, monkeypatch: pytest.MonkeyPatch) -> None:
    one.start("sleep", "1000", stdin=True)
    before, pipe = len(open_descriptors()), os.pipe
    made = iter([pipe, None])

    def short() -> tuple[int, int]:
        call = next(made)
        if call is None:
            raise OSError(24, "Too many open files")
        return call()

    monkeypatch.setattr("runtime.attach.os.pipe", short)
    with pytest.raises(OSError, match="too many open files"):
        one.attach(streams=BOTH, stdin=True)
    assert len(open_descriptors()) == before and quiet(one)


def test_the_end_of_the_pod_is_the_end_of_the_sessions(one: Container) -> None:
    one.start("sleep", "1000")
    (out,) = one.attach()
    one.pod.do("shutdown")
    assert one.read_all(out) == b""


def test_the_daemons_death_ends_the_sessions_only(one: Container) -> None:
    one.start("sh", "-c", "while read x; do echo $x; done; echo over", stdin=True)
    out, err, typed = one.attach("a", BOTH, stdin=True)
    os.write(typed, b"first\n")
    assert one.read(out, 6) == b"first\n"
    os.write(typed, b"second\nthird\n")
    one.hang_up(out, err, typed)
    monitor = one.pod.monitor
    one.pod.turn_until(lambda: quiet(one) and one.logged() == b"first\nsecond\nthird\n")
    assert monitor.pod.containers["one"].state == "running"
