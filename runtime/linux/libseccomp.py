"""libseccomp.so.2 as far as ``runtime.seccomp`` needs it: build a filter, export its BPF.

The library is opened by its soname when it is first used: looking for it by name
would run programs. Source: seccomp_rule_add(3) and its neighbours.

Invariant: every filter is released, and no error of the library goes unnoticed.
"""

from __future__ import annotations

import ctypes
import functools
import os
from collections.abc import Sequence
from ctypes import POINTER, c_char_p, c_int, c_uint, c_uint32, c_uint64, c_void_p
from typing import Any, Self

from runtime.errors import HostFault

SONAME = "libseccomp.so.2"

ACT_ALLOW = 0x7FFF_0000
ARCHES = {
    "x86_64": 0xC000_003E,
    "x86": 0x4000_0003,
    "x32": 0x4000_003E,
    "aarch64": 0xC000_00B7,
    "arm": 0x4000_0028,
}
"""The library's tokens; those of the real architectures are the kernel's AUDIT_ARCH_*."""

COMPARE = {"NE": 1, "LT": 2, "LE": 3, "EQ": 4, "GE": 5, "GT": 6, "MASKED_EQ": 7}

_UNKNOWN_SYSCALL = -1
_ATTRIBUTE_OPTIMIZE = 8
_OPTIMIZE_TREE = 2
_EEXIST, _EDOM = 17, 33


class Comparison(ctypes.Structure):
    """struct scmp_arg_cmp: argument ``arg`` compared by ``op``. MASKED_EQ: ``a`` is the mask, ``b`` the value."""

    _fields_ = (("arg", c_uint), ("op", c_int), ("a", c_uint64), ("b", c_uint64))


class _Version(ctypes.Structure):
    _fields_ = (("major", c_uint), ("minor", c_uint), ("micro", c_uint))


def act_errno(number: int) -> int:
    """The action that makes a call fail with errno ``number``."""
    return 0x0005_0000 | number & 0xFFFF


@functools.cache
def _library() -> Any:
    try:
        library = ctypes.CDLL(SONAME, use_errno=True)
    except OSError as error:
        raise HostFault(str(error), step="open libseccomp", object=SONAME, call="dlopen") from error
    signatures: dict[str, tuple[Any, tuple[Any, ...]]] = {
        "seccomp_init": (c_void_p, (c_uint32,)),
        "seccomp_release": (None, (c_void_p,)),
        "seccomp_arch_exist": (c_int, (c_void_p, c_uint32)),
        "seccomp_arch_add": (c_int, (c_void_p, c_uint32)),
        "seccomp_arch_remove": (c_int, (c_void_p, c_uint32)),
        "seccomp_arch_native": (c_uint32, ()),
        "seccomp_attr_set": (c_int, (c_void_p, c_int, c_uint32)),
        "seccomp_syscall_resolve_name": (c_int, (c_char_p,)),
        "seccomp_syscall_resolve_name_arch": (c_int, (c_uint32, c_char_p)),
        "seccomp_rule_add_array": (c_int, (c_void_p, c_uint32, c_int, c_uint, POINTER(Comparison))),
        "seccomp_export_bpf": (c_int, (c_void_p, c_int)),
        "seccomp_version": (POINTER(_Version), ()),
    }
    for name, (restype, argtypes) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = restype, argtypes
    return library


def version() -> tuple[int, int, int]:
    """The version of the installed library.

    Raises:
        HostFault: it is not installed.
    """
    found = _library().seccomp_version().contents
    return found.major, found.minor, found.micro


def resolve(name: str, arch: str = "") -> int | None:
    """The library's number of a call on ``arch`` (one of ARCHES; this machine's own by default).

    Negative for a call that it lacks, None for a name that the library does not know.
    On x32 bit 30 is set.
    """
    if arch:
        number = int(_library().seccomp_syscall_resolve_name_arch(ARCHES[arch], name.encode()))
    else:
        number = int(_library().seccomp_syscall_resolve_name(name.encode()))
    return None if number == _UNKNOWN_SYSCALL else number


class Filter:
    """A filter under construction for some architectures; use it as a context manager."""

    def __init__(self, default_action: int, arches: Sequence[str]) -> None:
        self._library = _library()
        self._context: int | None = self._library.seccomp_init(default_action)
        if not self._context:
            raise HostFault("no memory or a bad action", step="make a seccomp filter", call="seccomp_init")
        try:
            self._set_arches([ARCHES[arch] for arch in arches])
        except BaseException:
            self.release()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release(self) -> None:
        """Free the filter; once more does nothing."""
        context, self._context = self._context, None
        if context:
            self._library.seccomp_release(context)

    def optimize(self) -> bool:
        """Ask for a binary tree in place of a chain of comparisons; False: too old a library."""
        return bool(self._library.seccomp_attr_set(self._context, _ATTRIBUTE_OPTIMIZE, _OPTIMIZE_TREE) == 0)

    def add_rule(self, action: int, number: int, comparisons: Sequence[Comparison] = ()) -> None:
        """``action`` for the call ``number`` when all ``comparisons`` hold.

        A call that an architecture does not have is left out there.
        """
        array = (Comparison * len(comparisons))(*comparisons)
        result = self._library.seccomp_rule_add_array(self._context, action, number, len(comparisons), array)
        if result not in (0, -_EEXIST, -_EDOM):
            self._fail("seccomp_rule_add_array", result, str(number))

    def export(self) -> bytes:
        """The program: an array of struct sock_filter."""
        fd = os.memfd_create("seccomp", os.MFD_CLOEXEC)
        try:
            self._check("seccomp_export_bpf", self._library.seccomp_export_bpf(self._context, fd))
            os.lseek(fd, 0, os.SEEK_SET)
            with os.fdopen(fd, "rb", closefd=False) as file:
                return file.read()
        finally:
            os.close(fd)

    def _set_arches(self, tokens: Sequence[int]) -> None:
        for token in tokens:
            if self._library.seccomp_arch_exist(self._context, token) == -_EEXIST:
                self._check("seccomp_arch_add", self._library.seccomp_arch_add(self._context, token))
        native = int(self._library.seccomp_arch_native())
        if native not in tokens:
            self._check("seccomp_arch_remove", self._library.seccomp_arch_remove(self._context, native))

    def _check(self, call: str, result: int) -> None:
        if result != 0:
            self._fail(call, result, "")

    def _fail(self, call: str, result: int, object_: str) -> None:
        raise HostFault(step="build the seccomp filter", object=object_, call=call, errno=-result)
