"""The gRPC server: which RPC is answered by which function, on which socket.

``cri.interceptor`` wraps every function once; ``cri.rpc`` has one module an RPC.
An RPC of the API that has no function answers UNIMPLEMENTED and says so.

Invariant: the socket file exists only while the server behind it serves; it is
made under another name, with mode 0660, and renamed into place.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from google.protobuf.descriptor import MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from runtime.errors import FailedPrecondition, HostFault, NotSupported

MESSAGE_LIMIT = 16 * 1024 * 1024
"""Bytes of one request or answer, as kubelet takes them; above it the code is RESOURCE_EXHAUSTED, said by
gRPC itself for requests and by ``cri.interceptor`` for answers."""

Handler = Callable[[Any, "grpc.aio.ServicerContext[Any, Any]"], Awaitable[Any]]
"""Returns the answer; one that streams answers writes them to the context and returns None."""
Wrap = Callable[[str, Handler], Handler]


def encode(answer: Message | bytes) -> bytes:
    """Lists arrive already encoded; everything else is serialized here."""
    return answer if isinstance(answer, bytes) else answer.SerializeToString()


def plan_handlers(
    service: ServiceDescriptor, functions: Mapping[str, Handler], wrap: Wrap
) -> dict[str, grpc.RpcMethodHandler[Any, Any]]:
    """A handler for each method of ``service``.

    Raises:
        KeyError: ``functions`` names a method that the service does not have.
    """
    unknown = set(functions) - set(service.methods_by_name)
    if unknown:
        raise KeyError(f"not in {service.full_name}: {', '.join(sorted(unknown))}")
    return {
        name: plan_handler(method, functions.get(name) or unimplemented(name), wrap)
        for name, method in service.methods_by_name.items()
    }


def plan_handler(method: MethodDescriptor, function: Handler, wrap: Wrap) -> grpc.RpcMethodHandler[Any, Any]:
    decode = GetMessageClass(method.input_type).FromString
    wrapped = wrap(method.name, function)
    if method.client_streaming:
        return grpc.stream_unary_rpc_method_handler(wrapped, decode, encode)
    if method.server_streaming:

        async def stream(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> None:
            await wrapped(request, context)

        return grpc.unary_stream_rpc_method_handler(stream, decode, encode)
    return grpc.unary_unary_rpc_method_handler(wrapped, decode, encode)


def unimplemented(name: str) -> Handler:
    async def refuse(_request: Any, _context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        raise NotSupported(f"crisp does not have {name} yet; docs/limits.md lists what is missing")

    return refuse


def new_server() -> grpc.aio.Server:
    """A server with crisp's bounds; keepalive pings are tolerated as kubelet sends them."""
    return grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", MESSAGE_LIMIT),
            ("grpc.max_send_message_length", MESSAGE_LIMIT),
            ("grpc.so_reuseport", 0),
            ("grpc.http2.min_ping_interval_without_data_ms", 5000),
        ]
    )


def refuse_live_socket(path: Path) -> None:
    """Make way for a new socket: a stale file goes, a live one is refused.

    Raises:
        FailedPrecondition: somebody answers on it, or it is not a socket.
    """
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_socket():
        raise FailedPrecondition("exists and is not a socket", step="listen", object=str(path))
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        probe.connect(os.fspath(path))
    except (ConnectionRefusedError, FileNotFoundError):
        path.unlink(missing_ok=True)
    else:
        raise FailedPrecondition("another process is serving on it", step="listen", object=str(path))
    finally:
        probe.close()


async def listen(server: grpc.aio.Server, path: Path, mode: int) -> None:
    """Start ``server`` and make ``path`` appear, serving.

    Raises:
        FailedPrecondition: the path is taken.
        HostFault: the socket could not be bound.
    """
    refuse_live_socket(path)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    hidden = path.with_name(f".{os.getpid()}.sock")
    hidden.unlink(missing_ok=True)
    # By its directory's descriptor: gRPC reads a path as a URI, and the kernel takes 107 bytes of one.
    folder = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    mask = os.umask(0o177)
    try:
        server.add_insecure_port(f"unix:/proc/self/fd/{folder}/{hidden.name}")
    except RuntimeError as error:
        raise HostFault(str(error).lower(), step="listen", object=str(path), call="bind") from error
    finally:
        os.umask(mask)
        os.close(folder)
    await server.start()
    os.chmod(hidden, mode)
    os.rename(hidden, path)


def remove_socket(path: Path) -> None:
    with contextlib.suppress(FileNotFoundError):
        path.unlink()
