"""The streams of a process to be are pipes with every end accounted for."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from runtime.stdio import Stdio
from tests.descriptors import open_descriptors


@pytest.fixture(autouse=True)
def no_leaked_descriptor() -> Iterator[None]:
    before = open_descriptors()
    yield
    assert open_descriptors() == before


def is_null(descriptor: int) -> bool:
    return os.fstat(descriptor).st_rdev == os.stat("/dev/null").st_rdev


def test_output_is_read_at_the_near_ends() -> None:
    stdio = Stdio(stdin=False, terminal=False)
    null, out, err = stdio.theirs
    assert is_null(null)
    os.write(out, b"out")
    os.write(err, b"err")
    stdio.close_theirs()
    near_out, near_err = stdio.take()
    assert (os.read(near_out, 10), os.read(near_err, 10)) == (b"out", b"err")
    assert (os.read(near_out, 10), os.read(near_err, 10)) == (b"", b"")
    os.close(near_out)
    os.close(near_err)
    stdio.close()


def test_a_stdin_that_is_asked_for_is_the_third_near_end() -> None:
    stdio = Stdio(stdin=True, terminal=False)
    os.write(stdio.ours[2], b"in")
    assert os.read(stdio.theirs[0], 10) == b"in"
    stdio.close()


@pytest.mark.parametrize("stdin", [False, True])
def test_with_a_terminal_there_are_no_pipes(stdin: bool) -> None:
    stdio = Stdio(stdin=stdin, terminal=True)
    assert stdio.ours == []
    assert all(map(is_null, stdio.theirs))
    stdio.close()


def test_the_ends_close_on_exec() -> None:
    stdio = Stdio(stdin=True, terminal=False)
    assert not any(map(os.get_inheritable, (*stdio.theirs, *stdio.ours)))
    stdio.close()


def test_a_shortage_of_descriptors_leaves_none_open(monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = os.pipe
    made: list[int] = []

    def short() -> tuple[int, int]:
        if made:
            raise OSError(24, "Too many open files")
        made.append(1)
        return pipe()

    monkeypatch.setattr(os, "pipe", short)
    with pytest.raises(OSError):
        Stdio(stdin=False, terminal=False)
