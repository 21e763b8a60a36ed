"""The steps of a pod: what they say, and that every undo may be repeated."""

from __future__ import annotations

import os

import msgspec

from cri.plan.document import decode
from cri.plan.sandbox import BRIDGE, CNI, SandboxPlan
from cri.steps.files import read_host_file
from cri.steps.sandbox import BLANK_DONE, AttachNetwork, MountShm, WriteFiles, blank_done, plan_steps
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


async def test_a_blank_pods_shm_is_used_where_it_is_as_wanted(crisp: Crisp) -> None:
    record = crisp.host.store.sandboxes.get(await crisp.run_pod())
    plan, blank = decode(record.plan, SandboxPlan), crisp.host.pods[record.id]
    assert blank_done(blank, plan) == BLANK_DONE
    labelled = msgspec.structs.replace(plan, mount_label=LABEL)
    assert blank_done(blank, labelled) == BLANK_DONE - {MountShm.name}
    blank.provider = ""
    assert blank_done(blank, plan) == BLANK_DONE - {AttachNetwork.name}


async def test_another_shm_is_mounted_over_a_blank_pods_and_both_go(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    path = crisp.host.pod_directory(sandbox)
    step = MountShm(sandbox, path, 1 << 20)
    await step.apply(crisp.host)
    found = os.statvfs(f"{path}/shm")
    assert found.f_blocks * found.f_frsize == 1 << 20
    await step.undo(crisp.host)
    assert not os.path.ismount(f"{path}/shm")
    await step.undo(crisp.host)


async def test_a_pods_files_have_its_label(crisp: Crisp) -> None:
    """The attribute is stored where there is no SELinux, too; a mount's context is not."""
    sandbox = await crisp.run_pod()
    path = crisp.host.pod_directory(sandbox)
    await WriteFiles(sandbox, path, "web", {"hosts": "127.0.0.1 localhost", "resolv.conf": None}, 0, LABEL).apply(
        crisp.host
    )
    for name in ("hosts", "resolv.conf"):
        assert os.getxattr(f"{path}/files/{name}", "security.selinux") == LABEL.encode() + b"\0"


async def test_a_host_file_that_is_not_there_is_empty(crisp: Crisp) -> None:
    assert read_host_file(f"{crisp.host.root}/absent") == b""
    assert read_host_file("/etc/passwd")


async def test_plugins_find_the_namespace_as_the_pod_wants_it(crisp: Crisp) -> None:
    plan = decode(crisp.host.store.sandboxes.get(await crisp.run_pod()).plan, SandboxPlan)
    for provider in (BRIDGE, CNI):
        names = [step.name for step in plan_steps(msgspec.structs.replace(plan, provider=provider))]
        assert names.count("wait_for_pause") == 1
        assert (names.index("wait_for_pause") < names.index("attach_network")) == (provider == CNI)
