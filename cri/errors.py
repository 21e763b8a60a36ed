"""The one table from faults to gRPC status codes.

``cri.interceptor`` is its only caller; the classes are in ``runtime.errors`` and
``network.errors``, which know nothing of gRPC.

Invariant: every fault class has a code, by itself or by its nearest ancestor in
the table; only what crisp did not expect becomes UNKNOWN, with its traceback
logged here, once.
"""

from __future__ import annotations

import errno
import logging

from grpc import StatusCode

from runtime.errors import (
    AlreadyExists,
    DeadlineExceeded,
    FailedPrecondition,
    Fault,
    HostFault,
    InvalidArgument,
    NotFound,
    NotSupported,
    ResourceExhausted,
    StartRefused,
    Unavailable,
)
from runtime.steps import RollbackFailed

LOG = logging.getLogger("crisp.errors")

CODES: dict[type[BaseException], StatusCode] = {
    InvalidArgument: StatusCode.INVALID_ARGUMENT,
    NotFound: StatusCode.NOT_FOUND,
    AlreadyExists: StatusCode.ALREADY_EXISTS,
    FailedPrecondition: StatusCode.FAILED_PRECONDITION,
    ResourceExhausted: StatusCode.RESOURCE_EXHAUSTED,
    Unavailable: StatusCode.UNAVAILABLE,
    NotSupported: StatusCode.UNIMPLEMENTED,
    DeadlineExceeded: StatusCode.DEADLINE_EXCEEDED,
    StartRefused: StatusCode.FAILED_PRECONDITION,
    TimeoutError: StatusCode.DEADLINE_EXCEEDED,
    HostFault: StatusCode.INTERNAL,
    OSError: StatusCode.INTERNAL,
    Fault: StatusCode.INTERNAL,
}

EXHAUSTED = frozenset(
    {errno.ENOSPC, errno.EDQUOT, errno.EMFILE, errno.ENFILE, errno.EAGAIN, errno.ENOMEM, errno.EUSERS}
)
"""What the kernel says when a budget of the host is used up."""

MESSAGE_LIMIT = 4096
"""Characters of a status message; it travels in an HTTP/2 header."""


def status_of(error: BaseException) -> tuple[StatusCode, str]:
    """The code and the message that the client gets for ``error``."""
    if isinstance(error, BaseExceptionGroup):
        return status_of(first_of(error))
    if isinstance(error, RollbackFailed) and error.__cause__ is not None:
        code, message = status_of(error.__cause__)
        return code, bounded(f"{message}; then {error}")
    code = code_of(error)
    if code is StatusCode.UNKNOWN:
        LOG.error("an error that crisp did not expect", exc_info=error)
        return code, bounded(f"unexpected {type(error).__name__}: {error}")
    return code, bounded(words_of(error))


def code_of(error: BaseException) -> StatusCode:
    """By class, nearest ancestor first; an OSError by its errno before."""
    if isinstance(error, OSError) and not isinstance(error, TimeoutError) and error.errno in EXHAUSTED:
        return StatusCode.RESOURCE_EXHAUSTED
    for cls in type(error).__mro__:
        code = CODES.get(cls)
        if code is not None:
            return code
    return StatusCode.UNKNOWN


def words_of(error: BaseException) -> str:
    """A fault says it all; an OSError gets its path, its call (``SyscallError`` knows it) and its errno."""
    if isinstance(error, OSError) and not isinstance(error, Fault) and error.errno:
        name = errno.errorcode.get(error.errno, str(error.errno))
        said = f"{str(error.strerror).lower()} ({name})"
        return ": ".join(str(part) for part in (error.filename, getattr(error, "call", None), said) if part)
    return str(error) or type(error).__name__


def first_of(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The failure that a task group reports: its first fault, else its first member."""
    members = [first_of(member) if isinstance(member, BaseExceptionGroup) else member for member in group.exceptions]
    return next((member for member in members if isinstance(member, Fault)), members[0])


def bounded(message: str) -> str:
    return message if len(message) <= MESSAGE_LIMIT else message[: MESSAGE_LIMIT - 3] + "..."
