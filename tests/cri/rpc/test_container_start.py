"""StartContainer: the entrypoint runs as asked, or the container says why it never can."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import grpc.aio
import pytest

from cri.demo_image import Entry
from cri.state.records import ContainerState
from cri.steps import container as steps
from proto import api_pb2 as api
from runtime.linux import mount
from runtime.program import LAUNCH
from tests.cri.harness import Crisp

Code = grpc.StatusCode


async def start(crisp: Crisp, id: str) -> None:
    await crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))


async def refused(crisp: Crisp, id: str) -> grpc.aio.AioRpcError:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await start(crisp, id)
    return failed.value


async def test_a_container_has_its_arguments_environment_user_and_directory(crisp: Crisp) -> None:
    config = crisp.pod()
    sandbox = await crisp.run_pod(config)
    script = 'echo "$0|$1|$A|$HOME|$HOSTNAME|$(pwd)|$(id -u):$(id -g):$(id -G)|$(hostname)|$$"; echo oops >&2'
    made = crisp.container(
        "sh",
        "-c",
        script,
        "zero",
        args=["one two"],
        envs=[api.KeyValue(key="A", value=b"\xc3\xbc")],
        working_dir="/made",
    )
    made.linux.security_context.run_as_user.value = 1234
    made.linux.security_context.run_as_group.value = 4321
    made.linux.security_context.supplemental_groups.append(99)
    id = await crisp.run(sandbox, made)
    status = await crisp.wait_exit(id)
    assert (status.state, status.exit_code, status.reason) == (api.CONTAINER_EXITED, 0, "Completed")
    host = config.hostname
    assert set(crisp.log(id).splitlines()) == {f"zero|one two|\u00fc|/|{host}|/made|1234:4321:4321 99|{host}|1", "oops"}
    assert {line.split()[1] for line in crisp.log_path(id).read_text().splitlines()} == {"stdout", "stderr"}
    assert 0 < status.created_at < status.started_at < status.finished_at


async def test_entrypoint_and_arguments_of_the_image_are_used_where_the_request_has_none(crisp: Crisp) -> None:
    settings = {
        "Entrypoint": ["sh", "-c", 'echo "$0 $B $(pwd) $(id -u)"'],
        "Cmd": ["from-image"],
        "Env": ["PATH=/bin", "B=b"],
        "WorkingDir": "/srv/app",
        "User": "nobody",
    }
    await crisp.import_image("crisp.local/entry:1", settings)
    sandbox = await crisp.run_pod()
    for name, args, said in (("a", [], "from-image"), ("b", ["from-request"], "from-request")):
        config = crisp.container(name=name, image=api.ImageSpec(image="crisp.local/entry:1"), args=args)
        del config.command[:]
        id = await crisp.run(sandbox, config)
        await crisp.wait_exit(id)
        assert crisp.log(id) == f"{said} b /srv/app 65534"


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [
        ("exit 0", 0, "Completed"),
        ("exit 1", 1, "Error"),
        ("exit 255", 255, "Error"),
        ("kill -KILL $$; sleep 9", 137, "Error"),
        ("kill -TERM $$; sleep 9", 143, "Error"),
    ],
)
async def test_how_a_container_ends_is_told_exactly(crisp: Crisp, script: str, code: int, reason: str) -> None:
    pod, config = crisp.pod(), crisp.container("sh", "-c", script)
    # Below the pod's process 1: a process 1 of its own ignores what it sends itself.
    for changed in (pod, config):
        changed.linux.security_context.namespace_options.pid = api.POD
    status = await crisp.wait_exit(await crisp.run(await crisp.run_pod(pod), config))
    assert (status.exit_code, status.reason, status.message) == (code, reason, "")


async def test_a_container_above_its_memory_limit_is_oom_killed(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    config = crisp.container("sh", "-c", "x=a; while :; do x=$x$x; done")
    config.linux.resources.memory_limit_in_bytes = 16 << 20
    config.linux.resources.memory_swap_limit_in_bytes = 16 << 20
    status = await crisp.wait_exit(await crisp.run(sandbox, config))
    assert (status.exit_code, status.reason) == (137, "OOMKilled")


@pytest.mark.parametrize(
    ("command", "changes", "named"),
    [
        (["/bin/nothing"], {}, "/bin/nothing"),
        (["nothing"], {}, "nothing"),
        (["/etc/passwd"], {}, "/etc/passwd"),
        (["/etc"], {}, "/etc"),
        (["/opt/broken"], {}, "/opt/broken"),
        (["true"], {"working_dir": "/etc/passwd"}, "/etc/passwd"),
        (["true"], {"working_dir": "/opt/loop"}, "/opt/loop"),
    ],
)
async def test_what_can_never_start_has_ended_with_a_start_error(
    crisp: Crisp, command: list[str], changes: dict[str, str], named: str
) -> None:
    broken = Entry("opt/broken", 0o755, b"#!/no/interpreter\n")
    await crisp.import_image("crisp.local/broken:1", {"Env": ["PATH=/bin"]}, [broken, Entry("opt/loop", 0o644)])
    sandbox = await crisp.run_pod()
    image = api.ImageSpec(image="crisp.local/broken:1")
    id = await crisp.create(sandbox, crisp.container(*command, image=image, working_dir=changes.get("working_dir", "")))
    error = await refused(crisp, id)
    assert error.code() is Code.FAILED_PRECONDITION and named in str(error.details())
    status = await crisp.status(id)
    assert (status.state, status.exit_code, status.reason) == (api.CONTAINER_EXITED, 128, "StartError")
    assert named in status.message and status.started_at and status.finished_at
    again = await refused(crisp, id)
    assert again.code() is Code.FAILED_PRECONDITION and "exited" in str(again.details())
    assert await crisp.status(id) == status


@pytest.mark.parametrize("place", ["before", "mid", "after"])
async def test_a_start_that_the_host_failed_is_tried_again(crisp: Crisp, place: str) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.create(sandbox)
    crisp.host.failpoints.set(f"StartContainer/start_init:{place}", "fail", 1)
    error = await refused(crisp, id)
    assert error.code() is Code.INTERNAL
    assert (await crisp.status(id)).state == api.CONTAINER_CREATED
    for pid in crisp.cgroup_file(id, "cgroup.procs").read_text().split():
        assert os.path.samefile(f"/proc/{pid}/exe", LAUNCH), "only what waits for a start"
    await start(crisp, id)
    assert (await crisp.status(id)).state == api.CONTAINER_RUNNING
    assert (await crisp.exec(id, "echo", "hi")).stdout == b"hi\n"


@contextlib.contextmanager
def silent_file_system(point: Path) -> Iterator[None]:
    """Nobody answers for what is mounted there, as with a server that is gone."""
    if not os.path.exists("/dev/fuse"):
        pytest.skip("needs /dev/fuse")
    point.mkdir()
    device = os.open("/dev/fuse", os.O_RDWR)
    mount.mount("none", str(point), "fuse", 0, f"fd={device},rootmode=40000,user_id=0,group_id=0")
    try:
        yield
    finally:
        mount.umount2(str(point), mount.MNT_DETACH)
        os.close(device)


async def test_a_start_whose_files_nobody_answers_for_ends_and_holds_up_its_pod_no_longer(
    crisp: Crisp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "START_WAIT", 0.3)
    with silent_file_system(tmp_path / "gone"):
        sandbox = await crisp.run_pod()
        volume = api.Mount(container_path="/data", host_path=str(tmp_path / "gone/data"))
        id = await crisp.create(sandbox, crisp.container(mounts=[volume]))
        crisp.host.pods[sandbox].prepared.discard(id)
        error = await refused(crisp, id)
        assert error.code() is Code.DEADLINE_EXCEEDED
        assert (await crisp.status(id)).state == api.CONTAINER_CREATED
        assert crisp.cgroup_file(id, "cgroup.procs").read_text() == ""
        other = await crisp.run(sandbox, crisp.container(name="other"))
        assert (await crisp.status(other)).state == api.CONTAINER_RUNNING
        await crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=sandbox))


async def test_a_container_is_started_once(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.create(sandbox)

    async def started() -> str:
        await start(crisp, id)
        return id

    await crisp.at_once("StartContainer/start_init:mid", [started() for _ in range(3)])
    await crisp.until(lambda: not crisp.host.store.operations)
    error = await refused(crisp, id)
    assert error.code() is Code.FAILED_PRECONDITION and "running" in str(error.details())
    await crisp.runtime.StopContainer(api.StopContainerRequest(container_id=id))
    stopped = await crisp.status(id)
    error = await refused(crisp, id[:20])
    assert error.code() is Code.FAILED_PRECONDITION and "exited" in str(error.details())
    assert await crisp.status(id) == stopped


async def test_a_client_that_leaves_during_a_start_finds_the_container_running(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.create(sandbox)
    crisp.host.failpoints.set("StartContainer/start_init:mid", "hang")
    call = crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    await crisp.until(lambda: any(point.waiting for point in crisp.host.failpoints.points()))
    call.cancel()
    await asyncio.sleep(0)
    crisp.host.failpoints.set("*", "off")
    await crisp.until(lambda: crisp.host.store.containers.get(id).state is ContainerState.RUNNING)
    await start(crisp, id)
    assert (await crisp.status(id)).state == api.CONTAINER_RUNNING


async def test_nothing_starts_in_a_pod_that_was_stopped(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.create(sandbox)
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    error = await refused(crisp, id)
    assert error.code() is Code.FAILED_PRECONDITION and "not ready" in str(error.details())


async def test_the_oom_score_that_the_host_allows_is_told_and_is_that_of_commands_too(crisp: Crisp) -> None:
    own = int(Path("/proc/self/oom_score_adj").read_text())
    if "CAP_SYS_RESOURCE" in crisp.host.facts.bounding or own == -1000:
        pytest.skip("needs a daemon without CAP_SYS_RESOURCE, which cannot lower its score")
    config = crisp.container()
    config.linux.resources.oom_score_adj = own - 1
    id = await crisp.create(await crisp.run_pod(), config)
    assert (await crisp.status(id)).resources.linux.oom_score_adj == own - 1
    await start(crisp, id)
    assert (await crisp.status(id)).resources.linux.oom_score_adj == own
    assert (await crisp.exec(id, "cat", "/proc/self/oom_score_adj")).stdout == f"{own}\n".encode()
