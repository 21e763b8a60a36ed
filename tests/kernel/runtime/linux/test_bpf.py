from __future__ import annotations

import errno
import os
import secrets
import struct
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.cgroups.devices import DEFAULT_RULES
from runtime.cgroups.layout import detect
from runtime.linux import bpf
from runtime.linux.libc import SyscallError
from runtime.spec import DeviceRule
from tests.kernel.runtime.forked import in_child

V2 = detect().v2
needs_v2 = pytest.mark.skipif(V2 is None, reason="no cgroup v2 tree")


def build(allow: bool, kind: str, major: int | None, minor: int | None, access: set[str]) -> DeviceRule:
    rule: DeviceRule = {"allow": allow, "access": "".join(sorted(access))}
    if kind != "a":
        rule["type"] = kind
    if major is not None:
        rule["major"] = major
    if minor is not None:
        rule["minor"] = minor
    return rule


NUMBERS = st.none() | st.integers(0, 2)
ACCESS = st.sets(st.sampled_from("rwm"), min_size=1)
RULES = st.lists(st.builds(build, st.booleans(), st.sampled_from("abc"), NUMBERS, NUMBERS, ACCESS), max_size=5)


def execute(program: bytes, kind: str, major: int, minor: int, access: str) -> bool:
    """What the kernel would make of a device program: just the instructions that we use."""
    requested = sum({"m": 1, "r": 2, "w": 4}[letter] for letter in access)
    context = [requested << 16 | {"b": 1, "c": 2}[kind], major, minor]
    registers = [0] * 11
    code = list(struct.iter_unpack("=BBhi", program))
    at = 0
    while True:
        opcode, both, offset, value = code[at]
        target, source = both & 15, both >> 4
        at += 1
        if opcode == 0x61:
            registers[target] = context[offset // 4]
        elif opcode in (0xB4, 0xBC):
            registers[target] = value if opcode == 0xB4 else registers[source]
        elif opcode == 0x54:
            registers[target] &= value
        elif opcode == 0x74:
            registers[target] >>= value
        elif opcode in (0x56, 0x5E, 0x16):
            other = registers[source] if opcode == 0x5E else value
            at += offset if (registers[target] == other) == (opcode == 0x16) else 0
        else:
            assert opcode == 0x95, f"unknown instruction {opcode:#x}"
            return bool(registers[0])


def meant(rules: list[DeviceRule], kind: str, major: int, minor: int, access: str) -> bool:
    """The definition: the last rule that matches counts, and without one nothing is allowed."""
    for rule in reversed(rules):
        if rule.get("type", kind) != kind or rule.get("major", major) != major or rule.get("minor", minor) != minor:
            continue
        asked, covered = set(access), set(rule.get("access", "rwm"))
        if asked <= covered if rule["allow"] else asked & covered:
            return rule["allow"]
    return False


@given(
    RULES,
    st.sampled_from("bc"),
    st.integers(0, 2),
    st.integers(0, 2),
    st.sampled_from(["r", "w", "m", "rw", "rwm"]),
)
def test_a_program_decides_as_its_rules_mean(
    rules: list[DeviceRule], kind: str, major: int, minor: int, access: str
) -> None:
    program = bpf.assemble_device_program(rules)
    assert execute(program, kind, major, minor, access) == meant(rules, kind, major, minor, access)


def test_the_default_rules() -> None:
    program = bpf.assemble_device_program(DEFAULT_RULES)
    assert execute(program, "c", 1, 3, "rw")
    assert execute(program, "c", 136, 7, "rw")
    assert execute(program, "b", 8, 0, "m")
    assert not execute(program, "b", 8, 0, "r")
    assert not execute(program, "c", 1, 1, "r")


@pytest.fixture
def directory() -> Iterator[str]:
    path = f"{V2}/crisp-test-{secrets.token_hex(4)}"
    os.mkdir(path)
    yield path
    os.rmdir(path)


def outcomes(directory: str) -> list[int]:
    """errno of opening null for writing and kmsg for reading in the cgroup."""
    with open(f"{directory}/cgroup.procs", "w") as procs:
        procs.write("0")
    found = []
    for device, flags in (("/dev/null", os.O_WRONLY), ("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)):
        try:
            os.close(os.open(device, flags))
            found.append(0)
        except OSError as error:
            found.append(error.errno or 0)
    return found


@needs_v2
def test_the_kernel_enforces_an_attached_program(directory: str) -> None:
    assert in_child(lambda: outcomes(directory)) == [0, 0]
    bpf.attach_device_program(directory, bpf.assemble_device_program(DEFAULT_RULES))
    assert in_child(lambda: outcomes(directory)) == [0, errno.EPERM]


@needs_v2
def test_a_second_program_can_only_take_away(directory: str) -> None:
    bpf.attach_device_program(directory, bpf.assemble_device_program(DEFAULT_RULES))
    bpf.attach_device_program(directory, bpf.assemble_device_program([{"allow": True}]))
    assert in_child(lambda: outcomes(directory)) == [0, errno.EPERM]


@needs_v2
def test_a_bad_program_and_a_bad_directory_are_errors(directory: str) -> None:
    with pytest.raises(SyscallError) as caught:
        bpf.attach_device_program(directory, b"\0" * 8)
    assert (caught.value.call, caught.value.filename) == ("bpf", directory)
    with pytest.raises(SyscallError) as caught:
        bpf.attach_device_program("/proc", bpf.assemble_device_program([]))
    assert caught.value.errno == errno.EBADF
