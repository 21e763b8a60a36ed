"""ExecSync: output, exit code, timeout, bounds, and what a command may leave behind."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.rpc import container_exec_sync
from cri.rpc.container_exec_sync import OUTPUT_LIMIT, STREAM_LIMIT, plan_shares
from cri.server import MESSAGE_LIMIT
from proto import api_pb2 as api
from proto import api_pb2_grpc as rpc
from runtime.cgroups import tree
from tests.cri.harness import Crisp

Code = grpc.StatusCode


async def refused(crisp: Crisp, id: str, *command: str, timeout: int = 20) -> grpc.StatusCode:
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await crisp.exec(id, *command, timeout=timeout)
    return failed.value.code()


def commands(crisp: Crisp, id: str) -> list[str]:
    """The command lines of all that is in the container's cgroup and below."""
    plan = decode(crisp.host.store.containers.get(id).plan, ContainerPlan)
    found = []
    for pid in tree.procs(crisp.host.layout, plan.cgroup):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            found.append(Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ").strip())
    return found


async def leave(call: asyncio.Future[Any]) -> None:
    """The client goes while it waits."""
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call


async def test_output_and_exit_code_are_exact(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    answer = await crisp.exec(id, "sh", "-c", "printf 'out\\0put'; printf err >&2; exit 3")
    assert (answer.stdout, answer.stderr, answer.exit_code) == (b"out\0put", b"err", 3)
    assert (await crisp.exec(id, "sh", "-c", "kill -9 $$")).exit_code == 137


async def test_a_command_has_the_containers_identity_and_namespaces(crisp: Crisp) -> None:
    config = crisp.container(envs=[api.KeyValue(key="A", value=b"b")])
    config.linux.security_context.run_as_user.value = 1000
    pod = crisp.pod()
    id = await crisp.run(await crisp.run_pod(pod), config)
    answer = await crisp.exec(id, "sh", "-c", "echo $(id -u) $A $(hostname)")
    assert answer.stdout == f"1000 b {pod.hostname}\n".encode()


async def test_a_timeout_kills_all_that_the_command_started(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    code = await refused(crisp, id, "sh", "-c", "sleep 4321 & sleep 4322", timeout=1)
    assert code is Code.DEADLINE_EXCEEDED
    await crisp.until(lambda: not any("432" in line for line in commands(crisp, id)))
    assert (await crisp.status(id)).state == api.CONTAINER_RUNNING


async def test_what_a_command_leaves_running_goes_on(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(container_exec_sync, "DRAIN", 0.2)
    id = await crisp.run(await crisp.run_pod())
    answer = await crisp.exec(id, "sh", "-c", "sleep 4323 & echo begun")
    assert (answer.stdout, answer.exit_code) == (b"begun\n", 0)
    assert any("sleep 4323" in line for line in commands(crisp, id))


async def test_output_is_bounded_and_the_rest_is_read_and_dropped(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(container_exec_sync, "OUTPUT_LIMIT", 1000)  # of both streams together
    id = await crisp.run(await crisp.run_pod())
    answer = await crisp.exec(id, "sh", "-c", "yes | head -c 3000000; echo done >&2")
    assert (len(answer.stdout), answer.stderr, answer.exit_code) == (995, b"done\n", 0)


async def test_a_missing_command_and_a_container_that_does_not_run_are_refused(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    assert await refused(crisp, id, "/no/such/program") is Code.FAILED_PRECONDITION
    created = await crisp.create(sandbox, crisp.container(name="other"))
    assert await refused(crisp, created, "true") is Code.FAILED_PRECONDITION
    assert await refused(crisp, "f" * 64, "true") is Code.NOT_FOUND


async def test_many_commands_at_once_keep_their_output_apart(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    answers = await asyncio.gather(*(crisp.exec(id, "echo", str(number)) for number in range(20)))
    assert [answer.stdout for answer in answers] == [b"%d\n" % number for number in range(20)]


@pytest.mark.parametrize(
    ("sizes", "kept"),
    [
        ((3, 3), (3, 3)),
        ((20, 0), (10, 0)),
        ((0, 20), (0, 10)),
        ((20, 3), (7, 3)),
        ((3, 20), (3, 7)),
        ((20, 20), (5, 5)),
    ],
)
async def test_both_streams_share_the_room_of_one_message(sizes: tuple[int, int], kept: tuple[int, int]) -> None:
    assert plan_shares(*sizes, 10) == kept


async def test_the_largest_answer_fits_in_the_message_that_kubelet_takes() -> None:
    out, err = plan_shares(STREAM_LIMIT, STREAM_LIMIT, OUTPUT_LIMIT)
    for shares in ((out, err), plan_shares(STREAM_LIMIT, 0, OUTPUT_LIMIT), plan_shares(0, STREAM_LIMIT, OUTPUT_LIMIT)):
        answer = api.ExecSyncResponse(stdout=bytes(shares[0]), stderr=bytes(shares[1]), exit_code=-(1 << 31))
        assert MESSAGE_LIMIT - 32 <= answer.ByteSize() <= MESSAGE_LIMIT


async def test_sixteen_mebibytes_of_one_stream_arrive_and_what_was_cut_off_is_said(
    crisp: Crisp, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "crisp.exec")
    id = await crisp.run(await crisp.run_pod())
    options = [("grpc.max_receive_message_length", MESSAGE_LIMIT)]
    async with grpc.aio.insecure_channel(crisp.host.settings.listen, options=options) as channel:
        runtime: Any = rpc.RuntimeServiceStub(channel)
        script = "head -c 16777200 /dev/zero; echo x; exit 3"
        request = api.ExecSyncRequest(container_id=id, cmd=["sh", "-c", script], timeout=30)
        answer = await runtime.ExecSync(request)
        assert (answer.stdout, answer.exit_code) == (bytes(OUTPUT_LIMIT), 3)
        assert f"{OUTPUT_LIMIT} of 16777202 bytes of stdout, 0 of 0 of stderr" in caplog.text


async def test_a_command_whose_client_has_gone_is_killed_with_all_that_it_started(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    call = asyncio.ensure_future(crisp.exec(id, "sh", "-c", "sleep 4324 & setsid sleep 4325 & sleep 4326", timeout=0))
    await crisp.until(lambda: {"sleep 4324", "sleep 4325", "sleep 4326"} <= set(commands(crisp, id)))
    assert len(crisp.host.pods[sandbox].execs) == 1
    await leave(call)
    await crisp.until(lambda: len(commands(crisp, id)) == 1 and crisp.host.pods[sandbox].execs == {})
    await crisp.settle()  # its cgroup is gone
    assert (await crisp.status(id)).state == api.CONTAINER_RUNNING


async def test_a_command_whose_client_goes_before_it_has_begun_does_not_go_on(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    pod = crisp.host.pods[sandbox]
    os.kill(pod.monitor.pid, signal.SIGSTOP)
    try:
        call = asyncio.ensure_future(crisp.exec(id, "sleep", "4327"))
        await crisp.until(lambda: len(pod.execs) == 1)
        await leave(call)
        await crisp.until(lambda: pod.execs == {})
    finally:
        os.kill(pod.monitor.pid, signal.SIGCONT)
    await pod.monitor.hello()  # what was asked before is done
    await crisp.settle()
    assert len(commands(crisp, id)) == 1


async def test_what_a_command_left_running_goes_on_also_when_its_client_leaves_before_the_answer(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    call = asyncio.ensure_future(crisp.exec(id, "sh", "-c", "sleep 4328 &"))
    await crisp.until(lambda: "sleep 4328" in commands(crisp, id) and crisp.host.pods[sandbox].execs == {})
    await leave(call)  # the answer waits for whoever holds the pipes
    assert (await crisp.exec(id, "echo", "here")).stdout == b"here\n"
    assert "sleep 4328" in commands(crisp, id)
