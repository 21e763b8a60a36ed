"""Every child is followed to its exec and to its end, and nothing of it is lost or left."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import pytest

from runtime import channel
from runtime.children import Birth, Child, Children, tell
from runtime.errors import Fault, HostFault, ScriptFailed, StartRefused, to_wire
from runtime.linux.libc import AT_FDCWD
from runtime.linux.namespaces import CLONE_NEWPID
from runtime.linux.passing import hand_over
from runtime.linux.script import Script
from runtime.linux.spawn import MAGIC, REBORN
from runtime.loop import Loop
from runtime.program import LAUNCH, open_program
from tests.descriptors import open_descriptors
from tests.kernel.runtime.driven import cgroups
from tests.kernel.runtime.launched import executing


class Nursery:
    """Children of the test's own process, and what was told of them, in order."""

    def __init__(self) -> None:
        self.told: list[tuple[str, Any]] = []
        self.given: list[int] = []
        self.loop = Loop(lambda error: self.told.append(("fault", error)))
        self.loop.open()
        self.children = Children(self.loop, lambda: self.told.append(("last", None)))
        self.children.open()

    def fork(self, run: Callable[[int], NoReturn], **where: Any) -> Child:
        return self.children.fork(self.birth(**where), run)

    def spawn(self, *args: str, given: Sequence[int] = (), **where: Any) -> Child:
        """A process that has the streams ``given`` and executes ``args``."""
        return self.carry_out(executing(args, len(given)), given, **where)

    def carry_out(self, script: Script, given: Sequence[int] = (), **where: Any) -> Child:
        launch, memfd = open_program(LAUNCH), os.memfd_create("script", os.MFD_CLOEXEC)
        os.write(memfd, script.bytes())
        try:
            return self.children.spawn(self.birth(**where), launch, memfd, given)
        finally:
            os.close(launch)
            os.close(memfd)

    def on_word(self, child: Child) -> None:
        """For births that hand something over long before they are ready."""
        self.told.append(("word", None))
        self.given += child.given
        child.given.clear()

    def birth(self, **where: Any) -> Birth:
        return Birth(
            "a child",
            on_ready=self.on_ready,
            on_failed=lambda fault: self.told.append(("failed", fault)),
            on_exit=lambda status: self.told.append(("exit", os.waitstatus_to_exitcode(status))),
            **where,
        )

    def on_ready(self, child: Child) -> None:
        self.told.append(("ready", child.answer))
        self.given += child.given
        child.given.clear()

    def wait(self, *kinds: str) -> list[Any]:
        """Turn until exactly these have been told; their details."""
        end = time.monotonic() + 30
        while [kind for kind, _ in self.told] != list(kinds):
            assert time.monotonic() < end, self.told
            self.loop.turn(0.05)
        return [detail for _, detail in self.told]

    def close(self) -> None:
        for child in list(self.children._children.values()):
            child.signal(signal.SIGKILL)
        end = time.monotonic() + 30
        while len(self.children) and time.monotonic() < end:
            self.loop.turn(0.05)
        self.children.close()
        self.loop.close()


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


def leave(code: int) -> Callable[[int], NoReturn]:
    def run(report: int) -> NoReturn:
        os._exit(code)

    return run


def test_a_program_is_ready_and_then_ends(nursery: Nursery) -> None:
    nursery.spawn("/bin/sh", "-c", "exit 3")
    assert nursery.wait("ready", "exit", "last") == [None, 3, None]


def waiting_child(nursery: Nursery) -> tuple[Child, channel.Socket]:
    """A child that waits, and its end of the report, which the test plays."""
    ours, theirs = channel.pair()
    pid = os.fork()
    if pid == 0:
        theirs.close()
        os.kill(os.getpid(), signal.SIGSTOP)
        signal.pause()
    os.waitid(os.P_PID, pid, os.WSTOPPED)
    child = Child(nursery.birth(), pid, ours, nursery.loop, nursery.children._follow)
    nursery.children._follow(child)
    return child, theirs


def test_a_child_that_is_about_to_end_is_not_released(nursery: Nursery) -> None:
    child, theirs = waiting_child(nursery)
    theirs.close()
    assert not child.release(), "its end has not been read"
    nursery.wait("ready")
    assert not child.release(), "its end has been read"


def test_a_release_that_nobody_read_hides_nothing_of_what_was_reported(nursery: Nursery) -> None:
    """An unread packet makes the end of a socket ECONNRESET, and before what is to be read."""
    child, theirs = waiting_child(nursery)
    theirs.send(struct.pack("=IIi", MAGIC, 5, errno.EPERM))
    assert child.release()
    theirs.close()
    child.signal(signal.SIGKILL)
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    nursery.children._reap()  # before its report is looked at
    (failed, _) = nursery.wait("failed", "last")
    assert isinstance(failed, ScriptFailed) and (failed.at, failed.errno) == (5, errno.EPERM)


def test_a_release_that_nobody_read_leaves_the_end_what_it_is(nursery: Nursery) -> None:
    child, theirs = waiting_child(nursery)
    assert child.release()
    theirs.close()
    child.signal(signal.SIGKILL)
    assert nursery.wait("ready", "exit", "last")[1] == -signal.SIGKILL


def tell_reborn(theirs: channel.Socket, pid: int, pidfd: int) -> None:
    rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, struct.pack("=i", pidfd))
    theirs.sendmsg([REBORN + struct.pack("=Q", pid)], [rights])


def reborn_as(code: int, theirs: channel.Socket) -> int:
    """A process that has ended with ``code``, told of as who a child goes on as; it is not reaped yet."""
    pid = os.fork()
    if pid == 0:
        os._exit(code)
    pidfd = os.pidfd_open(pid)
    tell_reborn(theirs, pid, pidfd)
    os.close(pidfd)
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    return pid


@pytest.mark.parametrize("first_life_ends", [True, False])
def test_the_end_of_who_goes_on_as_another_process_is_that_of_the_other(
    nursery: Nursery, first_life_ends: bool
) -> None:
    """Also where both have ended before a word of it was read."""
    child, theirs = waiting_child(nursery)
    before = child.pid
    if first_life_ends:
        child.signal(signal.SIGTERM)
        os.kill(before, signal.SIGCONT)
        os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    pid = reborn_as(5, theirs)
    theirs.close()
    nursery.children._reap()
    assert child.pid == pid
    if not first_life_ends:
        os.kill(before, signal.SIGKILL)
    assert nursery.wait("ready", "exit", *(["last"] if first_life_ends else []))[1] == 5
    if not first_life_ends:
        nursery.wait("ready", "exit", "last")


def test_a_kill_reaches_who_goes_on_as_another_process(nursery: Nursery) -> None:
    child, theirs = waiting_child(nursery)
    pid = os.fork()
    if pid == 0:
        signal.pause()
    pidfd = os.pidfd_open(pid)
    child.signal(signal.SIGKILL)  # before it has told
    tell_reborn(theirs, pid, pidfd)
    os.close(pidfd)
    theirs.close()
    assert nursery.wait("ready", "exit", "last")[1] == -signal.SIGKILL
    assert child.pid == pid


def test_the_first_of_two_failures_counts(nursery: Nursery) -> None:
    child, theirs = waiting_child(nursery)
    for number in (errno.EPERM, errno.EIO):
        theirs.send(struct.pack("=IIi", MAGIC, 5, number))
    theirs.close()
    child.signal(signal.SIGKILL)
    (failed, _) = nursery.wait("failed", "last")
    assert isinstance(failed, ScriptFailed) and failed.errno == errno.EPERM


def test_an_end_by_signal_is_told_as_such(nursery: Nursery) -> None:
    child = nursery.spawn("/bin/sleep", "100")
    nursery.wait("ready")
    child.signal(signal.SIGTERM)
    assert nursery.wait("ready", "exit", "last")[1] == -signal.SIGTERM
    child.signal(signal.SIGTERM)  # nobody there any more


def test_a_reported_fault_is_told_once_the_child_is_gone(nursery: Nursery) -> None:
    def run(report: int) -> NoReturn:
        tell(report, to_wire(StartRefused("no such file", step="execute")))
        time.sleep(0.1)
        os._exit(127)

    child = nursery.fork(run)
    (fault, _) = nursery.wait("failed", "last")
    assert isinstance(fault, StartRefused)
    assert str(fault) == "execute: no such file"
    assert not os.path.exists(f"/proc/{child.pid}")


def test_what_the_child_raises_is_its_report(nursery: Nursery) -> None:
    def run(report: int) -> NoReturn:
        raise PermissionError(1, "Operation not permitted", "/x")

    nursery.fork(run)
    (fault, _) = nursery.wait("failed", "last")
    assert isinstance(fault, HostFault)
    assert "EPERM" in str(fault)


def test_an_answer_is_kept_for_whoever_is_told(nursery: Nursery) -> None:
    def run(report: int) -> NoReturn:
        tell(report, {"uid": 5})
        os._exit(0)

    nursery.fork(run)
    assert nursery.wait("ready", "exit", "last")[0] == {"uid": 5}


@pytest.mark.parametrize("garbage", [b"{", b"{]", b'{"kind": "HostFault", "errno": "x"}'])
def test_an_unreadable_report_is_a_fault(nursery: Nursery, garbage: bytes) -> None:
    def run(report: int) -> NoReturn:
        os.write(report, garbage)
        os._exit(0)

    nursery.fork(run)
    (fault, _) = nursery.wait("failed", "last")
    assert "unreadable report" in str(fault)


def test_a_huge_report_is_cut_to_fit(nursery: Nursery) -> None:
    def run(report: int) -> NoReturn:
        raise StartRefused("x" * 200_000)

    nursery.fork(run)
    (fault, _) = nursery.wait("failed", "last")
    assert isinstance(fault, StartRefused)
    assert len(str(fault)) == 4096


def test_descriptors_are_handed_over(nursery: Nursery) -> None:
    script = Script()
    hand_over(script, b"console", [script.opened("openat", AT_FDCWD, "/proc/version", os.O_RDONLY, 0)])
    nursery.carry_out(script)
    nursery.wait("ready", "exit", "last")
    (version,) = nursery.given
    assert os.read(version, 100).startswith(b"Linux")
    assert not os.get_inheritable(version)
    os.close(version)


def test_descriptors_of_a_child_that_fails_are_closed(nursery: Nursery) -> None:
    before = len(open_descriptors())
    script = Script()
    report = script.given["report"]
    hand_over(script, b"console", [report, report])
    script.call("chdir", "/absent")
    nursery.carry_out(script)
    (failed, _) = nursery.wait("failed", "last")
    assert isinstance(failed, ScriptFailed)
    assert str(script.fault(failed.at, failed.errno)) == "chdir: no such file or directory (ENOENT)"
    assert len(open_descriptors()) == before


def test_many_ends_at_once_are_all_told(nursery: Nursery) -> None:
    for number in range(30):
        nursery.fork(leave(number))
    end = time.monotonic() + 30
    while len(nursery.children) and time.monotonic() < end:
        nursery.loop.turn(0.05)
    assert sorted(code for kind, code in nursery.told if kind == "exit") == list(range(30))
    assert sum(kind == "ready" for kind, _ in nursery.told) == 30


def test_orphans_from_below_are_reaped(nursery: Nursery) -> None:
    read, write = os.pipe()
    nursery.spawn("/bin/sh", "-c", "sleep 100 & echo $!", given=[write, write])
    os.close(write)
    nursery.wait("ready", "exit", "last")
    orphan = os.read(read, 20).decode().strip()
    os.close(read)
    children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children")
    assert orphan in children.read_text().split()
    os.kill(int(orphan), signal.SIGKILL)
    while orphan in children.read_text().split():
        nursery.loop.turn(0.05)


def test_a_child_starts_with_default_signals(nursery: Nursery) -> None:
    read, write = os.pipe()
    old = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        nursery.spawn("/bin/grep", "^Sig", "/proc/self/status", given=[write, write])
        nursery.wait("ready", "exit", "last")
    finally:
        signal.signal(signal.SIGTERM, old)
    lines = dict(line.split(":\t") for line in os.read(read, 4096).decode().splitlines())
    assert (int(lines["SigBlk"], 16), int(lines["SigIgn"], 16)) == (0, 0)
    os.close(read)
    os.close(write)


def test_a_child_dies_with_its_parent() -> None:
    read, write = os.pipe()
    parent = os.fork()
    if parent == 0:
        nursery = Nursery()
        child = nursery.spawn("/bin/sleep", "100")
        nursery.wait("ready")
        os.write(write, b"%d" % child.pid)
        signal.pause()
    orphan = int(os.read(read, 20))
    os.kill(parent, signal.SIGKILL)
    os.waitpid(parent, 0)
    while os.path.exists(f"/proc/{orphan}/exe"):
        time.sleep(0.01)
    os.close(read)
    os.close(write)


def test_a_new_pid_namespace_makes_it_the_first_process(nursery: Nursery) -> None:
    child = nursery.spawn("/bin/sleep", "100", flags=CLONE_NEWPID)
    nursery.wait("ready")
    with open(f"/proc/{child.pid}/status") as file:
        assert f"NSpid:\t{child.pid}\t1\n" in file.read()


def test_a_child_can_be_born_beside_another_and_the_parent_stays_where_it_is(nursery: Nursery) -> None:
    own = os.readlink("/proc/self/ns/pid_for_children")
    first = nursery.spawn("/bin/sleep", "100", flags=CLONE_NEWPID)
    nursery.wait("ready")
    second = nursery.spawn("/bin/sleep", "100", pid_namespace=first.pidfd)
    nursery.wait("ready", "ready")
    assert os.readlink(f"/proc/{second.pid}/ns/pid") == os.readlink(f"/proc/{first.pid}/ns/pid") != own
    assert os.readlink("/proc/self/ns/pid_for_children") == own


def test_a_pid_namespace_that_is_gone_leaves_nothing_behind(nursery: Nursery) -> None:
    own = os.readlink("/proc/self/ns/pid_for_children")
    first = nursery.spawn("/bin/sleep", "100", flags=CLONE_NEWPID)
    nursery.wait("ready")
    pidfd = os.dup(first.pidfd)
    first.signal(signal.SIGKILL)
    nursery.wait("ready", "exit", "last")
    before = len(open_descriptors())
    with pytest.raises(OSError):
        nursery.spawn("/bin/true", pid_namespace=pidfd)
    assert len(open_descriptors()) == before
    assert os.readlink("/proc/self/ns/pid_for_children") == own
    os.close(pidfd)


def test_a_child_is_born_in_its_cgroup(nursery: Nursery) -> None:
    with cgroups("children") as dirs:
        if dirs["v2"] is None:
            pytest.skip("needs a cgroup v2 tree")
        child = nursery.spawn("/bin/sleep", "100", cgroup=dirs)
        nursery.wait("ready")
        with open(f"{dirs['v2']}/cgroup.procs") as file:
            assert file.read().split() == [str(child.pid)]
        child.signal(signal.SIGKILL)
        nursery.wait("ready", "exit", "last")


def test_a_missing_cgroup_forks_nobody(nursery: Nursery) -> None:
    before = len(open_descriptors())
    with pytest.raises(OSError):
        nursery.spawn("/bin/true", cgroup={"v1": [], "v2": "/sys/fs/cgroup/unified/crisp-test-absent"})
    assert len(nursery.children) == 0
    assert len(open_descriptors()) == before


def test_a_child_that_cannot_be_followed_is_killed(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    def short(pid: int, flags: int = 0) -> int:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", short)
    before = len(open_descriptors())
    with pytest.raises(OSError):
        nursery.spawn("/bin/sleep", "100")
    assert len(open_descriptors()) == before


def test_a_refused_signal_is_a_fault(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    child = nursery.spawn("/bin/sleep", "100")
    nursery.wait("ready")
    with pytest.raises(HostFault, match=r"pidfd_send_signal.*EINVAL"):
        child.signal(12345)


def test_a_fault_in_a_callback_does_not_stop_the_reaping(nursery: Nursery) -> None:
    def broken(status: int) -> None:
        raise RuntimeError("broken")

    def nothing(found: Child | Fault) -> None:
        return None

    nursery.children.fork(Birth("x", on_ready=nothing, on_failed=nothing, on_exit=broken), leave(0))
    nursery.fork(leave(0))
    end = time.monotonic() + 30
    while len(nursery.children) and time.monotonic() < end:
        nursery.loop.turn(0.05)
    kinds = [kind for kind, _ in nursery.told]
    assert kinds.count("fault") == 1
    assert kinds.count("exit") == 1
