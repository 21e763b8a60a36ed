"""PortForward: into a pod's own loopback, into the node's, and not into a pod that has gone."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import grpc
import grpc.aio
import pytest

from cri.streaming.session import StreamReset
from proto import api_pb2 as api
from tests.cri.harness import Crisp
from tests.cri.sessions import forward_to

ECHO = ("nc", "-ll", "-p", "8080", "-e", "cat")


async def dialled(crisp: Crisp, session: object, port: int) -> bytes:
    """What a connection gives back for ``hello``, tried until there is one."""
    async with asyncio.timeout(30):
        while True:
            data, error = session.open(port)  # type: ignore[attr-defined]
            with contextlib.suppress(StreamReset):
                await data.write(b"hello")
                await data.finish()
                if (seen := await data.read_all()) or not await error.read_all():
                    return bytes(seen)
            await asyncio.sleep(0.02)


async def test_a_connection_reaches_what_listens_on_the_pods_own_loopback(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    await crisp.run(sandbox, crisp.container(*ECHO))
    async with forward_to(crisp, sandbox, 8080) as session:
        assert await dialled(crisp, session, 8080) == b"hello"
        data, error = session.open(9)
        assert b"nothing answers on port 9 in the pod: 127.0.0.1: connection refused" in await error.read_all()
        assert await data.read_all() == b""
        assert await dialled(crisp, session, 8080) == b"hello"


async def test_a_pod_in_the_nodes_network_is_dialled_there(crisp: Crisp) -> None:
    config = crisp.pod()
    config.linux.security_context.namespace_options.network = api.NODE
    sandbox = await crisp.run_pod(config)
    with socket.create_server(("127.0.0.1", 0)) as server:
        async with forward_to(crisp, sandbox) as session:
            data, _ = session.open(server.getsockname()[1])
            server.setblocking(False)
            accepted, _ = await asyncio.get_running_loop().sock_accept(server)
            accepted.sendall(b"the node")
            accepted.close()
            assert await data.read_all() == b"the node"
            await data.finish()


async def test_the_end_of_the_pod_ends_its_sessions_and_connections(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    await crisp.run(sandbox, crisp.container(*ECHO))
    async with forward_to(crisp, sandbox) as session:
        await dialled(crisp, session, 8080)
        await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=sandbox))
        data, _ = session.open(8080)
        await asyncio.sleep(0)
    with pytest.raises(grpc.aio.AioRpcError) as failed:
        await crisp.runtime.PortForward(api.PortForwardRequest(pod_sandbox_id=sandbox))
    assert failed.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    assert data.incoming.held == b""


async def test_a_refusal_says_whether_the_pod_or_its_monitor_is_missing(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    live = crisp.host.pods.pop(sandbox)
    try:
        with pytest.raises(grpc.aio.AioRpcError, match="has no monitor"):
            await crisp.runtime.PortForward(api.PortForwardRequest(pod_sandbox_id=sandbox))
    finally:
        crisp.host.pods[sandbox] = live
    await crisp.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=sandbox))
    with pytest.raises(grpc.aio.AioRpcError, match="is notready; only a ready pod can be forwarded to"):
        await crisp.runtime.PortForward(api.PortForwardRequest(pod_sandbox_id=sandbox))
