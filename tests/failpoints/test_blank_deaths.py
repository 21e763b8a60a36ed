"""Whoever dies or is stopped between a blank pod and its pause: no pause is told of that nobody follows."""

from __future__ import annotations

import asyncio
import os
import select
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from runtime import channel
from runtime.blank_init import BlankInit
from runtime.errors import FailedPrecondition, HostFault, Unavailable
from runtime.linux import spawn
from runtime.linux.script import Label, Script
from runtime.monitor_client import MonitorClient
from runtime.newborn import Child
from runtime.pause import DAEMON, MONITOR, plan_blank, take_place, wait_for_name
from runtime.requests import CgroupDirs
from runtime.written import Written
from tests.descriptors import open_descriptors
from tests.kernel.runtime.driven import SANDBOX, Driven, cgroups, driven
from tests.kernel.runtime.launched import needs_launch
from tests.kernel.runtime.nursery import Nursery

pytestmark = needs_launch


@pytest.fixture
def nursery() -> Iterator[Nursery]:
    made = Nursery()
    yield made
    made.close()


@pytest.fixture
def pod(tmp_path: Path) -> Iterator[Driven]:
    with driven(tmp_path) as made:
        yield made


@pytest.fixture
def init() -> Iterator[BlankInit]:
    made = BlankInit()
    yield made
    made.close()


@pytest.fixture
def frozen() -> Iterator[CgroupDirs]:
    """A cgroup in which whoever is born takes no step."""
    with cgroups("blank-deaths") as made:
        if made["v2"] is None or not os.path.exists(f"{made['v2']}/cgroup.freeze"):
            pytest.skip("needs cgroup v2 with a freezer")
        freeze(made, 1)
        yield {"v1": [], "v2": made["v2"]}


def freeze(dirs: CgroupDirs, value: int) -> None:
    Path(dirs["v2"] or "", "cgroup.freeze").write_text(str(value))


def born(dirs: CgroupDirs) -> int:
    """Whoever is in the cgroup, as soon as there is anybody."""
    while not (found := Path(dirs["v2"] or "", "cgroup.procs").read_text()):
        pass
    return int(found)


def waiting() -> Script:
    script = Script([DAEMON])
    wait_for_name(script)
    return script


def named() -> Script:
    """Take the place and stay."""
    script, ended = Script([MONITOR]), Label()
    take_place(script, ended)
    script.call("execve", "/bin/sleep", script.vector(["sleep", "1000"]), script.vector([]))
    script.here(ended)
    script.call("exit_group", 0)
    return script


def wake(nursery: Nursery, init: BlankInit, script: Script, dirs: CgroupDirs) -> Child:
    child = nursery.carry_out(waiting(), [init.theirs.fileno()])
    init.theirs.close()
    assert init.wake(Written({}, script.bytes(), lambda: script), dirs)
    return child


def hear(init: BlankInit) -> int | None:
    return asyncio.run(init.wait_executed(10))


def test_one_that_is_killed_before_it_has_told_who_it_is_is_no_pause(
    nursery: Nursery, init: BlankInit, frozen: CgroupDirs
) -> None:
    wake(nursery, init, named(), frozen)
    os.kill(born(frozen), signal.SIGKILL)
    assert hear(init) is None


def test_nobody_goes_on_whose_forerunner_the_monitor_has_seen_end(
    nursery: Nursery, init: BlankInit, frozen: CgroupDirs
) -> None:
    child = wake(nursery, init, named(), frozen)
    born(frozen)
    child.signal(signal.SIGKILL)
    nursery.wait("ready", "exit", "last")
    freeze(frozen, 0)
    assert hear(init) is None


def test_a_call_that_fails_before_anything_is_taken_is_told_as_well(
    nursery: Nursery, init: BlankInit, frozen: CgroupDirs
) -> None:
    freeze(frozen, 0)
    script = Script([MONITOR])
    script.call("chdir", "/absent", object="/absent")
    wake(nursery, init, script, frozen)
    with pytest.raises(HostFault, match=r"/absent: chdir: no such file"):
        hear(init)


@pytest.mark.parametrize("first", ["told to end", "ended"])
def test_a_forerunner_that_is_kept_from_ending_ends_with_it(
    nursery: Nursery, init: BlankInit, frozen: CgroupDirs, first: str
) -> None:
    child = wake(nursery, init, named(), frozen)
    born(frozen)
    child.signal(signal.SIGSTOP)
    freeze(frozen, 0)
    pid = hear(init)
    while child.pid != pid:
        nursery.loop.turn(0.05)
    assert nursery.told == [], "the other one has the report open"
    child.signal(signal.SIGKILL) if first == "told to end" else os.kill(child.pid, signal.SIGKILL)
    nursery.wait("ready", "exit", "last")


def test_the_monitor_has_a_pause_as_soon_as_that_has_told_who_it_is(
    pod: Driven, init: BlankInit, frozen: CgroupDirs
) -> None:
    script = plan_blank(["uts"])
    with spawn.closing_script(script.bytes()) as memfd:
        channel.send(pod._near, channel.request(1, "blank", {"namespaces": ["uts"]}), [memfd, init.theirs.fileno()])
    init.theirs.close()
    _, descriptors = pod.end(1)
    channel.close_all(descriptors)
    (forerunner,) = pod.monitor.pod.children._children
    assert init.wake(Written({}, named().bytes(), named), frozen)
    pid = born(frozen)
    os.kill(forerunner, signal.SIGSTOP)
    freeze(frozen, 0)
    assert hear(init) == pid
    pod.turn_until(lambda: pod.monitor.sandbox.pause_pid == pid)
    pod.hang_up()
    pod.monitor.loop.turn(0.05)
    assert not pod.monitor.loop.stopped, "a daemon that comes anew finds it"
    pod._near, far = channel.pair()
    pod._near.setblocking(False)
    pod.monitor.peers.add(far)


async def test_nothing_is_left_of_a_blank_pod_that_is_shut_down() -> None:
    before = open_descriptors()
    near, far = channel.pair()
    client = MonitorClient(near, 42, 1000)
    blank = asyncio.ensure_future(client.blank(["uts"]))
    await answer(far, "blank", [0])
    channel.close_all([*(await blank).namespaces.values()])
    end = asyncio.ensure_future(client.shutdown())
    await answer(far, "shutdown", [])
    await end
    far.close()
    await client.wait_closed()
    assert open_descriptors() == before


async def answer(far: channel.Socket, op: str, descriptors: list[int]) -> None:
    """Be the monitor that is asked for ``op``."""
    await asyncio.sleep(0)
    received = channel.receive(far)
    assert received is not None
    assert received[0]["op"] == op
    channel.close_all(received[1])
    channel.send(far, channel.answer(received[0]["id"], {"pause_pid": 0}), descriptors)


async def test_one_that_was_killed_when_the_monitor_knew_it_already_is_no_puzzle(tmp_path: Path) -> None:
    near, far = channel.pair()
    client = MonitorClient(near, 42, 1000)
    init = client._init = BlankInit()
    client._blank = ("uts",)
    request: Any = {**SANDBOX, "namespaces": ["uts"], "cgroup": {"v1": [], "v2": str(tmp_path)}}
    assert not (await client.sandbox(request)).pause_pid
    init.theirs.close()
    waited = asyncio.ensure_future(client.wait_for_pause(10))
    await asyncio.to_thread(select.select, [far], [], [], 10)
    received = channel.receive(far)
    assert received is not None
    channel.close_all(received[1])
    refusal = FailedPrecondition("the pod has its sandbox already")
    channel.send(far, channel.refusal(received[0]["id"], refusal))
    with pytest.raises(HostFault, match="wait for pause: it was killed before it was there"):
        await waited
    client.close()
    far.close()


async def test_a_monitor_that_ends_while_its_pause_is_waited_for_is_told_at_once(tmp_path: Path) -> None:
    near, far = channel.pair()
    client = MonitorClient(near, 42, 1000)
    init = client._init = BlankInit()
    client._blank = ("uts",)
    request: Any = {**SANDBOX, "namespaces": ["uts"], "cgroup": {"v1": [], "v2": str(tmp_path)}}
    assert not (await client.sandbox(request)).pause_pid
    waited = asyncio.ensure_future(client.wait_for_pause(10))
    await asyncio.sleep(0)
    far.close()
    await client.wait_closed()
    init.theirs.close()
    with pytest.raises(Unavailable):
        await waited
    client.close()
