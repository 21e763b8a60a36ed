"""The steps of an update: applied, refused, undone, and what happens where the old limits cannot come back."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import pytest

from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.plan.resources import plan_update
from cri.plan.sandbox import SandboxPlan
from cri.rpc.container_update import plan_steps
from cri.state.records import ContainerRecord
from cri.steps.limits import LimitStep, SetContainerLimits, SetOomScore, SetPodLimits, plan_change, read_told_score
from proto import api_pb2 as api
from runtime.cgroups import tree
from runtime.cgroups.in_force import read_current
from runtime.cgroups.resources import LimitPlan, plan_writes
from runtime.errors import FailedPrecondition, InvalidArgument
from tests.cri.harness import Crisp

MIB = 1 << 20
OLD = api.LinuxContainerResources(memory_limit_in_bytes=64 * MIB, cpu_shares=512, oom_score_adj=300)
NEW = api.LinuxContainerResources(memory_limit_in_bytes=256 * MIB, cpu_shares=700, oom_score_adj=400)
GROWS = "until [ -e /grow ]; do sleep 0.01; done; a=$(dd if=/dev/zero bs=1M count=100 2>/dev/null | tr '\\0' x); "
GROWS += "echo grown; while :; do sleep 1000; done"  # the shell stays, and holds it


async def container(crisp: Crisp, *command: str) -> ContainerRecord:
    config = crisp.container(*command)
    config.linux.resources.CopyFrom(OLD)
    return crisp.host.store.containers.get(await crisp.run(await crisp.run_pod(), config))


def steps_of(crisp: Crisp, record: ContainerRecord, change: api.LinuxContainerResources) -> list[LimitStep]:
    cgroup = decode(record.plan, ContainerPlan).cgroup
    return plan_steps(crisp.host, record, cgroup, change, change)


async def undo(crisp: Crisp, steps: list[LimitStep]) -> None:
    for _ in range(2):
        for step in reversed(steps):
            await step.undo(crisp.host)


def score(record: ContainerRecord) -> int:
    return int(Path(f"/proc/{record.pid}/oom_score_adj").read_text())


def in_kernel(crisp: Crisp, record: ContainerRecord) -> tuple[int, int]:
    cgroup = decode(record.plan, ContainerPlan).cgroup
    return read_current(crisp.host.layout, cgroup).memory_limit, score(record)


async def test_what_is_applied_is_undone_as_often_as_asked(crisp: Crisp) -> None:
    record = await container(crisp)
    steps = steps_of(crisp, record, NEW)
    assert [type(step) for step in steps] == [SetOomScore, SetContainerLimits]
    await undo(crisp, steps)  # none has been applied
    for step in steps:
        assert step.describe()
        await step.apply(crisp.host)
    assert in_kernel(crisp, record) == (256 * MIB, 400)
    await undo(crisp, steps)
    assert in_kernel(crisp, record) == (64 * MIB, 300)
    assert crisp.host.store.containers.get(record.id) == record


async def test_where_the_old_limits_are_below_the_use_the_new_ones_are_in_force_and_told(
    crisp: Crisp, caplog: pytest.LogCaptureFixture
) -> None:
    record = await container(crisp, "sh", "-c", GROWS)
    steps = steps_of(crisp, record, NEW)
    for step in steps:
        await step.apply(crisp.host)
    await crisp.exec(record.id, "touch", "/grow")
    await crisp.until(lambda: "grown" in crisp.log(record.id))
    with caplog.at_level(logging.WARNING, "crisp.resources"):
        await undo(crisp, steps)
    assert "the old ones are refused" in caplog.text and "memory" in caplog.text
    assert in_kernel(crisp, record) == (256 * MIB, 400)
    assert (await crisp.status(record.id)).resources.linux == NEW


async def test_where_a_pods_old_limits_are_below_the_use_the_new_ones_are_in_force_and_kept(crisp: Crisp) -> None:
    config = crisp.pod()
    config.linux.resources.memory_limit_in_bytes = 64 * MIB
    sandbox = await crisp.run_pod(config)
    cgroup = decode(crisp.host.store.sandboxes.get(sandbox).plan, SandboxPlan).cgroup_parent
    request = api.UpdatePodSandboxResourcesRequest(pod_sandbox_id=sandbox, resources=NEW)
    limits = plan_writes(plan_update(NEW), crisp.host.layout)
    step = SetPodLimits(sandbox, plan_change(crisp.host, cgroup, limits), request.SerializeToString())
    for _ in range(2):
        await step.apply(crisp.host)
        await step.undo(crisp.host)
        assert read_current(crisp.host.layout, cgroup).memory_limit == 64 * MIB
    await step.apply(crisp.host)
    id = await crisp.run(sandbox, crisp.container("sh", "-c", "touch /grow; " + GROWS))
    await crisp.until(lambda: "grown" in crisp.log(id))
    await step.undo(crisp.host)
    assert step.describe() and read_current(crisp.host.layout, cgroup).memory_limit == 256 * MIB
    stored = api.PodSandboxConfig.FromString(crisp.host.store.sandboxes.get(sandbox).config)
    assert stored.linux.resources == NEW


async def test_the_score_of_a_process_that_has_ended_is_not_told(crisp: Crisp) -> None:
    record = await container(crisp)
    cgroup = decode(record.plan, ContainerPlan).cgroup
    assert read_told_score(crisp.host, record, cgroup, 123) == 300
    monitor = crisp.host.pods[record.sandbox_id].monitor.pid
    os.kill(monitor, signal.SIGSTOP)  # so that it is not waited for
    try:
        os.kill(record.pid, signal.SIGKILL)
        await crisp.until(lambda: record.pid not in tree.procs(crisp.host.layout, cgroup))
        assert score(record) == 300
        assert read_told_score(crisp.host, record, cgroup, 123) == 123
    finally:
        os.kill(monitor, signal.SIGCONT)


async def test_what_the_kernel_refuses_is_a_fault_of_the_request(crisp: Crisp) -> None:
    record = await container(crisp)
    cgroup = decode(record.plan, ContainerPlan).cgroup
    writes = plan_writes(plan_update(api.LinuxContainerResources(cpuset_cpus="0")), crisp.host.layout).writes
    for wrong, kind in (("nonsense", InvalidArgument), ("", FailedPrecondition)):
        (write,) = [type(each)(each.controller, each.file, wrong or "0") for each in writes]
        place = cgroup if wrong else f"{cgroup}-gone"
        change = plan_change(crisp.host, place, LimitPlan((write,)))
        step = SetContainerLimits(record.sandbox_id, record.id, change, b"")
        with pytest.raises(kind, match=r"cpuset\.cpus"):
            await step.apply(crisp.host)
        await step.undo(crisp.host)


async def test_of_a_container_that_is_gone_there_is_nothing_to_undo(crisp: Crisp) -> None:
    record = await container(crisp)
    steps = steps_of(crisp, record, NEW)
    await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=record.id))
    await undo(crisp, steps)
