"""StopContainer: the signal, the grace, the kill; and who may change their mind."""

from __future__ import annotations

import asyncio
import time

import grpc
import grpc.aio
import pytest

from cri.rpc import container_stop
from cri.rpc.container_stop import blocked_in
from proto import api_pb2 as api
from tests.cri.harness import Crisp

STUBBORN = ("sh", "-c", "trap '' TERM; echo ready; while :; do sleep 0.1; done")
TOLD = ("sh", "-c", "trap 'echo told' TERM; echo ready; while :; do sleep 0.01; done")
POLITE = ("sh", "-c", "trap 'echo bye; exit 3' TERM; echo ready; while :; do sleep 0.01; done")


async def run_ready(crisp: Crisp, sandbox: str, *command: str, name: str = "main", **changes: object) -> str:
    """A container that has set its traps."""
    id = await crisp.run(sandbox, crisp.container(*command, name=name, **changes))
    await crisp.until(lambda: "ready" in crisp.log(id))
    return id


def stop(crisp: Crisp, id: str, timeout: int) -> grpc.aio.UnaryUnaryCall[api.StopContainerRequest, object]:
    call: grpc.aio.UnaryUnaryCall[api.StopContainerRequest, object] = crisp.runtime.StopContainer(
        api.StopContainerRequest(container_id=id, timeout=timeout)
    )
    return call


async def test_a_container_ends_by_its_own_handler(crisp: Crisp) -> None:
    id = await run_ready(crisp, await crisp.run_pod(), *POLITE)
    await stop(crisp, id, 60)
    status = await crisp.status(id)
    assert (status.exit_code, status.reason) == (3, "Error") and crisp.log(id).endswith("bye")
    await stop(crisp, id, 60)
    assert await crisp.status(id) == status


async def test_the_stop_signal_is_the_images_or_the_requests(crisp: Crisp) -> None:
    await crisp.import_image("crisp.local/signal:1", {"Env": ["PATH=/bin"], "StopSignal": "SIGUSR1"})
    sandbox = await crisp.run_pod()
    script = "trap 'exit 10' USR1; trap 'exit 12' USR2; echo ready; while :; do sleep 0.01; done"
    image = api.ImageSpec(image="crisp.local/signal:1")
    first = await run_ready(crisp, sandbox, "sh", "-c", script, name="a", image=image)
    second = await run_ready(crisp, sandbox, "sh", "-c", script, name="b", image=image, stop_signal=api.SIGNAL_SIGUSR2)
    await asyncio.gather(stop(crisp, first, 60), stop(crisp, second, 60))
    ended = [await crisp.status(id) for id in (first, second)]
    assert [status.exit_code for status in ended] == [10, 12]
    assert [status.stop_signal for status in ended] == [api.SIGNAL_SIGUSR1, api.SIGNAL_SIGUSR2]


async def test_who_ignores_the_signal_is_killed_after_the_grace(crisp: Crisp) -> None:
    id = await run_ready(crisp, await crisp.run_pod(), *STUBBORN)
    began = time.monotonic()
    await stop(crisp, id, 1)
    assert time.monotonic() - began >= 1
    status = await crisp.status(id)
    assert (status.exit_code, status.reason) == (137, "Error")


async def test_no_grace_is_a_kill_at_once_of_everything_in_it(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    script = "sleep 1000 & trap 'exit 0' TERM; echo ready; while :; do sleep 1; done"
    id = await run_ready(crisp, sandbox, "sh", "-c", script)
    await stop(crisp, id, 0)
    assert (await crisp.status(id)).exit_code == 137
    await crisp.until(lambda: crisp.cgroup_file(id, "cgroup.procs").read_text() == "")


async def test_a_cancelled_stop_leaves_the_container_as_it_was(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> None:
    left = asyncio.Event()

    async def wait(*_: object) -> bool:
        """Its grace; whoever is cancelled in it goes on to nothing."""
        try:
            await asyncio.Event().wait()
        finally:
            left.set()
        return False

    id = await run_ready(crisp, await crisp.run_pod(), *TOLD)
    with monkeypatch.context() as patch:
        patch.setattr(container_stop, "wait_exit", wait)
        call = stop(crisp, id, 1)
        await crisp.until(lambda: "told" in crisp.log(id))
        call.cancel()
        await left.wait()
    await crisp.host.pods[crisp.host.store.containers.get(id).sandbox_id].monitor.hello()  # nothing else was asked
    assert (await crisp.status(id)).state == api.CONTAINER_RUNNING


async def test_a_shorter_grace_overtakes_a_longer_one(crisp: Crisp) -> None:
    id = await run_ready(crisp, await crisp.run_pod(), *STUBBORN)
    long = stop(crisp, id, 3600)
    await asyncio.sleep(0.1)
    assert not long.done()
    await stop(crisp, id, 1)
    await asyncio.wait_for(long, 30)
    assert (await crisp.status(id)).exit_code == 137


async def test_150_stops_at_once_all_return(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    ids = [await run_ready(crisp, sandbox, *POLITE, name=f"c{number}") for number in range(15)]
    await asyncio.gather(*(stop(crisp, id, 60) for id in ids * 10))
    for id in ids:
        assert (await crisp.status(id)).exit_code == 3
        assert "bye" in crisp.log(id)


async def test_exec_works_in_the_grace_and_is_refused_after_it(crisp: Crisp) -> None:
    id = await run_ready(crisp, await crisp.run_pod(), *TOLD)
    stopping = stop(crisp, id, 3600)
    await crisp.until(lambda: "told" in crisp.log(id))
    assert (await crisp.exec(id, "echo", "still")).stdout == b"still\n" and not stopping.done()
    await stop(crisp, id, 0)
    await stopping
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await crisp.exec(id, "echo", "late")
    assert refused.value.code() is grpc.StatusCode.FAILED_PRECONDITION


async def test_a_stop_during_the_start_ends_what_is_started(crisp: Crisp) -> None:
    id = await crisp.create(await crisp.run_pod())
    crisp.host.failpoints.set("StartContainer/start_init:mid", "hang")
    starting = crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    await crisp.until(lambda: any(point.waiting for point in crisp.host.failpoints.points()))
    starting.cancel()
    stops = [stop(crisp, id, 0), stop(crisp, id, 1)]
    await asyncio.sleep(0.1)
    crisp.host.failpoints.set("*", "off")
    for each in stops:
        await each
    assert (await crisp.status(id)).state == api.CONTAINER_EXITED


async def test_what_does_not_run_is_stopped_already(crisp: Crisp) -> None:
    await stop(crisp, "f" * 64, 10)
    created = await crisp.create(await crisp.run_pod())
    await stop(crisp, created, 10)
    assert (await crisp.status(created)).state == api.CONTAINER_CREATED
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await stop(crisp, created, -1)
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT


async def test_what_does_not_die_is_reported_with_what_it_waits_in(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch
) -> None:
    id = await run_ready(crisp, await crisp.run_pod(), *STUBBORN)
    monkeypatch.setattr(container_stop, "KILL_PATIENCE", 0.0)
    async with crisp.host.lock(id):  # so that its end is not recorded before the patience is over
        with pytest.raises(grpc.aio.AioRpcError) as failed:
            await stop(crisp, id, 0)
    assert failed.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "after SIGKILL" in str(failed.value.details())
    assert "cannot be looked at" in blocked_in(0)
    await crisp.wait_exit(id)
