"""The steps of a container: its places, its limits, its first process, and all of it undone."""

from __future__ import annotations

import logging
import os
import signal
from pathlib import Path

import grpc
import pytest

from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.steps.container import StartInit, plan_create_steps
from proto import api_pb2 as api
from runtime.cgroups import tree
from runtime.errors import FailedPrecondition
from tests.cri.harness import Crisp


async def test_a_created_container_has_its_layer_and_its_cgroup(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.create(sandbox)
    plan = decode(crisp.host.store.containers.get(id).plan, ContainerPlan)
    assert os.path.isdir(f"{plan.directory}/upper")
    assert tree.exists(crisp.host.layout, plan.cgroup)


async def test_every_undo_is_idempotent(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    record = crisp.host.store.containers.get(id)
    plan = decode(record.plan, ContainerPlan)
    steps = [*plan_create_steps(plan), StartInit(sandbox, id, plan.cgroup)]
    for _ in range(2):
        for step in reversed(steps):
            assert step.describe()
            await step.undo(crisp.host)
    assert not os.path.exists(f"/proc/{record.pid}") and not os.path.exists(plan.directory)
    assert not tree.exists(crisp.host.layout, plan.cgroup)


async def prepared_pid(crisp: Crisp, id: str) -> int:
    """The process that waits in the container's cgroup, once it is there."""
    plan = decode(crisp.host.store.containers.get(id).plan, ContainerPlan)
    await crisp.until(lambda: bool(tree.procs(crisp.host.layout, plan.cgroup)))
    return min(tree.procs(crisp.host.layout, plan.cgroup))


async def test_a_created_container_is_prepared_and_its_start_releases_that_process(crisp: Crisp) -> None:
    id = await crisp.create(await crisp.run_pod())
    pid = await prepared_pid(crisp, id)
    await crisp.start(id)
    assert crisp.host.store.containers.get(id).pid == pid


async def test_a_container_starts_as_well_when_what_was_prepared_has_been_killed(crisp: Crisp) -> None:
    id = await crisp.create(await crisp.run_pod())
    pid = await prepared_pid(crisp, id)
    os.kill(pid, signal.SIGKILL)
    await crisp.until(lambda: not os.path.exists(f"/proc/{pid}"))
    await crisp.start(id)
    assert crisp.host.store.containers.get(id).pid != pid


async def test_new_limits_of_a_created_container_are_those_of_its_process(crisp: Crisp) -> None:
    id = await crisp.create(await crisp.run_pod())
    pid = await prepared_pid(crisp, id)
    change = api.LinuxContainerResources(oom_score_adj=900)
    await crisp.runtime.UpdateContainerResources(api.UpdateContainerResourcesRequest(container_id=id, linux=change))
    await crisp.start(id)
    started = crisp.host.store.containers.get(id).pid
    assert started != pid
    assert Path(f"/proc/{started}/oom_score_adj").read_text() == "900\n"


async def test_a_created_container_that_is_removed_leaves_no_process(crisp: Crisp) -> None:
    id = await crisp.create(await crisp.run_pod())
    pid = await prepared_pid(crisp, id)
    await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))
    assert not os.path.exists(f"/proc/{pid}")


async def test_what_cannot_be_prepared_is_told_by_the_start_and_not_before(crisp: Crisp) -> None:
    config = crisp.container()
    config.working_dir = "/bin/sh"
    id = await crisp.create(await crisp.run_pod(), config)
    with pytest.raises(grpc.aio.AioRpcError, match="working directory"):
        await crisp.start(id)
    assert crisp.host.store.containers.get(id).reason == "StartError"


async def test_a_start_without_a_monitor_is_refused(crisp: Crisp) -> None:
    with pytest.raises(FailedPrecondition, match="monitor"):
        await StartInit("no such pod", "c", "/c").apply(crisp.host)


async def test_an_oom_score_that_the_host_refuses_is_noted_at_the_start(
    crisp: Crisp, caplog: pytest.LogCaptureFixture
) -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    if "CAP_SYS_RESOURCE" in crisp.host.facts.bounding or own == -1000:
        pytest.skip("needs a daemon without CAP_SYS_RESOURCE, which cannot lower its score")
    config = crisp.container()
    config.linux.resources.oom_score_adj = own - 1
    with caplog.at_level(logging.INFO, "crisp.steps"):
        id = await crisp.run(await crisp.run_pod(), config)
    noted = [each for each in caplog.records if getattr(each, "container_id", "") == id]
    assert [each.getMessage() for each in noted] == [
        f"oom_score_adj {own - 1} is clamped to {own}: the host refuses a lower one"
    ]
