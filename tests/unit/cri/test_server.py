"""The server: every method of the API has a handler, and a socket exists only while it serves."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import stat
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest

from cri import server
from cri.server import Handler, encode, listen, new_server, plan_handlers, refuse_live_socket, remove_socket
from proto import admin_pb2, api_pb2
from proto import api_pb2 as api
from proto import api_pb2_grpc as rpc
from runtime.errors import FailedPrecondition, HostFault, NotSupported

RUNTIME = api_pb2.DESCRIPTOR.services_by_name["RuntimeService"]


def plain(_name: str, handler: Handler) -> Handler:
    return handler


async def version(_request: Any, _context: Any) -> api.VersionResponse:
    return api.VersionResponse(runtime_name="test")


async def encoded_list(_request: Any, _context: Any) -> bytes:
    return api.ListContainersResponse(containers=[api.Container(id="a")]).SerializeToString()


def with_status(_name: str, handler: Handler) -> Handler:
    """What the interceptor does, in short."""

    async def around(request: Any, context: Any) -> Any:
        try:
            return await handler(request, context)
        except NotSupported as fault:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, str(fault))

    return around


@contextlib.asynccontextmanager
async def serving(path: Path) -> AsyncIterator[Any]:
    running = new_server()
    handlers = plan_handlers(RUNTIME, {"Version": version, "ListContainers": encoded_list}, with_status)
    running.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(RUNTIME.full_name, handlers),))
    await listen(running, path, 0o660)
    async with grpc.aio.insecure_channel(f"unix:{path}") as channel:
        yield rpc.RuntimeServiceStub(channel)
    await running.stop(None)
    remove_socket(path)


def test_every_method_of_the_api_has_a_handler_of_its_kind() -> None:
    handlers = plan_handlers(RUNTIME, {}, plain)
    assert set(handlers) == {method.name for method in RUNTIME.methods}
    assert handlers["Version"].unary_unary and handlers["GetContainerEvents"].unary_stream
    admin = plan_handlers(admin_pb2.DESCRIPTOR.services_by_name["Admin"], {}, plain)
    assert admin["ImportImage"].stream_unary


def test_a_function_that_the_service_does_not_have_is_a_mistake() -> None:
    with pytest.raises(KeyError, match="Versoin"):
        plan_handlers(RUNTIME, {"Versoin": version}, plain)


def test_what_is_encoded_already_is_not_encoded_again() -> None:
    message = api.VersionResponse(runtime_name="x")
    assert encode(message) == encode(message.SerializeToString()) == message.SerializeToString()


async def test_rpcs_are_answered_and_missing_ones_say_so(tmp_path: Path) -> None:
    async with serving(tmp_path / "crisp.sock") as runtime:
        assert (await runtime.Version(api.VersionRequest())).runtime_name == "test"
        listed = await runtime.ListContainers(api.ListContainersRequest())
        assert [each.id for each in listed.containers] == ["a"]
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await runtime.Attach(api.AttachRequest())
        assert refused.value.code() is grpc.StatusCode.UNIMPLEMENTED
        assert "Attach" in str(refused.value.details()) and "docs/limits.md" in str(refused.value.details())
        with pytest.raises(grpc.aio.AioRpcError) as stream:
            async for _ in runtime.GetContainerEvents(api.GetEventsRequest()):
                pytest.fail("nothing is streamed")
        assert stream.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_the_socket_appears_with_its_mode_and_goes(tmp_path: Path) -> None:
    path = tmp_path / "made" / "crisp.sock"
    async with serving(path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o660
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        assert os.listdir(path.parent) == ["crisp.sock"]
        with pytest.raises(FailedPrecondition, match="another process is serving"):
            refuse_live_socket(path)
    assert os.listdir(path.parent) == []
    remove_socket(path)


def test_a_stale_socket_makes_way(tmp_path: Path) -> None:
    path = tmp_path / "s"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(os.fspath(path))
    refuse_live_socket(path)
    assert not path.exists()
    refuse_live_socket(path)


@pytest.mark.parametrize("make", [Path.touch, Path.mkdir, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_socket_stays(tmp_path: Path, make: Callable[[Path], None]) -> None:
    path = tmp_path / "s"
    make(path)
    with pytest.raises(FailedPrecondition, match="is not a socket"):
        refuse_live_socket(path)
    assert path.is_symlink() or path.exists()


async def test_a_path_that_cannot_be_bound_is_a_fault_of_the_host() -> None:
    path = Path("/proc/self/crisp.sock")
    with pytest.raises(HostFault, match=r"listen: .*crisp\.sock: bind"):
        await listen(new_server(), path, 0o660)


def test_messages_are_bounded() -> None:
    assert server.MESSAGE_LIMIT == 16 << 20


@pytest.mark.parametrize("name", ["a%20b.sock", "n" * 90])
async def test_a_path_that_grpc_reads_otherwise_or_finds_long_is_served_on(name: str, tmp_path: Path) -> None:
    folder = Path(tempfile.mkdtemp(prefix="c-", dir=tmp_path.parents[-2]))
    path, server = folder / name, new_server()
    try:
        await listen(server, path, 0o600)
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(os.fspath(path))
        await server.stop(None)
        remove_socket(path)
        assert os.listdir(folder) == []
    finally:
        shutil.rmtree(folder)
