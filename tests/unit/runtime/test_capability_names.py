"""The names, in the order that the kernel's header has."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runtime.capability_names import NAMES

HEADER = Path("/usr/include/linux/capability.h")


def test_every_name_is_there_once() -> None:
    assert len(set(NAMES)) == len(NAMES) == 41
    assert all(re.fullmatch(r"CAP_[A-Z_]+", name) for name in NAMES)


@pytest.mark.skipif(not HEADER.exists(), reason="the host has no kernel headers")
def test_the_place_of_a_name_is_its_number_in_the_header() -> None:
    defined = re.findall(r"^#define (CAP_[A-Z_]+)\s+(\d+)$", HEADER.read_text(), re.MULTILINE)
    assert {name: int(number) for name, number in defined} == {name: n for n, name in enumerate(NAMES)}
