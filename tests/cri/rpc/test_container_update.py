"""UpdateContainerResources: the kernel's files change, or everything stays."""

from __future__ import annotations

import asyncio
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri.rpc.container_update import update_key
from proto import api_pb2 as api
from runtime.cgroups import files
from runtime.cgroups.layout import directory
from tests.cri.harness import Crisp


async def update(crisp: Crisp, id: str, **linux: object) -> None:
    resources = api.LinuxContainerResources(**linux)  # type: ignore[arg-type]
    await crisp.runtime.UpdateContainerResources(api.UpdateContainerResourcesRequest(container_id=id, linux=resources))


def memory_limit(crisp: Crisp, id: str) -> int:
    pod = crisp.host.store.containers.get(id).sandbox_id
    place = directory(crisp.host.layout, "memory", f"/crisp-{crisp.host.instance}/{pod}/{id}")
    name = "memory.max" if crisp.host.layout.is_v2("memory") else "memory.limit_in_bytes"
    return int(Path(f"{place}/{name}").read_text())


async def test_new_limits_reach_the_kernel_and_the_status(crisp: Crisp) -> None:
    config = crisp.container()
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    config.linux.resources.cpu_shares = 512
    id = await crisp.run(await crisp.run_pod(), config)
    await update(crisp, id, memory_limit_in_bytes=96 << 20, oom_score_adj=500)
    assert memory_limit(crisp, id) == 96 << 20
    linux = (await crisp.status(id)).resources.linux
    assert (linux.memory_limit_in_bytes, linux.cpu_shares, linux.oom_score_adj) == (96 << 20, 512, 500)
    pid = crisp.host.store.containers.get(id).pid
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "500"


async def test_an_oom_score_holds_for_what_starts_later(crisp: Crisp) -> None:
    config = crisp.container()
    config.linux.resources.oom_score_adj = 100
    id = await crisp.create(await crisp.run_pod(), config)
    await update(crisp, id, oom_score_adj=200)
    await crisp.start(id)
    assert (await crisp.exec(id, "cat", "/proc/1/oom_score_adj")).stdout == b"200\n"
    await update(crisp, id, oom_score_adj=300)
    assert (await crisp.exec(id, "cat", "/proc/self/oom_score_adj", "/proc/1/oom_score_adj")).stdout == b"300\n300\n"


async def test_a_limit_that_the_kernel_refuses_leaves_the_old_values(crisp: Crisp) -> None:
    config = crisp.container("sh", "-c", "a=$(dd if=/dev/zero bs=1k count=20000 2>/dev/null | tr '\\0' x); sleep 1000")
    config.linux.resources.memory_limit_in_bytes = 256 << 20
    id = await crisp.run(await crisp.run_pod(), config)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await update(crisp, id, memory_limit_in_bytes=1)
    assert "memory" in str(refused.value.details())
    assert memory_limit(crisp, id) == 256 << 20
    assert (await crisp.status(id)).resources.linux.memory_limit_in_bytes == 256 << 20


async def test_one_refused_value_leaves_every_old_value(crisp: Crisp) -> None:
    hold = "a=$(dd if=/dev/zero bs=1k count=20000 2>/dev/null | tr '\\0' x); while :; do sleep 1000; done"
    config = crisp.container("sh", "-c", hold)
    linux = config.linux.resources
    linux.memory_limit_in_bytes, linux.cpu_shares, linux.cpu_quota, linux.cpu_period = 256 << 20, 512, 50_000, 100_000
    id = await crisp.run(await crisp.run_pod(), config)
    await crisp.until(lambda: (usage(crisp, id) or 0) > 16 << 20)
    files = [crisp.cgroup_file(id, name) for name in limit_files(crisp)]
    before = [file.read_text() for file in files]
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await update(crisp, id, cpu_shares=1024, cpu_quota=20_000, cpu_period=50_000, memory_limit_in_bytes=8 << 20)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert "memory" in str(refused.value.details())
    assert [file.read_text() for file in files] == before
    assert (await crisp.status(id)).resources.linux == linux


def usage(crisp: Crisp, id: str) -> int | None:
    (reading,) = crisp.host.readings.containers([crisp.host.store.containers.get(id)])
    return reading.sample.usage.memory_rss if reading.sample else None


def limit_files(crisp: Crisp) -> list[str]:
    cpu = ["cpu.weight", "cpu.max"] if crisp.host.layout.is_v2("cpu") else ["cpu.shares", "cpu.cfs_quota_us"]
    memory = "memory.max" if crisp.host.layout.is_v2("memory") else "memory.limit_in_bytes"
    return [*cpu, memory]


async def test_limits_go_up_and_down_in_the_order_that_the_kernel_needs(crisp: Crisp) -> None:
    config = crisp.container()
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    id = await crisp.run(await crisp.run_pod(), config)
    for megabytes, quota, period in ((256, 200_000, 100_000), (32, 10_000, 50_000), (128, 400_000, 200_000)):
        both = {"memory_limit_in_bytes": megabytes << 20, "memory_swap_limit_in_bytes": megabytes << 20}
        await update(crisp, id, **both, cpu_quota=quota, cpu_period=period, cpuset_cpus="0")
        assert memory_limit(crisp, id) == megabytes << 20
        linux = (await crisp.status(id)).resources.linux
        assert (linux.memory_limit_in_bytes, linux.cpu_quota, linux.cpu_period) == (megabytes << 20, quota, period)
    assert crisp.cgroup_file(id, "cpuset.cpus").read_text().strip() == "0"
    await update(crisp, id, cpu_quota=-1)
    assert (await crisp.status(id)).resources.linux.cpu_quota == -1


async def test_huge_pages_are_limited_as_whole_ones_with_their_reservations_and_others_stay(crisp: Crisp) -> None:
    layout = crisp.host.layout
    if layout.root("hugetlb") is None or not {"2MB", "1GB"} <= layout.page_sizes:
        pytest.skip("no hugetlb controller, or no huge pages of 2MB and 1GB")
    id = await crisp.run(await crisp.run_pod())
    whole, half = api.HugepageLimit(page_size="1GB", limit=1 << 30), 5 << 20
    await update(crisp, id, hugepage_limits=[whole])
    await update(crisp, id, hugepage_limits=[api.HugepageLimit(page_size="2MB", limit=half)])
    file = "max" if layout.is_v2("hugetlb") else "limit_in_bytes"
    for name in (f"hugetlb.2MB.{file}", f"hugetlb.2MB.rsvd.{file}"):
        assert crisp.cgroup_file(id, name).read_text().strip() == str(4 << 20)
    told = (await crisp.status(id)).resources.linux.hugepage_limits
    assert list(told) == [whole, api.HugepageLimit(page_size="2MB", limit=4 << 20)]


async def test_huge_pages_of_a_size_that_the_host_does_not_have_are_refused(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await update(crisp, id, hugepage_limits=[api.HugepageLimit(page_size="7MB", limit=7 << 20)], cpu_shares=77)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION and "7MB" in str(refused.value.details())
    assert (await crisp.status(id)).resources.linux == api.LinuxContainerResources()


async def test_the_status_tells_what_the_kernel_made_of_it_and_asks_it_once(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await crisp.run(await crisp.run_pod())
    asked = {"cpu_shares": 1000, "cpu_quota": 30_000, "cpuset_cpus": "0-0", "memory_swap_limit_in_bytes": 96 << 20}
    await update(crisp, id, memory_limit_in_bytes=(64 << 20) + 1234, **asked)
    monkeypatch.setattr(files, "read", lambda path, step: pytest.fail(f"{path} is read"))
    linux = (await crisp.status(id)).resources.linux
    assert (linux.cpu_shares, linux.cpu_quota, linux.cpu_period) == (1000, 30_000, 100_000)
    assert (linux.memory_limit_in_bytes, linux.cpuset_cpus) == (64 << 20, "0")
    assert linux.memory_swap_limit_in_bytes == ((96 << 20) if crisp.host.layout.swap else -1)


async def test_updates_that_come_at_once_are_all_in_force_afterwards(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    crisp.host.failpoints.set("UpdateContainerResources/set_container_limits:mid", "hang")
    changes = [{"cpu_shares": 300}, {"memory_limit_in_bytes": 64 << 20}, {"cpu_quota": 40_000}, {"cpu_quota": 40_000}]
    async with asyncio.TaskGroup() as group:
        for change in changes:
            group.create_task(update(crisp, id, **change))
        await crisp.until(lambda: waiting(crisp) == 1)
        crisp.host.failpoints.set("*", "off")
    linux = (await crisp.status(id)).resources.linux
    assert (linux.cpu_shares, linux.memory_limit_in_bytes, linux.cpu_quota) == (300, 64 << 20, 40_000)
    assert crisp.host.operations.unfinished() == [] and not crisp.host.store.operations.get(update_key(id))


def waiting(crisp: Crisp) -> int:
    return sum(point.waiting for point in crisp.host.failpoints.points())


async def test_what_an_earlier_update_could_not_undo_is_undone_before_the_next(crisp: Crisp) -> None:
    config = crisp.container()
    config.linux.resources.memory_limit_in_bytes = 64 << 20
    id = await crisp.run(await crisp.run_pod(), config)
    crisp.host.failpoints.set("UpdateContainerResources:store", "fail", 1)
    crisp.host.failpoints.set("UpdateContainerResources/set_container_limits:undo", "fail", 1)
    with pytest.raises(grpc.aio.AioRpcError, match="roll back"):
        await update(crisp, id, memory_limit_in_bytes=96 << 20)
    assert memory_limit(crisp, id) == 96 << 20 and len(crisp.host.operations.unfinished()) == 1
    await update(crisp, id, cpu_shares=300)
    assert memory_limit(crisp, id) == 64 << 20 and crisp.host.operations.unfinished() == []
    linux = (await crisp.status(id)).resources.linux
    assert (linux.memory_limit_in_bytes, linux.cpu_shares) == (64 << 20, 300)


async def test_a_container_that_is_removed_meanwhile_is_not_found_and_nothing_is_owed(crisp: Crisp) -> None:
    id = await crisp.create(await crisp.run_pod())
    crisp.host.failpoints.set("UpdateContainerResources:store", "hang")
    asked = asyncio.ensure_future(update(crisp, id, cpu_shares=300))
    await crisp.until(lambda: waiting(crisp) == 1)
    await crisp.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))
    crisp.host.failpoints.set("*", "off")
    with pytest.raises(grpc.aio.AioRpcError):
        await asked
    assert crisp.host.store.container(id) is None and crisp.host.operations.unfinished() == []


async def test_unified_values_reach_their_files_or_nothing_changes(crisp: Crisp) -> None:
    if "hugetlb" not in crisp.host.layout.v2_controllers or not crisp.host.layout.page_sizes:
        pytest.skip("no hugetlb controller in the v2 tree, with huge pages")
    file = f"hugetlb.{min(crisp.host.layout.page_sizes)}.max"
    id = await crisp.run(await crisp.run_pod())
    await update(crisp, id, unified={file: str(4 << 30)})
    assert crisp.cgroup_file(id, file).read_text().strip() == str(4 << 30)
    assert dict((await crisp.status(id)).resources.linux.unified) == {file: str(4 << 30)}
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await update(crisp, id, unified={file: "nonsense"}, cpu_shares=77)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT and file in str(refused.value.details())
    assert crisp.cgroup_file(id, file).read_text().strip() == str(4 << 30)
    assert (await crisp.status(id)).resources.linux.cpu_shares != 77


async def test_what_is_changed_before_the_start_is_in_force_after_it_and_for_commands(crisp: Crisp) -> None:
    id = await crisp.create(await crisp.run_pod())
    await update(crisp, id, oom_score_adj=321, memory_limit_in_bytes=48 << 20)
    await crisp.start(id)
    pid = crisp.host.store.containers.get(id).pid
    assert Path(f"/proc/{pid}/oom_score_adj").read_text().strip() == "321"
    assert (await crisp.exec(id, "cat", "/proc/self/oom_score_adj")).stdout == b"321\n"
    assert memory_limit(crisp, id) == 48 << 20


async def test_an_exited_container_cannot_be_updated(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod(), crisp.container("true"))
    await crisp.wait_exit(id)
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await update(crisp, id, cpu_shares=2)
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION
