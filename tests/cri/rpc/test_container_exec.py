"""Exec: the command's streams, its code, its terminal, and what its client's going does to it."""

from __future__ import annotations

import asyncio
import hashlib
import os

import grpc
import grpc.aio
import pytest

from cri.plan.container import ContainerPlan
from cri.plan.document import decode
from cri.streaming import command
from cri.streaming.session import Outcome, Size
from proto import api_pb2 as api
from runtime.cgroups import tree
from tests.cri.harness import Crisp
from tests.cri.sessions import exec_in
from tests.descriptors import open_descriptors

Code = grpc.StatusCode


def programs(crisp: Crisp, id: str) -> list[int]:
    plan = decode(crisp.host.store.containers.get(id).plan, ContainerPlan)
    return sorted(tree.procs(crisp.host.layout, plan.cgroup))


async def test_output_and_code_are_exact(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    async with exec_in(crisp, id, "sh", "-c", "echo out; echo err >&2; exit 7") as session:
        assert await session.outcome() == Outcome(code=7)
        assert await session.client.stdout.read_all() == b"out\n"
        assert await session.client.stderr.read_all() == b"err\n"


async def test_a_file_through_cat_comes_back_whole(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    sent = os.urandom(8_000_000)
    async with exec_in(crisp, id, "cat", stdin=True) as session:

        async def send() -> None:
            await session.type(sent)
            await session.client.stdin.finish()

        _, seen = await asyncio.gather(send(), session.client.stdout.read_all())
        assert await session.outcome() == Outcome()
    assert hashlib.sha256(seen).digest() == hashlib.sha256(sent).digest()


@pytest.mark.parametrize("name", ["POD", "CONTAINER", "NODE"])
async def test_it_runs_in_a_container_of_any_pid_mode(crisp: Crisp, name: str) -> None:
    mode = api.NamespaceMode.Value(name)
    pod = crisp.pod()
    pod.linux.security_context.namespace_options.pid = mode
    config = crisp.container()
    config.linux.security_context.namespace_options.pid = mode
    id = await crisp.run(await crisp.run_pod(pod), config)
    async with exec_in(crisp, id, "sh", "-c", "echo $(hostname)") as session:
        assert await session.outcome() == Outcome()
        assert await session.client.stdout.read_all() == f"{pod.hostname}\n".encode()


async def test_a_terminal_has_the_clients_size_and_ends_with_it(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    async with exec_in(crisp, id, "sh", "-c", "read x; stty size; sleep 4000", stdin=True, tty=True) as session:
        session.client.sizes.put_nowait(Size(132, 43))
        await crisp.until(lambda: session.client.sizes.empty())
        await session.type(b"\n")
        assert b"43 132\r\n" in await session.expect(b"132")
        assert len(programs(crisp, id)) >= 2
    # Its line is cut: SIGHUP ends what does not ask for better.
    await crisp.until(lambda: len(programs(crisp, id)) == 1)


async def test_typing_into_a_terminal_reaches_the_command(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    async with exec_in(crisp, id, "sh", stdin=True, tty=True) as session:
        await session.type(b"echo a$((1+1))b; exit 3\n")
        assert b"a2b" in await session.expect(b"a2b")
        await session.client.stdin.finish()  # a terminal does not end by that
        assert await session.outcome() == Outcome(code=3)


async def test_a_client_that_leaves_does_not_kill_what_it_ran(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    before = len(open_descriptors())
    async with exec_in(crisp, id, "sleep", "4444", stdin=True) as session:
        await crisp.until(lambda: len(programs(crisp, id)) == 2)
        session.client.leave()
        assert await session.outcome() == Outcome(error="the client has gone")
    assert len(programs(crisp, id)) == 2
    await crisp.until(lambda: len(open_descriptors()) <= before)
    assert not session.serving.cancelled()
    await crisp.runtime.StopContainer(api.StopContainerRequest(container_id=id))
    await crisp.until(lambda: not any(pod.execs for pod in crisp.host.pods.values()))


async def test_a_normal_end_kills_nothing_and_the_drain_is_finite(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(command, "DRAIN", 0.2)
    id = await crisp.run(await crisp.run_pod())
    async with exec_in(crisp, id, "sh", "-c", "sleep 4445 & echo begun") as session:
        assert await session.outcome() == Outcome()
        assert await session.client.stdout.read_all() == b"begun\n"
    assert len(programs(crisp, id)) == 2


async def test_a_command_that_cannot_run_says_why(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    async with exec_in(crisp, id, "/no/such/program") as session:
        outcome = await session.outcome()
    assert "no such file" in outcome.error
    async with exec_in(crisp, id, "sleep", "100") as session:
        await crisp.until(lambda: len(programs(crisp, id)) == 2)
        await crisp.runtime.StopContainer(api.StopContainerRequest(container_id=id))
        assert await session.outcome() == Outcome(code=137)


async def test_the_end_of_the_monitor_is_told(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    async with exec_in(crisp, id, "cat", stdin=True) as session:
        await session.type(b"runs")
        await session.expect(b"runs")
        os.kill(crisp.host.pods[sandbox].monitor.pid, 9)
        assert (await session.outcome()).error == "the pod's monitor ended"


async def test_without_a_streaming_server_it_is_not_to_be_had(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod())
    crisp.host.offers = None
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await crisp.runtime.Exec(api.ExecRequest(container_id=id, cmd=["true"], stdout=True))
    assert failed.value.code() is Code.UNAVAILABLE
