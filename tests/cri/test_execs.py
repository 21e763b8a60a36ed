"""Commands that were begun: known until their end, numbered apart from those of earlier daemons."""

from __future__ import annotations

import asyncio
import os
import signal
from pathlib import Path
from typing import Any

import pytest

from cri import execs
from cri.host import first_number
from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from runtime.cgroups import layout, tree
from runtime.channel import close_all
from runtime.errors import FailedPrecondition, NotFound, StartRefused, Unavailable
from tests.cri.harness import Crisp


def cgroups(crisp: Crisp, id: str) -> list[str]:
    """The names of those below the container's."""
    plan = decode(crisp.host.store.containers.get(id).plan, ContainerPlan)
    dirs = layout.dirs(crisp.host.layout, plan.cgroup)
    found = {each.name for path in filter(None, [*dirs["v1"], dirs["v2"]]) for each in Path(path).iterdir()}
    return sorted(name for name in found if name.startswith("exec-"))


async def test_a_command_is_known_until_its_end_and_then_forgotten(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    pod = crisp.host.pods[sandbox]
    command = await execs.start_exec(crisp.host, id, ["cat"], stdin=True)
    assert list(pod.execs) == [command.name] and cgroups(crisp, id) == [command.name]
    stdout, stderr, stdin = command.descriptors
    os.close(stdin)
    assert await command.exited == (0, False)
    close_all([stdout, stderr])
    await crisp.until(lambda: pod.execs == {} and cgroups(crisp, id) == [])


async def test_a_terminal_is_one_descriptor(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    command = await execs.start_exec(crisp.host, id, ["cat"], tty=True, stdin=True)
    (master,) = command.descriptors
    os.close(master)
    assert (await command.exited)[0] == 129  # hung up


async def test_a_timeout_is_told(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    command = await execs.start_exec(crisp.host, id, ["sleep", "100"], timeout=0.1)
    assert await command.exited == (137, True)
    close_all(command.descriptors)


async def test_one_that_is_given_up_is_killed_unless_the_daemon_stops(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch
) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    pod = crisp.host.pods[sandbox]
    command = await execs.start_exec(crisp.host, id, ["sleep", "100"])
    with monkeypatch.context() as patch:
        patch.setattr(crisp.host, "stopping", True)
        execs.give_up(crisp.host, pod, command.name)
        assert f"kill {command.name}" not in crisp.host.tasks.names()
    await pod.monitor.hello()
    assert list(pod.execs) == [command.name]
    execs.give_up(crisp.host, pod, command.name)
    assert await command.exited == (137, False)
    close_all(command.descriptors)
    await execs.kill_exec(pod, command.name)  # a second time is none


async def test_that_one_cannot_be_killed_is_said(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def refuse(*_: Any) -> None:
        raise Unavailable("the connection has ended")

    sandbox = await crisp.run_pod()
    monkeypatch.setattr(type(crisp.host.pods[sandbox].monitor), "kill_exec", refuse)
    await execs.kill_exec(crisp.host.pods[sandbox], "exec-1")
    assert "exec-1, which nobody waits for any more: the connection has ended" in caplog.text


async def test_one_whose_start_nobody_waits_for_any_more_does_not_go_on(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    pod = crisp.host.pods[sandbox]
    os.kill(pod.monitor.pid, signal.SIGSTOP)
    try:
        starting = asyncio.ensure_future(execs.start_exec(crisp.host, id, ["sleep", "100"]))
        await crisp.until(lambda: len(pod.execs) == 1)
        starting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await starting
        assert pod.execs == {}
    finally:
        os.kill(pod.monitor.pid, signal.SIGCONT)
    await pod.monitor.hello()  # what was asked before is done
    await crisp.until(lambda: cgroups(crisp, id) == [])


async def test_one_that_cannot_start_leaves_nothing(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    with pytest.raises(StartRefused):
        await execs.start_exec(crisp.host, id, ["/absent"])
    await crisp.until(lambda: crisp.host.pods[sandbox].execs == {} and cgroups(crisp, id) == [])


async def test_only_what_runs_takes_a_command(crisp: Crisp) -> None:
    created = await crisp.create(await crisp.run_pod())
    with pytest.raises(FailedPrecondition):
        execs.find_running(crisp.host, created)
    with pytest.raises(NotFound):
        execs.find_running(crisp.host, "f" * 64)
    lost = await crisp.run(await crisp.run_pod())
    pod = crisp.host.pods.pop(crisp.host.store.containers.get(lost).sandbox_id)
    with pytest.raises(FailedPrecondition, match="no monitor"):
        execs.find_running(crisp.host, lost)
    crisp.host.pods[crisp.host.store.containers.get(lost).sandbox_id] = pod


async def test_numbers_are_above_those_of_an_earlier_daemon(crisp: Crisp) -> None:
    given = crisp.host.next_exec()
    assert first_number() >= given - 1000
    id = await crisp.run(await crisp.run_pod())
    plan = decode(crisp.host.store.containers.get(id).plan, ContainerPlan)
    assert tree.remove_exec(crisp.host.layout, plan.cgroup, f"exec-{given}")
