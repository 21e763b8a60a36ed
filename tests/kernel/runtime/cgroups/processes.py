"""Cgroups for one test, and processes that live in them."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import time
from collections.abc import Callable, Iterator
from typing import NoReturn

from runtime.cgroups import kill, tree
from runtime.cgroups.layout import Layout, dirs
from runtime.requests import CgroupDirs


@contextlib.contextmanager
def cgroup(layout: Layout) -> Iterator[str]:
    """A new cgroup; at the end it is killed and removed."""
    path = f"/crisp-test-{secrets.token_hex(4)}"
    tree.create(layout, path, "test")
    try:
        yield path
    finally:
        kill.kill(dirs(layout, path))
        wait_for(lambda: tree.remove(layout, path, ours=True), "the cgroup is removed")


@contextlib.contextmanager
def living_in(found: CgroupDirs, *, body: Callable[[], object] = signal.pause) -> Iterator[int]:
    """A child that joins ``found`` and then runs ``body`` for ever; reaped at the end."""
    ready, said = os.pipe()
    pid = os.fork()
    if pid == 0:
        _live(found, said, body)
    os.close(said)
    try:
        assert os.read(ready, 1) == b"1", "the child could not join"
        yield pid
    finally:
        os.close(ready)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def _live(found: CgroupDirs, said: int, body: Callable[[], object]) -> NoReturn:
    try:
        enter(found)
        os.write(said, b"1")
        os.close(said)
        while True:
            body()
    finally:
        os._exit(1)


def enter(found: CgroupDirs) -> None:
    """The calling process goes into all of ``found``."""
    kill.join(found)
    if found["v2"]:
        with open(f"{found['v2']}/cgroup.procs", "w") as file:
            file.write("0")


def wait_for(condition: Callable[[], object], what: str, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"not within {seconds} s: {what}"
        time.sleep(0.005)


def ended_by(pid: int) -> int:
    """The signal that ended a child of ours; reaps it."""
    _, status = os.waitpid(pid, 0)
    return os.WTERMSIG(status) if os.WIFSIGNALED(status) else 0
