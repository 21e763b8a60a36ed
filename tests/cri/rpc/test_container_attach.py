"""Attach: several clients at once, stdin that ends once or never, terminals, and what detaching leaves."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import Any

import grpc.aio
import pytest

from cri.streaming.session import Outcome, Size
from proto import api_pb2 as api
from runtime.errors import NotSupported
from tests.cri import wired
from tests.cri.harness import Crisp
from tests.cri.sessions import attach_to

ECHO = ("sh", "-c", "echo early; while read x; do echo got $x; echo err $x >&2; done; echo over")


async def test_two_clients_see_the_same_and_both_can_type(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod(), crisp.container(*ECHO, stdin=True))
    await crisp.until(lambda: crisp.log(id) == "early")
    async with attach_to(crisp, id, stdin=True, stderr=True) as one, attach_to(crisp, id, stdin=True) as other:
        await crisp.until(lambda: sum(len(pod.attached) for pod in crisp.host.pods.values()) == 2)
        await other.type(b"first\n")
        assert await one.expect(b"first\n") == await other.expect(b"first\n") == b"got first\n"
        await one.type(b"second\n")
        assert await one.expect(b"second\n") == await other.expect(b"second\n") == b"got second\n"
        assert await one.client.stderr.read() in (b"err first\n", b"err first\nerr second\n")
    assert (await crisp.status(id)).state == api.CONTAINER_RUNNING
    async with attach_to(crisp, id, stdin=True) as again:  # what was said before is in the log only
        await again.type(b"third\n")
        assert await again.expect(b"third\n") == b"got third\n"
        await again.client.stdin.finish()
    assert (await crisp.status(id)).state == api.CONTAINER_RUNNING


async def test_with_stdin_once_the_first_end_of_input_is_the_containers(crisp: Crisp) -> None:
    config = crisp.container(*ECHO, stdin=True, stdin_once=True)
    id = await crisp.run(await crisp.run_pod(), config)
    async with attach_to(crisp, id, stdin=True) as one, attach_to(crisp, id, stdin=True) as other:
        await crisp.until(lambda: sum(len(pod.attached) for pod in crisp.host.pods.values()) == 2)
        await one.type(b"last\n")
        await one.client.stdin.finish()
        assert (await one.client.stdout.read_all()).endswith(b"got last\nover\n")
        assert (await other.client.stdout.read_all()).endswith(b"got last\nover\n")
        assert await one.outcome() == await other.outcome() == Outcome()
    assert (await crisp.wait_exit(id)).exit_code == 0


async def test_with_stdin_once_a_client_that_leaves_ends_it_too(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod(), crisp.container(*ECHO, stdin=True, stdin_once=True))
    async with attach_to(crisp, id, stdin=True) as session:
        await session.type(b"x\n")
        await session.expect(b"got x")
    assert (await crisp.wait_exit(id)).exit_code == 0
    assert crisp.log(id).endswith("over")


async def test_a_terminal_is_resized_and_survives_its_clients(crisp: Crisp) -> None:
    command = ("sh", "-c", "while read x; do stty size; done")
    id = await crisp.run(await crisp.run_pod(), crisp.container(*command, stdin=True, tty=True))
    for size in (Size(132, 43), Size(80, 24)):
        async with attach_to(crisp, id, stdin=True, tty=True) as session:
            session.client.sizes.put_nowait(size)
            await crisp.until(lambda session=session: session.client.sizes.empty())  # type: ignore[misc]
            pod = crisp.host.pods[crisp.host.store.containers.get(id).sandbox_id]
            await pod.monitor.hello()
            await session.type(b"\n")
            await session.expect(f"{size.height} {size.width}\r\n".encode())
    assert (await crisp.status(id)).state == api.CONTAINER_RUNNING


async def test_output_ends_with_the_container_and_is_whole(crisp: Crisp) -> None:
    command = ("sh", "-c", "read x; head -c 3000000 /dev/zero; echo end")
    id = await crisp.run(await crisp.run_pod(), crisp.container(*command, stdin=True))
    async with attach_to(crisp, id, stdin=True, stderr=True) as session:
        await session.type(b"\n")
        assert await session.client.stdout.read_all() == bytes(3_000_000) + b"end\n"
        assert await session.outcome() == Outcome()


async def test_a_client_without_output_ends_with_the_container_too(crisp: Crisp) -> None:
    id = await crisp.run(await crisp.run_pod(), crisp.container("sh", "-c", "read x; exit 3", stdin=True))
    async with attach_to(crisp, id, stdin=True, stdout=False) as session:
        await session.type(b"\n")
        assert await session.outcome() == Outcome()
    assert (await crisp.wait_exit(id)).exit_code == 3


async def test_one_that_takes_nothing_is_let_go_with_an_error_and_one_that_takes_little_is_not(crisp: Crisp) -> None:
    async with wired.listening(crisp):
        await asyncio.gather(*(one_is_let_go(crisp, kind) for kind in (wired.Spdy, wired.Socket)))


async def one_is_let_go(crisp: Crisp, kind: type[wired.Spdy | wired.Socket]) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox, crisp.container("sh", "-c", "read x; yes", stdin=True))
    attached, log = crisp.host.pods[sandbox].attached, crisp.log_path(id)
    async with contextlib.AsyncExitStack() as undo:
        stuck, slow = [await kind.attach(crisp, id, undo, window=1000) for _ in range(2)]
        quick = await wired.Spdy.attach(crisp, id, undo, window=1 << 30)
        await crisp.until(lambda: len(attached) == 3)
        quick.type(b"\n")
        async with wired.meanwhile(stuck.ping(), slow.take_little(), quick.take_all()):
            # Other bytes of its connection move all the time: pings and, as far as it reads, answers to them.
            said = await stuck.last_words(lambda: crisp.until(lambda: len(attached) == 2, 30))
            assert "took no stdout for 5 s" in json.loads(said)["message"]
            taken = slow.taken
            await crisp.until(lambda: slow.taken > taken + 3)
            assert len(attached) == 2
            await slow.client.close()
            taken, size = quick.taken, log.stat().st_size
            await crisp.until(lambda: quick.taken > taken + 1_000_000 and log.stat().st_size > size + 1_000_000)
            await crisp.runtime.StopContainer(api.StopContainerRequest(container_id=id))
            await crisp.until(lambda: not attached)


async def test_a_monitor_of_an_older_release_is_said_to_be_one(crisp: Crisp, monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)

    async def old(*_: Any, **__: Any) -> None:
        raise NotSupported("unknown operation 'attach'", step="ask the monitor")

    monkeypatch.setattr(type(crisp.host.pods[sandbox].monitor), "attach", old)
    async with attach_to(crisp, id) as session:
        assert "was started by an older crisp" in (await session.outcome()).error


async def test_a_container_that_has_ended_meanwhile_and_a_lost_monitor_are_told(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox)
    async with attach_to(crisp, id) as session:
        os.kill(crisp.host.pods[sandbox].monitor.pid, 9)
        assert (await session.outcome()).error == "the pod's monitor ended"
    other = await crisp.run(await crisp.run_pod())
    async with attach_to(crisp, other) as session:
        await crisp.runtime.StopContainer(api.StopContainerRequest(container_id=other))
        assert await session.outcome() == Outcome()


async def test_a_refusal_speaks_of_attaching(crisp: Crisp) -> None:
    id = await crisp.create(await crisp.run_pod())
    with pytest.raises(grpc.aio.AioRpcError, match="is created; only a running container can be attached to"):
        await crisp.runtime.Attach(api.AttachRequest(container_id=id, stdout=True))


async def test_the_stop_of_the_pod_ends_its_sessions_also_of_a_client_that_is_behind(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    id = await crisp.run(sandbox, crisp.container("yes"))
    async with attach_to(crisp, id) as session:
        await crisp.until(lambda: len(session.client.stdout.incoming.held) > 60_000)
        await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=sandbox))
        reading = asyncio.gather(session.client.stdout.read_all())
        outcome = await session.outcome(10)
        assert outcome in (Outcome(), Outcome(error="the pod was stopped"))
        await reading
