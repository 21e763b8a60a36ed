from __future__ import annotations

import errno
import struct

import pytest

from runtime.errors import HostFault
from runtime.linux import libseccomp
from runtime.linux.libseccomp import ACT_ALLOW, COMPARE, Comparison, Filter, act_errno
from tests.descriptors import open_descriptors

EPERM = act_errno(errno.EPERM)


def test_the_installed_library_says_its_version() -> None:
    assert libseccomp.version() >= (2, 5, 0)


def test_names_resolve_and_unknown_ones_do_not() -> None:
    number = libseccomp.resolve("getpid")
    assert number is not None and number > 0
    assert libseccomp.resolve("no_such_call") is None
    elsewhere = libseccomp.resolve("socketcall")  # there is one on 32-bit x86 only
    assert elsewhere is not None and elsewhere < 0


def test_an_errno_action_carries_the_number() -> None:
    assert act_errno(38) == 0x00050026


def test_a_filter_is_exported_as_whole_instructions_that_end_in_a_return() -> None:
    mkdir, umask = libseccomp.resolve("mkdir"), libseccomp.resolve("umask")
    assert mkdir is not None and umask is not None
    with Filter(EPERM, ["x86_64", "x86", "x32"]) as context:
        assert context.optimize()
        context.add_rule(ACT_ALLOW, umask)
        context.add_rule(ACT_ALLOW, umask)  # once more is no error
        context.add_rule(ACT_ALLOW, mkdir, [Comparison(1, COMPARE["EQ"], 0o755)])
        program = context.export()
    code = list(struct.iter_unpack("=HBBI", program))
    returns = {value for opcode, _, _, value in code if opcode == 0x06}
    assert {EPERM, ACT_ALLOW} <= returns
    assert code[-1][0] == 0x06


def test_a_filter_for_another_machine_has_only_its_architectures() -> None:
    with Filter(EPERM, ["aarch64", "arm"]) as context:
        getpid = libseccomp.resolve("getpid")
        assert getpid is not None
        context.add_rule(ACT_ALLOW, getpid)
        values = {value for _, _, _, value in struct.iter_unpack("=HBBI", context.export())}
    assert {libseccomp.ARCHES["aarch64"], libseccomp.ARCHES["arm"]} <= values
    assert libseccomp.ARCHES["x86_64"] not in values


def test_what_the_library_refuses_is_a_fault_and_no_descriptor_stays() -> None:
    before = len(open_descriptors())
    with Filter(EPERM, ["x86_64"]) as context, pytest.raises(HostFault, match="seccomp_rule_add_array"):
        context.add_rule(ACT_ALLOW, 1, [Comparison(9, COMPARE["EQ"], 0)])
    with pytest.raises(HostFault, match="seccomp_init"):
        Filter(0xFFFF, ["x86_64"])
    context.release()
    assert len(open_descriptors()) == before


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(libseccomp, "SONAME", "libseccomp.so.999")
    libseccomp._library.cache_clear()
    try:
        with pytest.raises(HostFault, match=r"libseccomp\.so\.999"):
            libseccomp.version()
    finally:
        libseccomp._library.cache_clear()
