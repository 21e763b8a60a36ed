"""The jail's filter, as the kernel would run it."""

from __future__ import annotations

import struct

import pytest

from runtime.images.jailfilter import assemble

X86_64, AARCH64 = 0xC000003E, 0xC00000B7
ALLOW, REFUSE = 0x7FFF0000, 0x00050001


def run(program: bytes, architecture: int, number: int) -> int:
    """Interprets the few instructions of classic BPF that the filter has."""
    instructions = [struct.unpack_from("=HBBI", program, at) for at in range(0, len(program), 8)]
    data = struct.pack("=II", number, architecture)
    at = accumulator = 0
    while True:
        code, jump_true, jump_false, value = instructions[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("=I", data, value)
        elif code == 0x06:
            return int(value)
        else:
            hit = accumulator == value if code == 0x15 else bool(accumulator & value)
            at += jump_true if hit else jump_false


@pytest.mark.parametrize(
    ("machine", "architecture", "refused", "allowed"),
    [
        (
            "x86_64",
            X86_64,
            {"execve": 59, "socket": 41, "mount": 165, "io_uring_setup": 425, "mount_setattr": 442},
            (0, 1, 257, 437),
        ),
        (
            "aarch64",
            AARCH64,
            {"execve": 221, "socket": 198, "mount": 40, "clone3": 435, "clone": 220},
            (63, 64, 56, 437),
        ),
    ],
)
def test_what_a_worker_never_calls_is_refused(
    machine: str, architecture: int, refused: dict[str, int], allowed: tuple[int, ...]
) -> None:
    program = assemble(machine)
    for number in refused.values():
        assert run(program, architecture, number) == REFUSE
    for number in allowed:
        assert run(program, architecture, number) == ALLOW


def test_another_architecture_is_refused_as_a_whole() -> None:
    program = assemble("x86_64")
    assert run(program, AARCH64, 0) == REFUSE
    assert run(program, X86_64, 0x40000000) == REFUSE


def test_a_machine_that_is_not_listed_has_no_filter() -> None:
    assert assemble("riscv64") == b""
