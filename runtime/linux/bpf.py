"""Device programs of cgroup v2: assembled from rules, loaded and attached by bpf(2).

``runtime.cgroups.limits`` is the user. The kernel asks the program at each open and
mknod of a device node: 1 allows, 0 refuses (EPERM). Source: bpf(2), the kernel's
Documentation/bpf/standardization/instruction-set.rst, include/uapi/linux/bpf.h.

Invariant: what no rule allows is refused; the last rule that matches counts.
"""

from __future__ import annotations

import ctypes
import os
import struct
from collections.abc import Sequence
from ctypes import c_char_p, c_int, c_size_t

from runtime.linux import libc
from runtime.spec import DeviceRule

_NR_BPF = {"x86_64": 321, "aarch64": 280}.get(os.uname().machine, -1)
_PROG_LOAD, _PROG_ATTACH = 5, 8
_PROG_TYPE_CGROUP_DEVICE = 15
_ATTACH_CGROUP_DEVICE = 6
_F_ALLOW_MULTI = 2  # beside programs of others (systemd's); all of them have to allow

_TYPES = {"b": 1, "c": 2}
_ACCESS = {"m": 1, "r": 2, "w": 4}
_EVERY_ACCESS = 7

_INSTRUCTION = struct.Struct("=BBhi")
_LOAD_U32, _MOV_IMM, _MOV_REG = 0x61, 0xB4, 0xBC
_AND_IMM, _RSH_IMM = 0x54, 0x74
_JNE_IMM, _JNE_REG, _JEQ_IMM, _EXIT = 0x56, 0x5E, 0x16, 0x95
_R0, _CONTEXT, _TYPE, _REQUESTED, _MAJOR, _MINOR = range(6)
_SCRATCH = _CONTEXT  # free once the context's three words are loaded

_bpf = libc.syscall(c_int, c_char_p, c_size_t)


def assemble_device_program(rules: Sequence[DeviceRule]) -> bytes:
    """The eBPF instructions that enforce ``rules``; pure.

    An allowing rule matches when it covers every access that is asked for, a denying
    one when it covers any.
    """
    code = [
        _instruction(_LOAD_U32, _REQUESTED, _CONTEXT, offset=0),  # bpf_cgroup_dev_ctx: access << 16 | type
        _instruction(_MOV_REG, _TYPE, _REQUESTED),
        _instruction(_AND_IMM, _TYPE, value=0xFFFF),
        _instruction(_RSH_IMM, _REQUESTED, value=16),
        _instruction(_LOAD_U32, _MAJOR, _CONTEXT, offset=4),
        _instruction(_LOAD_U32, _MINOR, _CONTEXT, offset=8),
    ]
    for rule in reversed(rules):
        tests = _tests(rule)
        code += tests + _answer(rule["allow"])
        if not tests:
            break  # it matches everything: the rules before it never count
    else:
        code += _answer(False)
    return b"".join(code)


def attach_device_program(directory: str, program: bytes) -> None:
    """Attach ``program`` to a cgroup v2 directory, for as long as that exists.

    Raises:
        SyscallError: the kernel refused to load or to attach it.
    """
    instructions = ctypes.create_string_buffer(program, len(program))
    license_ = ctypes.create_string_buffer(b"Apache-2.0")
    load = struct.pack(
        "=IIQQ104x",
        _PROG_TYPE_CGROUP_DEVICE,
        len(program) // _INSTRUCTION.size,
        ctypes.addressof(instructions),
        ctypes.addressof(license_),
    )
    fd = _bpf(_NR_BPF, _PROG_LOAD, load, len(load))
    if fd < 0:
        raise libc.failed("bpf", directory)
    try:
        target = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            attach = struct.pack("=IIII", target, fd, _ATTACH_CGROUP_DEVICE, _F_ALLOW_MULTI)
            if _bpf(_NR_BPF, _PROG_ATTACH, attach, len(attach)) < 0:
                raise libc.failed("bpf", directory)
        finally:
            os.close(target)
    finally:
        os.close(fd)


def _tests(rule: DeviceRule) -> list[bytes]:
    """Jumps to the next rule where this one does not match; empty where it always does."""
    kind, access = rule.get("type", "a"), sum(_ACCESS[letter] for letter in set(rule.get("access", "rwm")))
    major, minor = rule.get("major"), rule.get("minor")
    tests: list[tuple[int, int, int, int]] = []  # opcode, register, other register, immediate
    if kind != "a":
        tests.append((_JNE_IMM, _TYPE, 0, _TYPES[kind]))
    if major is not None:
        tests.append((_JNE_IMM, _MAJOR, 0, major))
    if minor is not None:
        tests.append((_JNE_IMM, _MINOR, 0, minor))
    prepare: list[bytes] = []
    if access != _EVERY_ACCESS:
        prepare = [_instruction(_MOV_REG, _SCRATCH, _REQUESTED), _instruction(_AND_IMM, _SCRATCH, value=access)]
        tests.append((_JNE_REG, _SCRATCH, _REQUESTED, 0) if rule["allow"] else (_JEQ_IMM, _SCRATCH, 0, 0))
    length = len(prepare) + len(tests) + 2  # and the answer's two instructions
    code = list(prepare)
    for opcode, register, other, value in tests:
        code.append(_instruction(opcode, register, other, offset=length - len(code) - 1, value=value))
    return code


def _answer(allow: bool) -> list[bytes]:
    return [_instruction(_MOV_IMM, _R0, value=int(allow)), _instruction(_EXIT)]


def _instruction(opcode: int, target: int = 0, source: int = 0, *, offset: int = 0, value: int = 0) -> bytes:
    return _INSTRUCTION.pack(opcode, target | source << 4, offset, value)
