"""A pod's processes and namespaces: a blank one's wait for its name, and everything made is taken back."""

from __future__ import annotations

import os
from typing import Any

import pytest

from cri.plan.document import decode
from cri.plan.sandbox import SandboxPlan
from cri.steps.namespaces import CreateNamespaces, PinNamespaces, WaitForPause
from cri.steps.sandbox import BLANK_DONE, plan_blank_steps, plan_steps
from proto import api_pb2 as api
from runtime.errors import DeadlineExceeded, FailedPrecondition
from tests.cri.harness import Crisp
from tests.processes import wait_command_line

ID = "b" * 64


async def test_a_blank_pod_has_the_first_steps_and_undoes_them(crisp: Crisp) -> None:
    id = "b" * 64
    steps = plan_blank_steps(id, crisp.host.pod_directory(id))
    assert {step.name for step in steps} >= BLANK_DONE
    for step in steps:
        assert step.describe()
        await step.apply(crisp.host)
    assert set(crisp.host.pods[id].namespaces) == {"network", "ipc", "uts"} and crisp.host.pods[id].addresses
    for step in reversed(steps):
        await step.undo(crisp.host)
    assert id not in crisp.host.pods


async def blank(crisp: Crisp) -> None:
    """A blank pod ``ID``."""
    for step in plan_blank_steps(ID, crisp.host.pod_directory(ID)):
        await step.apply(crisp.host)


async def drop(crisp: Crisp) -> None:
    for step in reversed(plan_blank_steps(ID, crisp.host.pod_directory(ID))):
        await step.undo(crisp.host)


async def test_pause_of_a_blank_pod_is_on_its_way_until_it_is_waited_for(crisp: Crisp) -> None:
    await blank(crisp)
    record = crisp.host.store.sandboxes.get(await crisp.run_pod())
    plan = crisp.host.plans[ID] = decode(record.plan, SandboxPlan)  # its cgroup is the other pod's
    create = CreateNamespaces(ID, plan.namespaces, plan.pause_cgroup)
    await create.apply(crisp.host)
    assert not crisp.host.pods[ID].pause_pid
    await WaitForPause(ID).apply(crisp.host)
    pid = crisp.host.pods[ID].pause_pid
    wait_command_line(pid, "/pause")
    await WaitForPause(ID).apply(crisp.host)  # it is there
    await create.undo(crisp.host)
    await create.undo(crisp.host)
    del crisp.host.plans[ID]
    await drop(crisp)
    assert not os.path.exists(f"/proc/{pid}")


async def test_nobody_is_waited_for_who_is_not_on_his_way(crisp: Crisp) -> None:
    await blank(crisp)
    with pytest.raises(FailedPrecondition, match="none is on its way"):
        await WaitForPause(ID).apply(crisp.host)
    await drop(crisp)


async def test_a_pod_that_shares_its_processes_gets_what_a_blank_one_lacks(crisp: Crisp) -> None:
    config = crisp.pod()
    config.linux.security_context.namespace_options.pid = api.POD
    id = await crisp.run_pod(config)
    pod = crisp.host.pods[id]
    pin = f"{crisp.host.pod_directory(id)}/ns/pid"
    assert os.stat(pin).st_ino == os.stat(f"/proc/{pod.pause_pid}/ns/pid").st_ino
    pins = PinNamespaces(id, crisp.host.pod_directory(id), ("pid",))
    await pins.undo(crisp.host)
    assert not os.path.exists(pin)


async def test_a_monitor_that_hangs_is_ended_itself(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> None:
    id = await crisp.run_pod()
    pod = crisp.host.pods[id]
    pod.stopping = True

    async def hang() -> Any:
        raise DeadlineExceeded("no answer")

    monkeypatch.setattr(type(pod.monitor), "shutdown", lambda self: hang())
    steps = plan_steps(decode(crisp.host.store.sandboxes.get(id).plan, SandboxPlan))
    start = next(step for step in steps if step.name == "start_monitor")
    await start.undo(crisp.host)
    assert id not in crisp.host.pods
    await start.undo(crisp.host)
