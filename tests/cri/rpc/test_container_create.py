"""CreateContainer: what is made before anything runs, and what is refused without effect."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio
import pytest

from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.state.records import ContainerState
from proto import api_pb2 as api
from runtime.program import LAUNCH
from tests.cri.harness import DEMO_IMAGE, Crisp

Code = grpc.StatusCode


async def refused(crisp: Crisp, sandbox: str, config: api.ContainerConfig) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await crisp.create(sandbox, config)
    return failed.value


async def test_a_created_container_has_its_places_and_runs_nothing_of_the_image(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    config = crisp.container("echo", "hi", envs=[api.KeyValue(key="A", value=b"1")])
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    id = await crisp.create(sandbox, config)
    record = crisp.host.store.containers.get(id)
    assert (record.state, record.pid, record.started_at) == (ContainerState.CREATED, 0, 0)
    assert sorted(os.listdir(crisp.host.container_directory(id))) == ["upper", "work"]
    document = decode(record.plan, ContainerPlan).spec
    assert document["process"]["args"] == ["echo", "hi"] and "A=1" in document["process"]["env"]
    assert [stage.step for stage in record.stages] == [
        "make_container_directories",
        "make_container_cgroup",
        "prepare_init",
    ]
    limit = "memory.limit_in_bytes" if crisp.host.layout.v1 else "memory.max"
    assert int(crisp.cgroup_file(id, limit).read_text()) == 64 << 20
    for pid in crisp.cgroup_file(id, "cgroup.procs").read_text().split():
        assert os.path.samefile(f"/proc/{pid}/exe", LAUNCH)


async def test_huge_pages_and_unified_values_are_limited_and_told_as_the_kernel_has_them(crisp: Crisp) -> None:
    if "hugetlb" not in crisp.host.layout.v2_controllers or not {"2MB", "1GB"} <= crisp.host.layout.page_sizes:
        pytest.skip("no hugetlb controller in the v2 tree, or no huge pages of 2MB and 1GB")
    config = crisp.container()
    config.linux.resources.hugepage_limits.add(page_size="2MB", limit=5 << 20)
    config.linux.resources.unified["hugetlb.1GB.max"] = "max"
    config.linux.resources.unified["hugetlb.1GB.rsvd.max"] = str(3 << 29)
    id = await crisp.create(await crisp.run_pod(), config)
    found = {file: crisp.cgroup_file(id, f"hugetlb.{file}").read_text().strip() for file in ("2MB.max", "2MB.rsvd.max")}
    assert found == {"2MB.max": str(4 << 20), "2MB.rsvd.max": str(4 << 20)}
    linux = (await crisp.status(id)).resources.linux
    assert list(linux.hugepage_limits) == [api.HugepageLimit(page_size="2MB", limit=4 << 20)]
    assert dict(linux.unified) == {"hugetlb.1GB.max": "max", "hugetlb.1GB.rsvd.max": str(1 << 30)}


@pytest.mark.parametrize(
    ("key", "value", "code"),
    [
        ("hugetlb.7MB.max", "0", Code.FAILED_PRECONDITION),
        ("nonsense.max", "1", Code.FAILED_PRECONDITION),
        ("pids.max", "x y", Code.INVALID_ARGUMENT),
    ],
)
async def test_a_unified_value_that_cannot_be_given_is_refused_and_nothing_is_left(
    crisp: Crisp, key: str, value: str, code: grpc.StatusCode
) -> None:
    config = crisp.container()
    config.linux.resources.unified[key] = value
    error = await refused(crisp, await crisp.run_pod(), config)
    assert (error.code(), key in str(error.details())) == (code, True), error.details()
    assert crisp.host.operations.unfinished() == []
    assert list(crisp.host.store.containers) == [] and not os.listdir(crisp.host.root / "containers")


async def test_limits_are_told_as_the_kernel_has_rounded_them(crisp: Crisp) -> None:
    config = crisp.container()
    linux = config.linux.resources
    linux.memory_limit_in_bytes, linux.cpu_shares, linux.cpu_quota = (64 << 20) + 99, 700, 25_000
    id = await crisp.create(await crisp.run_pod(), config)
    linux.memory_limit_in_bytes, linux.cpu_period = 64 << 20, 100_000
    assert (await crisp.status(id)).resources.linux == linux


async def test_an_image_is_found_by_each_of_its_names(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    (image,) = crisp.host.images.all()
    names = [DEMO_IMAGE, image.id, image.id.removeprefix("sha256:")[:12], image.repo_digests[0]]
    for number, name in enumerate(names):
        config = crisp.container(name=f"c{number}", image=api.ImageSpec(image=name))
        status = await crisp.status(await crisp.create(sandbox, config))
        assert status.image_id == status.image_ref == image.id and status.image.image == name


async def test_an_image_that_is_not_here_is_not_found(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    error = await refused(crisp, sandbox, crisp.container(image=api.ImageSpec(image="nowhere/nothing:1")))
    assert error.code() is Code.NOT_FOUND and "pull it first" in str(error.details())
    assert len(crisp.host.store.containers) == 0
    await crisp.create(sandbox, crisp.container())


async def test_who_runs_is_looked_up_in_the_images_own_files(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    config = crisp.container()
    config.linux.security_context.run_as_username = "nobody"
    config.linux.security_context.supplemental_groups.append(4242)
    user = (await crisp.status(await crisp.create(sandbox, config))).user.linux
    assert (user.uid, user.gid, sorted(user.supplemental_groups)) == (65534, 65534, [100, 4242, 65534])
    strict = crisp.container(name="strict")
    strict.linux.security_context.CopyFrom(config.linux.security_context)
    strict.linux.security_context.supplemental_groups_policy = api.Strict
    user = (await crisp.status(await crisp.create(sandbox, strict))).user.linux
    assert sorted(user.supplemental_groups) == [4242, 65534]


async def test_a_user_that_the_image_does_not_know_is_named(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    config = crisp.container()
    config.linux.security_context.run_as_username = "stranger"
    error = await refused(crisp, sandbox, config)
    assert "stranger" in str(error.details())
    assert os.listdir(crisp.host.root / "containers") == []


def target(id: str) -> Callable[[api.ContainerConfig], None]:
    def change(config: api.ContainerConfig) -> None:
        options = config.linux.security_context.namespace_options
        options.pid, options.target_id = api.TARGET, id

    return change


async def test_a_target_has_to_run_in_the_same_pod(crisp: Crisp) -> None:
    sandbox, other = await crisp.run_pod(), await crisp.run_pod()
    created = await crisp.create(sandbox)
    stranger = await crisp.run(other)
    for name, wanted, code in (
        ("a", "0" * 64, Code.INVALID_ARGUMENT),
        ("b", stranger, Code.INVALID_ARGUMENT),
        ("c", created, Code.FAILED_PRECONDITION),
    ):
        config = crisp.container(name=name)
        target(wanted)(config)
        error = await refused(crisp, sandbox, config)
        assert error.code() is code and "target_id" in str(error.details())


async def test_a_pod_that_is_not_ready_takes_no_container(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    error = await refused(crisp, sandbox, crisp.container())
    assert error.code() is Code.FAILED_PRECONDITION
    with pytest.raises(grpc.aio.AioRpcError) as unknown:
        request = api.CreateContainerRequest(pod_sandbox_id="f" * 64, config=crisp.container())
        await crisp.runtime.CreateContainer(request)
    assert unknown.value.code() is Code.NOT_FOUND


async def test_the_name_of_a_container_is_taken_until_its_removal(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    ids = await crisp.at_once("CreateContainer/make_container_cgroup:mid", [crisp.create(sandbox) for _ in range(4)])
    assert len(set(ids)) == 1 and len(crisp.host.store.containers) == 1
    await crisp.until(lambda: not crisp.host.store.operations)
    assert (await refused(crisp, sandbox, crisp.container())).code() is Code.ALREADY_EXISTS
    await crisp.create(sandbox, crisp.container(metadata=api.ContainerMetadata(attempt=1)))
    await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=ids[0]))
    assert await crisp.create(sandbox) != ids[0]


@pytest.mark.parametrize("step", ["make_container_directories", "make_container_cgroup"])
@pytest.mark.parametrize("place", ["mid", "after"])
async def test_a_container_that_cannot_be_made_leaves_nothing(crisp: Crisp, step: str, place: str) -> None:
    sandbox = await crisp.run_pod()
    crisp.host.failpoints.set(f"CreateContainer/{step}:{place}", "errno:ENOSPC", 1)
    error = await refused(crisp, sandbox, crisp.container())
    assert error.code() is Code.RESOURCE_EXHAUSTED
    assert os.listdir(crisp.host.root / "containers") == []
    await crisp.create(sandbox)


async def test_an_image_without_a_command_needs_one_in_the_request(crisp: Crisp) -> None:
    await crisp.import_image("crisp.local/mute:1", {"Env": ["PATH=/bin"]})
    sandbox = await crisp.run_pod()
    config = crisp.container(image=api.ImageSpec(image="crisp.local/mute:1"))
    del config.command[:]
    error = await refused(crisp, sandbox, config)
    assert error.code() is Code.INVALID_ARGUMENT and "command" in str(error.details())
    changes: dict[str, Any] = {"args": ["/bin/true"]}
    config.MergeFrom(api.ContainerConfig(**changes))
    await crisp.create(sandbox, config)
    await crisp.images.RemoveImage(api.RemoveImageRequest(image=api.ImageSpec(image="crisp.local/mute:1")))
