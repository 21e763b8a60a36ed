"""The daemon's end of what waits in a blank pod: it hears of each end, and holds nothing afterwards."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtime.blank_init import BlankInit
from runtime.errors import DeadlineExceeded, HostFault, Unavailable
from runtime.linux.script import Label, Script
from runtime.newborn import Child
from runtime.pause import DAEMON, MONITOR, take_place, wait_for_name
from runtime.requests import CgroupDirs
from runtime.written import Written
from tests.descriptors import open_descriptors
from tests.kernel.runtime.driven import NOWHERE, cgroups
from tests.kernel.runtime.launched import needs_launch
from tests.kernel.runtime.nursery import Nursery

pytestmark = needs_launch


@pytest.fixture
def init() -> Iterator[BlankInit]:
    made = BlankInit()
    yield made
    made.close()


@pytest.fixture
def dirs() -> Iterator[CgroupDirs]:
    with cgroups("blank-init") as made:
        if made["v2"] is None:
            pytest.skip("needs cgroup v2")
        yield {"v1": [], "v2": made["v2"]}


def waiting(nursery: Nursery, init: BlankInit) -> Child:
    """A process that waits, in the test's own namespaces."""
    script = Script([DAEMON])
    wait_for_name(script)
    child = nursery.carry_out(script, [init.theirs.fileno()])
    init.theirs.close()
    return child


def named(write: Callable[[Script], object]) -> Written:
    """What it is to do once it has a name."""
    script, ended = Script([MONITOR]), Label()
    take_place(script, ended)
    write(script)
    script.here(ended)
    script.call("exit_group", 0)
    return Written({}, script.bytes(), lambda: script)


def stay(script: Script) -> None:
    script.call("execve", "/bin/sleep", script.vector(["sleep", "1000"]), script.vector([]))


def stop(child: Child) -> None:
    child.signal(signal.SIGSTOP)
    os.waitid(os.P_PIDFD, child.pidfd, os.WSTOPPED | os.WNOWAIT)


def hear(init: BlankInit, timeout: float = 10) -> int | None:
    return asyncio.run(init.wait_executed(timeout))


def test_the_pid_is_that_of_the_executed_program(nursery: Nursery, init: BlankInit, dirs: CgroupDirs) -> None:
    child = waiting(nursery, init)
    before = child.pid
    assert init.wake(named(stay), dirs)
    pid = hear(init)
    assert pid not in (None, before)
    assert os.readlink(f"/proc/{pid}/exe") == os.path.realpath("/bin/sleep")
    assert Path(dirs["v2"] or "", "cgroup.procs").read_text() == f"{pid}\n"
    nursery.wait("ready")
    assert child.pid == pid


def test_a_failed_call_comes_in_words(nursery: Nursery, init: BlankInit, dirs: CgroupDirs) -> None:
    waiting(nursery, init)
    written = named(lambda script: script.call("chdir", "/absent", object="/absent"))
    assert init.wake(written, dirs)
    with pytest.raises(HostFault, match=r"/absent: chdir: no such file or directory \(ENOENT\)"):
        hear(init)


def test_one_that_was_killed_before_is_told_by_the_send(nursery: Nursery, init: BlankInit, dirs: CgroupDirs) -> None:
    child = waiting(nursery, init)
    child.signal(signal.SIGKILL)
    nursery.wait("ready", "exit", "last")
    assert not init.wake(named(stay), dirs)


def test_one_that_is_killed_before_it_has_read_bears_nobody(
    nursery: Nursery, init: BlankInit, dirs: CgroupDirs
) -> None:
    child = waiting(nursery, init)
    stop(child)
    assert init.wake(named(stay), dirs)
    child.signal(signal.SIGKILL)
    assert hear(init) is None


def test_a_cgroup_that_has_gone_meanwhile_is_a_fault(nursery: Nursery, init: BlankInit, dirs: CgroupDirs) -> None:
    child = waiting(nursery, init)
    stop(child)
    assert init.wake(named(stay), dirs)
    os.rmdir(dirs["v2"] or "")
    child.signal(signal.SIGCONT)
    with pytest.raises(HostFault, match=r"start a process: clone3: no such (device|file or directory)"):
        hear(init)
    os.mkdir(dirs["v2"] or "")


def test_there_is_no_waking_without_the_cgroup(nursery: Nursery, init: BlankInit) -> None:
    waiting(nursery, init)
    assert not init.wake(named(stay), NOWHERE)
    assert not init.wake(named(stay), {"v1": [], "v2": "/sys/fs/cgroup/absent"})


def test_one_that_does_not_get_there_is_not_waited_for_for_ever(
    nursery: Nursery, init: BlankInit, dirs: CgroupDirs
) -> None:
    child = waiting(nursery, init)
    stop(child)
    assert init.wake(named(stay), dirs)
    began = time.monotonic()
    with pytest.raises(DeadlineExceeded, match=r"wait for pause: not there after 0\.1 s"):
        hear(init, 0.1)
    assert time.monotonic() - began < 5


def test_it_ends_with_the_daemons_end(nursery: Nursery, init: BlankInit) -> None:
    waiting(nursery, init)
    init.close()
    assert nursery.wait("ready", "exit", "last")[1] == 0


def test_no_descriptor_is_left_woken_or_not(nursery: Nursery, dirs: CgroupDirs) -> None:
    before = open_descriptors()
    BlankInit().close()
    init = BlankInit()
    child = waiting(nursery, init)
    child.signal(signal.SIGKILL)
    init.wake(named(stay), dirs)
    init.close()
    init.close()
    nursery.wait("ready", "exit", "last")
    assert open_descriptors() == before


async def test_whoever_waits_is_told_that_it_is_to_be_closed_and_closes_it(init: BlankInit) -> None:
    before = open_descriptors()
    waited = asyncio.ensure_future(init.wait_executed(10))
    await asyncio.sleep(0)
    init.close()
    with pytest.raises(Unavailable, match="wait for pause: its monitor ends"):
        await waited
    assert open_descriptors() == before
    init.close()
    assert open_descriptors() < before
