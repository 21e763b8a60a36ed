"""The steps of a pod: what they say, and that every undo may be repeated."""

from __future__ import annotations

import os

from cri.plan.document import decode
from cri.plan.sandbox import SandboxPlan
from cri.steps.files import read_host_file
from cri.steps.sandbox import BLANK_DONE, WriteFiles, plan_blank_steps, plan_steps
from tests.cri.harness import Crisp

LABEL = "system_u:object_r:container_file_t:s0:c1,c2"


async def test_every_undo_is_idempotent_applied_or_not(crisp: Crisp) -> None:
    id = await crisp.run_pod()
    record = crisp.host.store.sandboxes.get(id)
    steps = plan_steps(decode(record.plan, SandboxPlan))
    crisp.host.pods[id].stopping = True
    for _ in range(2):
        for step in reversed(steps):
            await step.undo(crisp.host)
    assert not os.path.exists(crisp.host.pod_directory(id)) and id not in crisp.host.pods
    assert not os.path.exists(f"/proc/{record.pause_pid}")


async def test_every_step_says_what_it_does(crisp: Crisp) -> None:
    record = crisp.host.store.sandboxes.get(await crisp.run_pod())
    for step in plan_steps(decode(record.plan, SandboxPlan)):
        assert step.describe() and step.describe()[0].islower()


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


async def test_a_pods_files_have_its_label(crisp: Crisp) -> None:
    """The attribute is stored where there is no SELinux, too; a mount's context is not."""
    sandbox = await crisp.run_pod()
    path = crisp.host.pod_directory(sandbox)
    await WriteFiles(sandbox, path, "web", {"hosts": "127.0.0.1 localhost", "resolv.conf": None}, None, 0, LABEL).apply(
        crisp.host
    )
    for name in ("hosts", "resolv.conf"):
        assert os.getxattr(f"{path}/files/{name}", "security.selinux") == LABEL.encode() + b"\0"


async def test_a_host_file_that_is_not_there_is_empty(crisp: Crisp) -> None:
    assert read_host_file(f"{crisp.host.root}/absent") == b""
    assert read_host_file("/etc/passwd")
