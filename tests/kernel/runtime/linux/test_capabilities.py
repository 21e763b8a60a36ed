from __future__ import annotations

from pathlib import Path

import pytest

from runtime.capability_names import NAMES
from runtime.errors import HostFault, InvalidArgument
from runtime.linux import capabilities
from tests.kernel.runtime.forked import in_child

CHOWN_KILL = capabilities.mask(["CAP_CHOWN", "CAP_KILL"])


def of_status(name: str) -> int:
    text = Path("/proc/self/status").read_text()
    return int(text.split(f"{name}:")[1].split()[0], 16)


def test_names_and_bits_are_inverse() -> None:
    assert capabilities.names(capabilities.mask(NAMES)) == list(NAMES)
    assert CHOWN_KILL == 0b100001
    assert capabilities.mask(["CAP_CHECKPOINT_RESTORE"]) == 1 << 40


@pytest.mark.parametrize("name", ["CAP_NOSUCH", "CHOWN", "cap_chown", ""])
def test_an_unknown_name_is_an_error(name: str) -> None:
    with pytest.raises(InvalidArgument, match="unknown capability"):
        capabilities.mask([name])


def test_sets_are_what_the_kernel_says() -> None:
    effective, permitted, inheritable = capabilities.capget()
    assert (effective, permitted, inheritable) == (of_status("CapEff"), of_status("CapPrm"), of_status("CapInh"))
    assert capabilities.bounding() == of_status("CapBnd")


def test_sets_are_taken_as_given() -> None:
    def work() -> tuple[int, ...]:
        capabilities.capset(CHOWN_KILL, CHOWN_KILL, 0)
        return of_status("CapEff"), of_status("CapPrm"), of_status("CapInh"), *capabilities.capget()

    assert in_child(work) == (CHOWN_KILL, CHOWN_KILL, 0, CHOWN_KILL, CHOWN_KILL, 0)


def test_the_bounding_set_only_shrinks() -> None:
    def work() -> int:
        capabilities.limit_bounding(CHOWN_KILL)
        capabilities.limit_bounding((1 << 64) - 1)
        return of_status("CapBnd")

    assert in_child(work) == CHOWN_KILL


def test_ambient_capabilities_are_exactly_those_given() -> None:
    def work() -> tuple[int, int]:
        capabilities.capset(CHOWN_KILL, CHOWN_KILL, CHOWN_KILL)
        capabilities.set_ambient(CHOWN_KILL)
        first = of_status("CapAmb")
        capabilities.set_ambient(1)
        return first, of_status("CapAmb")

    assert in_child(work) == (CHOWN_KILL, 1)


def test_what_is_not_permitted_cannot_be_gained() -> None:
    def work() -> None:
        capabilities.capset(0, 0, 0)
        capabilities.capset(CHOWN_KILL, CHOWN_KILL, 0)

    with pytest.raises(HostFault) as failed:
        in_child(work)
    assert failed.value.call == "capset"


def test_dropping_needs_the_right_to() -> None:
    def work() -> None:
        capabilities.capset(0, 0, 0)
        capabilities.limit_bounding(0)

    with pytest.raises(HostFault, match="prctl"):
        in_child(work)
