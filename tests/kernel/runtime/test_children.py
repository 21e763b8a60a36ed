"""Every child is followed to its exec and to its end, and nothing of it is lost or left."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import NoReturn

import pytest

from runtime.errors import Fault, HostFault, StartRefused
from runtime.linux.namespaces import CLONE_NEWPID
from runtime.newborn import Birth, Child
from tests.descriptors import open_descriptors
from tests.kernel.runtime.driven import cgroups
from tests.kernel.runtime.nursery import Nursery, leave


def test_a_program_is_ready_and_then_ends(nursery: Nursery) -> None:
    nursery.spawn("/bin/sh", "-c", "exit 3")
    assert nursery.wait("ready", "exit", "last") == [None, 3, None]


def test_what_the_child_raises_is_its_report(nursery: Nursery) -> None:
    def run(report: int) -> NoReturn:
        raise PermissionError(1, "Operation not permitted", "/x")

    nursery.fork(run)
    (fault, _) = nursery.wait("failed", "last")
    assert isinstance(fault, HostFault)
    assert "EPERM" in str(fault)


def test_a_huge_report_is_cut_to_fit(nursery: Nursery) -> None:
    def run(report: int) -> NoReturn:
        raise StartRefused("x" * 200_000)

    nursery.fork(run)
    (fault, _) = nursery.wait("failed", "last")
    assert isinstance(fault, StartRefused)
    assert len(str(fault)) == 4096


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
