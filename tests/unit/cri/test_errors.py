"""The table from faults to codes is total, and a message says everything once."""

from __future__ import annotations

import errno
import importlib
import pkgutil
from collections.abc import Iterator

import pytest
from grpc import StatusCode

import network
import runtime
from cri.errors import CODES, MESSAGE_LIMIT, status_of
from runtime.errors import (
    FAULTS_BY_KIND,
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
from runtime.linux.libc import SyscallError
from runtime.steps import RollbackFailed


def all_faults(cls: type[Fault] = Fault) -> Iterator[type[Fault]]:
    yield cls
    for below in cls.__subclasses__():
        yield from all_faults(below)


def test_every_fault_of_every_layer_has_a_code() -> None:
    for package in (runtime, network):
        for module in pkgutil.iter_modules(package.__path__, f"{package.__name__}."):
            if module.name.endswith("errors") or module.name == "runtime.steps":
                importlib.import_module(module.name)
    for cls in set(all_faults()):
        error = cls.__new__(cls)
        Fault.__init__(error, "words")
        error.errno = 0  # type: ignore[attr-defined]
        error.call = ""  # type: ignore[attr-defined]
        assert status_of(error)[0] is not StatusCode.UNKNOWN, cls


def test_every_kind_that_travels_has_a_row_of_its_own() -> None:
    assert set(FAULTS_BY_KIND.values()) <= set(CODES)


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidArgument("x"), StatusCode.INVALID_ARGUMENT),
        (NotFound("x"), StatusCode.NOT_FOUND),
        (AlreadyExists("x"), StatusCode.ALREADY_EXISTS),
        (FailedPrecondition("x"), StatusCode.FAILED_PRECONDITION),
        (ResourceExhausted("x"), StatusCode.RESOURCE_EXHAUSTED),
        (Unavailable("x"), StatusCode.UNAVAILABLE),
        (NotSupported("x"), StatusCode.UNIMPLEMENTED),
        (DeadlineExceeded("x"), StatusCode.DEADLINE_EXCEEDED),
        (TimeoutError(), StatusCode.DEADLINE_EXCEEDED),
        (StartRefused("x"), StatusCode.FAILED_PRECONDITION),
        (HostFault("x", errno=errno.EPERM), StatusCode.INTERNAL),
        (HostFault("x", errno=errno.ENOSPC), StatusCode.RESOURCE_EXHAUSTED),
        (HostFault("x", errno=errno.EMFILE), StatusCode.RESOURCE_EXHAUSTED),
        (HostFault("x", errno=errno.EAGAIN), StatusCode.RESOURCE_EXHAUSTED),
        (OSError(errno.ENOSPC, "full"), StatusCode.RESOURCE_EXHAUSTED),
        (OSError(errno.ENOENT, "absent"), StatusCode.INTERNAL),
        (FileNotFoundError(errno.ENOENT, "absent"), StatusCode.INTERNAL),
        (Fault("x"), StatusCode.INTERNAL),
        (KeyError("x"), StatusCode.UNKNOWN),
    ],
)
def test_the_code_of(error: Exception, code: StatusCode) -> None:
    assert status_of(error)[0] is code


def test_a_host_fault_names_step_object_call_and_errno() -> None:
    error = HostFault(step="mount the root", object="/r", call="mount", errno=errno.EPERM)
    assert status_of(error)[1] == "mount the root: /r: mount: operation not permitted (EPERM)"


def test_a_plain_os_error_names_its_path_and_errno() -> None:
    error = FileNotFoundError(errno.ENOENT, "No such file or directory", "/etc/x")
    assert status_of(error)[1] == "/etc/x: no such file or directory (ENOENT)"
    assert status_of(OSError(errno.EPERM, "Operation not permitted"))[1] == "operation not permitted (EPERM)"
    syscall = SyscallError("mount", errno.EPERM, "/r")
    assert status_of(syscall)[1] == "/r: mount: operation not permitted (EPERM)"


def test_what_was_not_expected_is_logged_with_its_traceback(caplog: pytest.LogCaptureFixture) -> None:
    try:
        dict[str, str]()["absent"]
    except KeyError as error:
        code, message = status_of(error)
    assert (code, message) == (StatusCode.UNKNOWN, "unexpected KeyError: 'absent'")
    assert "Traceback" in caplog.text
    assert len(caplog.records) == 1


def test_a_failed_roll_back_reports_the_first_failure_too() -> None:
    error = RollbackFailed("rmdir: busy", step="roll back")
    error.__cause__ = InvalidArgument("bad mount")
    code, message = status_of(error)
    assert code is StatusCode.INVALID_ARGUMENT
    assert message == "bad mount; then roll back: rmdir: busy"
    assert status_of(RollbackFailed("alone"))[0] is StatusCode.INTERNAL


def test_a_group_is_reported_by_its_first_fault() -> None:
    group = ExceptionGroup("g", [ValueError("v"), ExceptionGroup("h", [NotFound("absent")])])
    assert status_of(group) == (StatusCode.NOT_FOUND, "absent")
    assert status_of(ExceptionGroup("g", [TimeoutError()]))[0] is StatusCode.DEADLINE_EXCEEDED


def test_a_message_has_a_bound_and_is_never_empty() -> None:
    assert len(status_of(InvalidArgument("x" * 100_000))[1]) == MESSAGE_LIMIT
    assert status_of(TimeoutError())[1] == "TimeoutError"
