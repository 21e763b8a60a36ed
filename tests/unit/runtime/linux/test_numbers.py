"""The numbers of system calls are those of the kernel's own headers."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from runtime.linux import numbers

INCLUDES = Path("/usr/include")
DEFINITION = re.compile(r"^#define __NR(?:3264)?_(\w+)\s+(\d+)$", re.MULTILINE)
GENERIC_64_BIT = re.compile(r"^#define __NR_(\w+) __NR3264_(\w+)$", re.MULTILINE)


def header(*names: str) -> dict[str, int]:
    """What the first of these headers defines; skips where there is none."""
    for name in names:
        if (INCLUDES / name).is_file():
            text = (INCLUDES / name).read_text()
            found = {call: int(number) for call, number in DEFINITION.findall(text)}
            renamed = {call: found[other] for call, other in GENERIC_64_BIT.findall(text) if other in found}
            return {**found, **renamed}
    pytest.skip(f"needs the kernel's header {names[0]}")


def test_the_numbers_of_x86_64_are_the_kernels() -> None:
    kernels = header("x86_64-linux-gnu/asm/unistd_64.h", "asm/unistd_64.h")
    wanted = {**numbers.X86_64, **numbers.EVERYWHERE}
    assert {name: kernels.get(name) for name in wanted} == wanted


def test_the_numbers_of_aarch64_are_the_kernels() -> None:
    kernels = header("asm-generic/unistd.h")
    wanted = {**numbers.AARCH64, **numbers.EVERYWHERE}
    assert {name: kernels.get(name) for name in wanted} == wanted


def test_a_call_is_there_on_both_machines_or_on_neither() -> None:
    assert numbers.X86_64.keys() == numbers.AARCH64.keys()
    assert not numbers.X86_64.keys() & numbers.EVERYWHERE.keys()


def test_this_machine_has_one_table() -> None:
    own = {"x86_64": numbers.X86_64, "aarch64": numbers.AARCH64}.get(os.uname().machine, {})
    assert {**own, **numbers.EVERYWHERE} == numbers.NUMBERS
    assert max(numbers.NUMBERS.values()) < 1000  # where the calls of launch begin
    assert len(set(numbers.NUMBERS.values())) == len(numbers.NUMBERS)
