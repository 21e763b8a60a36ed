"""A rehearsal plays a whole pod and leaves nothing; the leak check of this tier looks closely."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from typing import Any

import pytest

from runtime import rehearsal
from runtime.errors import Fault, Unavailable
from runtime.monitor import Monitor
from runtime.pause import PAUSE
from tests.descriptors import open_descriptors

pytestmark = pytest.mark.skipif(not os.path.exists(PAUSE), reason="needs runtime/pause: run `make install`")


def test_it_plays_every_operation_of_a_pods_life(monkeypatch: pytest.MonkeyPatch) -> None:
    played: list[str] = []
    ask = rehearsal._ask

    def listen(monitor: Monitor, near: Any, op: str, *args: Any) -> None:
        played.append(op)
        ask(monitor, near, op, *args)

    monkeypatch.setattr(rehearsal, "_ask", listen)
    monkeypatch.setattr(rehearsal, "ROUNDS", 1)
    before = open_descriptors()
    rehearsal.rehearse()
    assert {"hello", "sandbox", "prepare", "release", "start", "exec", "signal", "shutdown"} <= set(played)
    assert open_descriptors() == before


def test_its_processes_are_gone_when_it_ends() -> None:
    rehearsal.rehearse()
    with open(f"/proc/{os.getpid()}/task/{os.getpid()}/children") as file:
        assert file.read() == ""


def test_a_zygote_that_is_killed_in_the_middle_leaves_none_of_them() -> None:
    words = "import runtime.rehearsal; runtime.rehearsal.rehearse(1_000_000)"
    with subprocess.Popen([sys.executable, "-c", words]) as zygote:
        actors: set[int] = set()
        while not actors:
            with open(f"/proc/{zygote.pid}/task/{zygote.pid}/children") as file:
                actors = {pid for pid in map(int, file.read().split()) if is_pause(pid)}
        zygote.kill()
    deadline = time.monotonic() + 30
    while any(map(is_pause, actors)):
        assert time.monotonic() < deadline


def is_pause(pid: int) -> bool:
    with contextlib.suppress(OSError), open(f"/proc/{pid}/cmdline") as file:
        return file.read() == "/pause\0"
    return False


def test_what_the_host_refuses_is_told_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "PAUSE", "/nonexistent/pause")
    before = open_descriptors()
    with pytest.raises(Fault, match="ENOENT"):
        rehearsal.rehearse()
    assert open_descriptors() == before


def test_an_actor_that_does_not_answer_ends_the_rehearsal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rehearsal, "_SECONDS", 0.0)
    with pytest.raises(Unavailable, match="no answer to hello"):
        rehearsal.rehearse()
