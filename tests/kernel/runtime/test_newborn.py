"""What one child reports is heard whole, whatever it goes on as, and its end is told once."""

from __future__ import annotations

import errno
import os
import signal
import socket
import struct
import time
from typing import NoReturn

import pytest

from runtime import channel
from runtime.children import tell
from runtime.errors import HostFault, ScriptFailed, StartRefused, to_wire
from runtime.linux.libc import AT_FDCWD
from runtime.linux.passing import hand_over
from runtime.linux.script import Script
from runtime.linux.spawn import MAGIC, REBORN
from runtime.newborn import Child
from tests.descriptors import open_descriptors
from tests.kernel.runtime.nursery import Nursery


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


def test_a_refused_signal_is_a_fault(nursery: Nursery, monkeypatch: pytest.MonkeyPatch) -> None:
    child = nursery.spawn("/bin/sleep", "100")
    nursery.wait("ready")
    with pytest.raises(HostFault, match=r"pidfd_send_signal.*EINVAL"):
        child.signal(12345)
