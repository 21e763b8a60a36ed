"""How a subcommand reaches the daemon: gRPC over ``<state>/admin.sock``.

Invariant: what the daemon refuses is raised as the same class of fault that it
was there, so that a subcommand reads the same offline and online.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from runtime.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Fault,
    InvalidArgument,
    NotFound,
    NotSupported,
    ResourceExhausted,
    Unavailable,
)

if TYPE_CHECKING:
    import grpc

    from cri.settings import Settings
    from proto.admin_pb2_grpc import AdminStub

FAULTS: dict[str, type[Fault]] = {
    "INVALID_ARGUMENT": InvalidArgument,
    "NOT_FOUND": NotFound,
    "ALREADY_EXISTS": AlreadyExists,
    "FAILED_PRECONDITION": FailedPrecondition,
    "RESOURCE_EXHAUSTED": ResourceExhausted,
    "UNAVAILABLE": Unavailable,
    "UNIMPLEMENTED": NotSupported,
    "DEADLINE_EXCEEDED": DeadlineExceeded,
}

MESSAGE_LIMIT = 16 * 1024 * 1024


class NoDaemon(Unavailable):
    """Nobody serves on the socket; ``fsck`` goes on offline then."""


def open_channel(path: str) -> grpc.Channel:
    """A channel to a unix socket, closed by the caller."""
    import grpc

    options = [("grpc.max_receive_message_length", MESSAGE_LIMIT), ("grpc.enable_http_proxy", 0)]
    return grpc.insecure_channel(f"unix:{path}", options=options)


@contextmanager
def admin(settings: Settings, subject: str = "") -> Iterator[AdminStub]:
    """The daemon's Admin service; errors of calls within are raised as faults.

    ``subject`` is what they are about, where the daemon does not know its name: a file of the caller's.

    Raises:
        NoDaemon: nobody answers.
        Fault: what the daemon said.
    """
    import grpc

    from proto.admin_pb2_grpc import AdminStub

    path = f"{settings.state}/admin.sock"
    with open_channel(path) as channel:
        try:
            yield AdminStub(channel)
        except grpc.RpcError as error:
            raise fault_of(error, path, subject) from None


def fault_of(error: grpc.RpcError, path: str, subject: str = "") -> Fault:
    """What ``error`` means; a daemon that is not there is told from one that is not ready."""
    code, words = error.code().name, error.details() or ""
    if code == "UNAVAILABLE" and ("connect" in words.lower() or "no such file" in words.lower()):
        return NoDaemon("no daemon answers; is `crisp serve` running?", object=path)
    return FAULTS.get(code, Fault)(words or code.lower(), object=subject)
