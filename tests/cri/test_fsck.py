"""What belongs to nobody is found and, with repair, removed; what is being made is left alone."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from cri.demo_image import Entry
from cri.fsck import Finding, fsck, unfinished
from cri.intent import settle_debt
from cri.mountpoints import MAKE
from cri.state.records import OperationPhase, OperationRecord, SandboxState
from cri.steps.codec import encode
from cri.steps.sandbox import MakePodDirectory
from network.provider import OrphanKind, PortMapping
from proto import api_pb2 as api
from runtime.cgroups import tree
from runtime.linux import mount
from tests.cri.harness import Crisp

ID = "f" * 64


async def repair_all(crisp: Crisp, *expected: tuple[str, str]) -> None:
    """Exactly ``expected`` (kind and object) is found, twice; then repaired, and nothing is left."""
    for _ in range(2):
        assert [(each.kind, each.object) for each in await fsck(crisp.host, repair=False)] == list(expected)
    repaired = await fsck(crisp.host, repair=True)
    assert [(each.kind, each.object, each.repaired, each.error) for each in repaired] == [
        (kind, name, True, "") for kind, name in expected
    ]
    assert await fsck(crisp.host, repair=True) == []


async def test_a_host_in_order_has_no_findings(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    await crisp.run(sandbox)
    await crisp.create(sandbox, crisp.container(name="created"))
    assert await fsck(crisp.host, repair=True) == []
    assert crisp.host.store.sandboxes.get(sandbox).state is SandboxState.READY


async def test_the_directory_of_no_pod_goes_with_its_pins_and_its_shm(crisp: Crisp) -> None:
    path = crisp.host.pod_directory(ID)
    await MakePodDirectory(ID, path).apply(crisp.host)
    Path(path, "ns", "network").touch()
    mount.mount("/proc/self/ns/net", f"{path}/ns/network", "", mount.MS_BIND)
    mount.mount("shm", f"{path}/shm", "tmpfs", 0)
    await repair_all(crisp, ("directory", path))
    assert not os.path.exists(path) and path not in Path("/proc/self/mountinfo").read_text()


async def test_the_directory_of_no_container_goes(crisp: Crisp) -> None:
    path = Path(crisp.host.container_directory(ID))
    (path / "upper" / "etc").mkdir(parents=True)
    (path / "upper" / "etc" / "file").write_text("x")
    await repair_all(crisp, ("directory", str(path)))
    await crisp.settle()
    assert not path.exists() and os.listdir(crisp.host.root / "trash") == []


async def test_what_is_no_layer_and_no_part_of_a_pull_goes(crisp: Crisp) -> None:
    paths = [crisp.host.root / "layers" / name for name in (".tmp-left", "f" * 64)]
    for path in paths:
        (path / "fs" / "etc").mkdir(parents=True)
    await repair_all(crisp, *(("layer", str(path)) for path in sorted(paths)))
    await crisp.settle()
    assert not any(path.exists() for path in paths)
    assert os.listdir(crisp.host.root / "layers" / ".trash") == []


async def test_layers_of_mountpoints_without_an_image_and_what_is_left_of_their_making_go(crisp: Crisp) -> None:
    top = crisp.host.root / "mountpoints"
    here = top / crisp.host.boot_id
    paths = [top / "another-boot", here / ".0123456789abcdef", here / f"{ID}-{'0' * 16}"]
    for path in paths:
        (path / "etc").mkdir(parents=True)
    await repair_all(crisp, *(("mountpoints", str(path)) for path in paths))
    assert not any(path.exists() for path in paths)


@pytest.mark.parametrize("place", ["before", "mid"])
async def test_a_layer_of_mountpoints_that_is_being_made_is_left_alone(crisp: Crisp, place: str) -> None:
    crisp.host.failpoints.set(f"{MAKE}:{place}", "hang")
    mount = api.Mount(container_path=f"/being-made-{place}", host_path="/tmp")
    await crisp.create(await crisp.run_pod(), crisp.container(mounts=[mount]))
    await crisp.until(lambda: any(point.waiting for point in crisp.host.failpoints.points()))
    assert await fsck(crisp.host, repair=True) == []
    before = len(crisp.host.mountpoints)
    crisp.host.failpoints.set("*", "off")
    await crisp.end_of_tasks()
    assert len(crisp.host.mountpoints) == before + 1 and await fsck(crisp.host, repair=True) == []


@pytest.mark.parametrize("stage", ["unpack_archive:mid", "unpack_layer:mid", "commit_layer:mid"])
async def test_an_image_that_is_on_its_way_is_left_alone(crisp: Crisp, stage: str) -> None:
    crisp.host.failpoints.set(f"images/{stage}", "hang")
    async with asyncio.TaskGroup() as group:
        entry = Entry("etc/new", 0o644, stage.encode())
        imported = group.create_task(crisp.import_image("crisp.local/new:1", {}, [entry]))
        await crisp.until(lambda: any(point.waiting for point in crisp.host.failpoints.points()))
        assert await fsck(crisp.host, repair=True) == []
        crisp.host.failpoints.set("*", "off")
    await crisp.host.images.remove(imported.result())


async def test_the_cgroup_of_no_pod_goes_with_what_runs_in_it(crisp: Crisp) -> None:
    path = f"/crisp-{crisp.host.instance}/{ID}"
    tree.create(crisp.host.layout, path, ID)
    child = await asyncio.create_subprocess_exec("sleep", "1000")
    for hierarchy in crisp.host.layout.v1:
        Path(hierarchy.mount + path, "cgroup.procs").write_text(str(child.pid))
    if not crisp.host.layout.v1:
        Path(f"{crisp.host.layout.v2}{path}", "cgroup.procs").write_text(str(child.pid))
    await repair_all(crisp, ("cgroup", path))
    assert await child.wait() == -signal.SIGKILL
    assert not tree.exists(crisp.host.layout, path)


async def owe(crisp: Crisp, path: str) -> None:
    """As a killed daemon: the intent to make a pod, and its directory."""
    await crisp.host.store.commit(
        begin=OperationRecord(
            key=f"sandbox/{ID}",
            digest="",
            kind="RunPodSandbox",
            object_id=ID,
            steps=encode([MakePodDirectory(ID, path)]),
            phase=OperationPhase.RUNNING,
            began_at=time.time_ns(),
        )
    )
    await MakePodDirectory(ID, path).apply(crisp.host)


async def test_an_unfinished_operation_is_undone(crisp: Crisp) -> None:
    path = crisp.host.pod_directory(ID)
    await owe(crisp, path)
    (found,) = [each for each in await fsck(crisp.host, repair=False) if each.kind == "operation"]
    assert found == Finding("operation", ID, "an unfinished RunPodSandbox is owed its undo")
    await fsck(crisp.host, repair=True)
    assert crisp.host.operations.unfinished() == [] and not os.path.exists(path)


async def test_what_was_found_unfinished_and_has_been_undone_and_begun_again_is_left_alone(crisp: Crisp) -> None:
    path = crisp.host.pod_directory(ID)
    await owe(crisp, path)
    ((_, mend),) = [each async for each in unfinished(crisp.host)]
    await settle_debt(crisp.host, f"sandbox/{ID}")
    await owe(crisp, path)
    await mend()
    assert os.path.exists(path) and len(crisp.host.operations.unfinished()) == 1
    await settle_debt(crisp.host, f"sandbox/{ID}")


async def test_the_link_the_elements_the_lease_and_the_port_of_no_pod_go(crisp: Crisp) -> None:
    id = await crisp.host.pool._make()
    bridge: Any = crisp.host.network["bridge"]
    await bridge._ports.claim(id, [PortMapping("tcp", 8080, 80, "")])
    pod = crisp.host.pods.pop(id)
    try:
        found = {(each.kind, each.object): each for each in await fsck(crisp.host, repair=False)}
        kinds = {kind for kind, _ in found}
        bridged = set(OrphanKind) - {OrphanKind.ATTACHMENT}
        assert kinds == {"directory", *(kind.value for kind in bridged)}
        assert (OrphanKind.ELEMENT.value, pod.addresses[0]) in found
        assert all(each.repaired for each in await fsck(crisp.host, repair=True))
        assert await fsck(crisp.host, repair=False) == []
    finally:
        pod.close_descriptors()
        await asyncio.wait_for(pod.monitor.wait_closed(), 20)  # it went first


async def test_a_record_with_nothing_behind_it_turns_not_ready(crisp: Crisp) -> None:
    id = await crisp.run_pod()
    pod = crisp.host.pods.pop(id)
    await repair_all(crisp, ("record", id))
    crisp.host.pods[id] = pod
    record = crisp.host.store.sandboxes.get(id)
    assert (record.state, record.reason) == (SandboxState.NOTREADY, "fsck found nothing behind it")


@pytest.mark.parametrize("step", ["make_pod_directory", "create_namespaces", "attach_network"])
async def test_a_pod_that_is_being_made_is_left_alone(crisp: Crisp, step: str) -> None:
    crisp.host.failpoints.set(f"RunPodSandbox/{step}:after", "hang")
    async with asyncio.TaskGroup() as group:
        made = group.create_task(crisp.run_pod())
        await crisp.until(lambda: any(point.waiting for point in crisp.host.failpoints.points()))
        assert await fsck(crisp.host, repair=True) == []
        crisp.host.failpoints.set("*", "off")
    assert crisp.host.store.sandboxes.get(made.result()).state is SandboxState.READY


async def test_a_blank_pod_is_left_alone(crisp: Crisp) -> None:
    id = await crisp.host.pool._make()
    assert await fsck(crisp.host, repair=True) == [] and id in crisp.host.pods
    await crisp.host.pool.drop(id)


async def test_a_repair_that_fails_says_why_and_keeps_no_other_from_being_made(crisp: Crisp) -> None:
    stuck, other = crisp.host.pod_directory("a" * 64), crisp.host.pod_directory("b" * 64)
    for path in (stuck, other):
        await MakePodDirectory(path[-64:], path).apply(crisp.host)
    mount.mount("busy", f"{stuck}/files", "tmpfs", 0)
    try:
        first, second = await fsck(crisp.host, repair=True)
    finally:
        mount.umount2(f"{stuck}/files", mount.MNT_DETACH)
    assert (first.object, first.repaired) == (stuck, False) and "busy" in first.error.lower()
    assert (second.object, second.repaired, second.error) == (other, True, "")
    await repair_all(crisp, ("directory", stuck))


async def test_directories_that_are_not_there_have_no_findings(crisp: Crisp) -> None:
    pods = crisp.host.state / "pods"
    pods.rmdir()
    try:
        assert await fsck(crisp.host, repair=True) == []
    finally:
        pods.mkdir(0o700)


async def test_what_is_left_shows_in_the_gauge_until_it_was_repaired(crisp: Crisp) -> None:
    Path(crisp.host.container_directory(ID)).mkdir()
    await fsck(crisp.host, repair=False)
    assert b'crisp_leaks{kind="directory"} 1.0' in crisp.host.metrics.render()
    await fsck(crisp.host, repair=True)
    assert b"crisp_leaks{" not in crisp.host.metrics.render()
