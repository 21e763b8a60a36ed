"""Mounts that are to be idmapped are looked at before anything is done, by somebody who can be given up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cri import idmapped
from cri.idmapped import check_idmapped
from cri.plan.document import decode
from cri.plan.sandbox import SandboxPlan
from proto import api_pb2 as api
from runtime.errors import DeadlineExceeded, FailedPrecondition, HostFault
from tests.cri.harness import Crisp

MAPPING = [api.IDMapping(host_id=5000, length=70000)]


def config(*sources: Path | str, mapped: bool = True) -> api.ContainerConfig:
    maps = MAPPING if mapped else []
    mounts = [
        api.Mount(container_path="/a", host_path=os.fspath(source), uidMappings=maps, gidMappings=maps)
        for source in sources
    ]
    return api.ContainerConfig(mounts=mounts)


async def run_pod(crisp: Crisp) -> SandboxPlan:
    pod = crisp.pod()
    options = pod.linux.security_context.namespace_options.userns_options
    options.uids.extend(MAPPING)
    options.gids.extend(MAPPING)
    return decode(crisp.host.store.sandboxes.get(await crisp.run_pod(pod)).plan, SandboxPlan)


async def test_a_file_system_that_cannot_be_idmapped_is_named_with_the_mount(crisp: Crisp, tmp_path: Path) -> None:
    pod = await run_pod(crisp)
    await check_idmapped(crisp.host, config(tmp_path, tmp_path / "missing"), pod)
    with pytest.raises(FailedPrecondition, match=r"config.mounts\[1\] /proc/sys: cannot be idmapped: /proc is proc"):
        await check_idmapped(crisp.host, config(tmp_path, "/proc/sys"), pod)
    await check_idmapped(crisp.host, config("/proc/sys", mapped=False), pod)
    assert not (tmp_path / "missing").exists()


async def test_images_as_volumes_are_not_asked_for(crisp: Crisp) -> None:
    image = api.Mount(container_path="/a", image=api.ImageSpec(image="i"), uidMappings=MAPPING, gidMappings=MAPPING)
    await check_idmapped(crisp.host, api.ContainerConfig(mounts=[image]), await run_pod(crisp))


async def test_who_does_not_answer_is_given_up(crisp: Crisp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(idmapped, "SECONDS", 0.0)
    with pytest.raises(DeadlineExceeded, match=f"mounts can be idmapped: {tmp_path}: no answer within 0 s"):
        await check_idmapped(crisp.host, config(tmp_path), await run_pod(crisp))


async def test_a_pod_that_has_lost_its_namespace_is_a_fault_of_the_host(crisp: Crisp, tmp_path: Path) -> None:
    pod = await run_pod(crisp)
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=pod.id))
    with pytest.raises(HostFault, match=r"look whether mounts can be idmapped: .*/ns/user: open: no such file"):
        await check_idmapped(crisp.host, config(tmp_path), pod)
