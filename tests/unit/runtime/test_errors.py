"""Faults: what they say, and that they survive the way between crisp's processes."""

from __future__ import annotations

import errno

import pytest

from runtime import errors
from runtime.errors import Fault, HostFault, InvalidArgument, StartRefused, from_wire, to_wire


def test_a_message_names_step_object_call_and_errno_once() -> None:
    fault = HostFault("no luck", step="mount", object="/x", call="mount", errno=errno.EPERM)
    assert str(fault) == "mount: /x: mount: no luck: operation not permitted (EPERM)"
    assert str(HostFault(errno=errno.ENOENT)) == "no such file or directory (ENOENT)"
    assert str(InvalidArgument("is empty", object="name")) == "name: is empty"


@pytest.mark.parametrize("kind", errors.FAULTS_BY_KIND)
def test_every_fault_comes_back_as_what_it_was(kind: str) -> None:
    sent = errors.FAULTS_BY_KIND[kind]("why", step="step", object="object")
    received = from_wire(to_wire(sent))
    assert type(received) is type(sent) and str(received) == str(sent)


def test_errno_and_call_of_a_host_fault_come_along() -> None:
    received = from_wire(to_wire(HostFault(step="s", object="o", call="openat", errno=errno.ELOOP)))
    assert isinstance(received, HostFault) and (received.call, received.errno) == ("openat", errno.ELOOP)


def test_other_errors_become_host_faults() -> None:
    system = to_wire(FileNotFoundError(errno.ENOENT, "no", b"/a\xff"))
    assert (system["kind"], system["errno"], system["object"]) == ("HostFault", errno.ENOENT, "/a\ufffd")
    assert "ValueError: odd" in str(from_wire(to_wire(ValueError("odd"))))


def test_what_is_unknown_is_never_lost() -> None:
    received = from_wire({"kind": "Later", "message": "said"})
    assert isinstance(received, HostFault) and str(received) == "said"
    assert isinstance(from_wire({}), Fault)


def test_builtin_classes_catch_the_faults_that_are_like_them() -> None:
    assert isinstance(InvalidArgument("x"), ValueError) and isinstance(errors.NotFound("x"), LookupError)
    assert isinstance(errors.DeadlineExceeded("x"), TimeoutError) and isinstance(HostFault("x"), OSError)
    assert not isinstance(StartRefused("x"), OSError)
