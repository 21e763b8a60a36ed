"""A process is born in its place, as the spawner's child, with what it is given; or there is none, and why."""

from __future__ import annotations

import errno
import os
import select
import signal
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import pytest

from runtime.cgroups import kill
from runtime.errors import HostFault
from runtime.linux import capabilities, namespaces, seccomp
from runtime.linux.script import Script
from runtime.linux.spawn import MAGIC, REBORN, failure, reborn, spawn
from runtime.program import LAUNCH, open_program
from tests.descriptors import open_descriptors
from tests.kernel.runtime.driven import cgroups
from tests.kernel.runtime.forked import in_child
from tests.kernel.runtime.launched import needs_launch

pytestmark = needs_launch

T = TypeVar("T")

X86_64 = os.uname().machine == "x86_64"
CLONE3, PRCTL, EXIT_GROUP = (435, 157, 231) if X86_64 else (435, 167, 94)
KILL, ALLOW, REFUSE = 0x80000000, 0x7FFF0000, 0x50000


class Spawned:
    """A process that waits until it is killed, or has ended with ``code``."""

    def __init__(self, code: int | None = None, program: str = LAUNCH, **where: Any) -> None:
        script = Script(["full"])
        if code is None:
            script.call("write", script.given["full"], b"1", 1)  # nobody reads: it waits
        script.call("exit_group", code or 0)
        self.report, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        launch, memfd = open_program(program), os.memfd_create("script", os.MFD_CLOEXEC)
        os.write(memfd, script.bytes())
        self.read, full = os.pipe()
        os.set_blocking(full, False)
        while select.select([], [full], [], 0)[1]:
            os.write(full, bytes(4096))
        os.set_blocking(full, True)
        try:
            self.pid = spawn(launch, memfd, theirs.fileno(), [full], **where)
        except BaseException:
            self.pid = 0
            self.report.close()
            os.close(self.read)
            raise
        finally:
            theirs.close()
            for fd in (launch, memfd, full):
                os.close(fd)

    def __enter__(self) -> Spawned:
        return self

    def __exit__(self, *error: object) -> None:
        if self.pid:
            os.kill(self.pid, signal.SIGKILL)
            self.wait()
        self.report.close()
        os.close(self.read)

    def wait(self) -> int:
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def field(self, name: str) -> list[str]:
        text = Path(f"/proc/{self.pid}/status").read_text()
        return text.split(f"\n{name}:")[1].split("\n")[0].split()

    def link(self, kind: str) -> str:
        return os.readlink(f"/proc/{self.pid}/ns/{kind}")

    def cgroup(self) -> str:
        """Of cgroup v2."""
        lines = Path(f"/proc/{self.pid}/cgroup").read_text().splitlines()
        return next(line for line in lines if line.startswith("0::"))


def filtered(number: int, action: int, work: Callable[[], T], first: int | None = None) -> T:
    """What ``work`` returns in a child where ``action`` is taken on the system call, if its first argument is that."""
    steps = [(0x20, 0, 0, 0), (0x15, 0, 1 if first is None else 3, number)]
    if first is not None:
        steps += [(0x20, 0, 0, 16), (0x15, 0, 1, first)]
    steps += [(0x06, 0, 0, action), (0x06, 0, 0, ALLOW)]
    program = b"".join(struct.pack("=HBBI", *step) for step in steps)

    def under() -> T:
        seccomp.load(program)
        return work()

    return in_child(under)


def descriptors() -> int:
    return len(open_descriptors())


def children() -> list[str]:
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text().split()


def test_a_process_is_the_spawners_own_child_and_launch_is_gone() -> None:
    before, others = descriptors(), children()
    with Spawned() as process:
        assert process.field("PPid") == [str(os.getpid())]
        assert children() == [*others, str(process.pid)]
        assert process.link("pid") == os.readlink("/proc/self/ns/pid")
        assert process.field("State")[0] in "SRD"
    assert descriptors() == before
    assert children() == others


def test_its_end_is_told_by_its_own_exit_code() -> None:
    with Spawned(7) as process:
        assert process.report.recv(100) == b""
        assert process.wait() == 7


def test_it_is_the_first_of_a_new_pid_namespace_if_that_is_asked_for() -> None:
    with Spawned(flags=namespaces.CLONE_NEWPID) as process:
        assert process.field("NSpid") == [str(process.pid), "1"]
        assert process.field("PPid") == [str(os.getpid())]
    assert os.readlink("/proc/self/ns/pid_for_children") == os.readlink("/proc/self/ns/pid")


@pytest.mark.parametrize("by", ["file", "pidfd"])
def test_it_is_born_in_a_pid_namespace(by: str) -> None:
    with Spawned(flags=namespaces.CLONE_NEWPID) as first:
        place = os.open(f"/proc/{first.pid}/ns/pid", os.O_RDONLY) if by == "file" else os.pidfd_open(first.pid)
        with Spawned(pid_namespace=place) as second:
            assert second.link("pid") == first.link("pid") != os.readlink("/proc/self/ns/pid")
            assert second.field("NSpid") == [str(second.pid), "2"]
            assert second.field("PPid") == [str(os.getpid())]
        os.close(place)


@pytest.mark.parametrize("flags", [0, namespaces.CLONE_NEWPID])
@pytest.mark.parametrize("clone3", [True, False])
def test_it_is_born_in_a_cgroup(flags: int, clone3: bool) -> None:
    """Also where clone3 is not there: then it joins before its script begins."""
    with cgroups("spawn") as dirs:
        if dirs["v2"] is None:
            pytest.skip("needs a cgroup v2 tree")
        place = kill.open_v2(dirs)

        def born() -> tuple[str, list[str], bool]:
            with Spawned(cgroup=place, flags=flags) as process:
                # Without clone3 it may not be there yet when launch has ended.
                while not process.cgroup().endswith(Path(str(dirs["v2"])).name) and process.field("State")[0] != "S":
                    os.sched_yield()
                return process.cgroup(), process.field("NSpid")[1:], process.field("PPid") == [str(os.getpid())]

        found = in_child(born) if clone3 else filtered(CLONE3, REFUSE | errno.ENOSYS, born)
        os.close(place or 0)
        assert found[0].endswith(Path(dirs["v2"]).name)
        assert found[1:] == (["1"] if flags else [], True)


def test_it_is_born_in_a_pid_namespace_and_in_a_cgroup() -> None:
    with cgroups("spawn") as dirs, Spawned(flags=namespaces.CLONE_NEWPID) as first:
        if dirs["v2"] is None:
            pytest.skip("needs a cgroup v2 tree")
        place, group = os.pidfd_open(first.pid), kill.open_v2(dirs)
        with Spawned(pid_namespace=place, cgroup=group) as second:
            assert second.link("pid") == first.link("pid")
            assert Path(dirs["v2"], "cgroup.procs").read_text().split() == [str(second.pid)]
            assert first.cgroup() != second.cgroup()
        os.close(place)
        os.close(group or 0)


def test_a_pid_namespace_that_has_ended_has_nobody_born_in_it() -> None:
    with Spawned(flags=namespaces.CLONE_NEWPID) as first:
        place = os.pidfd_open(first.pid)
    before = descriptors()
    with pytest.raises(HostFault, match="start a process: setns: ") as failed:
        Spawned(pid_namespace=place)
    assert failed.value.errno == errno.ESRCH
    assert (descriptors(), children()) == (before, [])
    os.close(place)


def test_a_cgroup_that_has_been_removed_has_nobody_born_in_it() -> None:
    with cgroups("spawn") as dirs:
        if dirs["v2"] is None:
            pytest.skip("needs a cgroup v2 tree")
        place = kill.open_v2(dirs) or 0
    try:
        with pytest.raises(HostFault, match="start a process: clone3: ") as failed:
            Spawned(cgroup=place)
    finally:
        os.close(place)
    assert failed.value.errno in (errno.ENODEV, errno.ENOENT)
    assert children() == []


def test_a_process_that_the_kernel_does_not_make_is_a_fault_with_its_errno() -> None:
    def work() -> None:
        capabilities.limit_bounding(0)  # root gets back by execve what is in it
        capabilities.capset(0, 0, 0)
        Spawned(flags=namespaces.CLONE_NEWPID)

    with pytest.raises(HostFault) as failed:
        in_child_with_program(work)
    assert (failed.value.call, failed.value.errno) == ("clone3", errno.EPERM)


def in_child_with_program(work: Callable[[], None]) -> None:
    """``work`` in a child, where the program was opened while that was still possible."""
    program = open_program(LAUNCH)

    def opened() -> None:
        globals()["open_program"] = lambda path: os.dup(program)
        work()

    try:
        in_child(opened)
    finally:
        os.close(program)


def test_a_program_that_cannot_be_executed_is_a_fault(tmp_path: Path) -> None:
    (tmp_path / "launch").write_bytes(b"\1\2\3\4")
    before = descriptors()
    with pytest.raises(HostFault, match="start a process: launch: posix_spawn: ") as failed:
        Spawned(program=str(tmp_path / "launch"))
    assert failed.value.errno in (errno.EACCES, errno.ENOEXEC)
    assert descriptors() == before


def test_a_launch_that_is_killed_before_it_answers_has_borne_nobody() -> None:
    def work() -> list[str]:
        try:
            Spawned()
        except HostFault as fault:
            return [str(fault), *children()]
        return ["born"]

    assert filtered(PRCTL, KILL, work) == ["start a process: launch has been killed"]
    with pytest.raises(HostFault, match="launch has been killed"):
        Spawned(program="/bin/true")


def test_a_launch_that_is_killed_once_there_is_a_child_leaves_nobody_unknown() -> None:
    def work() -> int:
        with Spawned(9) as process:
            return process.wait()

    assert filtered(EXIT_GROUP, KILL, work, first=0) == 9


def test_a_report_of_a_failed_call_is_told_from_all_else() -> None:
    packet = struct.pack("=IIi", MAGIC, 3, errno.ENOENT)
    assert failure(packet) == (3, errno.ENOENT)
    assert failure(struct.pack("=IIi", MAGIC, 0xFFFFFFFF, 5004)) == (0xFFFFFFFF, 5004)
    for other in (b"", packet[:-1], packet + b"\0", b"console", b'{"kind": 1}}', bytes(12)):
        assert failure(other) is None


@pytest.mark.parametrize(
    ("packet", "pid"),
    [(REBORN + struct.pack("=Q", 77), 77), (REBORN, None), (b"x" * (len(REBORN) + 8), None)],
)
def test_who_goes_on_as_another_process_says_which(packet: bytes, pid: int | None) -> None:
    assert reborn(packet) == pid
