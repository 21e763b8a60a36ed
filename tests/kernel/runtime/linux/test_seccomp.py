from __future__ import annotations

import errno
import os
import struct

import pytest

from runtime.linux import process, seccomp
from tests.kernel.runtime.forked import in_child

GETPPID = {"x86_64": 110, "aarch64": 173}[os.uname().machine]
# if (nr == getppid) return ERRNO(ENETDOWN); return ALLOW
PROGRAM = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x20, 0, 0, 0),
        (0x15, 0, 1, GETPPID),
        (0x06, 0, 0, 0x00050000 | errno.ENETDOWN),
        (0x06, 0, 0, 0x7FFF0000),
    )
)


def test_a_loaded_program_filters_the_calls() -> None:
    def work() -> int:
        process.set_no_new_privs()
        seccomp.load(PROGRAM)
        return os.getppid()

    # getppid cannot fail: the C library hands the filter's errno on as a result
    assert in_child(work) in (-1, -errno.ENETDOWN)


@pytest.mark.parametrize("program", [b"", PROGRAM[:-1], b"\0" * 8 * 4097])
def test_a_program_that_is_cut_off_is_never_loaded(program: bytes) -> None:
    with pytest.raises(ValueError, match="instructions"):
        seccomp.load(program)
