from __future__ import annotations

import ctypes
import errno
from ctypes import c_char_p, c_int

import pytest

from runtime.errors import to_wire
from runtime.linux import libc


def test_an_error_names_the_call_and_the_object() -> None:
    error = libc.SyscallError("mount", errno.ENOENT, b"/a/b")
    assert (error.call, error.errno, error.filename) == ("mount", errno.ENOENT, "/a/b")
    assert str(error) == "/a/b: mount: no such file or directory"
    assert str(libc.SyscallError("setns", errno.EPERM)) == "setns: operation not permitted"


def test_an_error_keeps_its_class_whatever_the_errno_is() -> None:
    assert type(libc.SyscallError("openat2", errno.ENOENT)) is libc.SyscallError


def test_an_error_travels_as_a_fault_of_the_host() -> None:
    assert to_wire(libc.SyscallError("mount", errno.EBUSY, "/x")) == {
        "kind": "HostFault",
        "message": "",
        "step": "",
        "object": "/x",
        "call": "mount",
        "errno": errno.EBUSY,
    }


def test_the_failed_call_is_read_from_errno() -> None:
    access = libc.function("access", c_char_p, c_int)
    assert access(b"/nowhere", 0) == -1
    assert libc.failed("access", "/nowhere").errno == errno.ENOENT


def test_each_wrapper_has_a_function_object_of_its_own() -> None:
    assert libc.function("access", c_char_p, c_int) is not libc.function("access", c_char_p, c_int)
    assert libc.syscall(c_int).restype is ctypes.c_long


@pytest.mark.parametrize("text", ["a\0b", b"\0"])
def test_a_nul_byte_never_reaches_the_kernel(text: str | bytes) -> None:
    with pytest.raises(ValueError, match="null byte"):
        libc.cstring(text)


def test_strings_are_encoded_whatever_the_locale_is() -> None:
    assert libc.cstring("é\udcff") == b"\xc3\xa9\xff"
    assert libc.cstring(b"\xff") == b"\xff"
