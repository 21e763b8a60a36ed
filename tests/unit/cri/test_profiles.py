"""Compiled seccomp programs by capabilities, found again without a compilation."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from cri import profiles
from cri.profiles import Profiles, kernel_version


@pytest.mark.parametrize(
    ("release", "version"),
    [("6.1.0-42-amd64", (6, 1)), ("6.18.2", (6, 18)), ("7.0-rc1", (7, 0)), ("5.15+", (5, 15)), ("linux", (0, 0))],
)
def test_the_kernels_version_is_read_from_its_release(release: str, version: tuple[int, int]) -> None:
    assert kernel_version(release) == version


def test_the_same_capabilities_have_the_same_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = Profiles(tmp_path / "cache" / "seccomp")
    few = made.path(["CAP_CHOWN", "CAP_KILL"])
    many = made.path(["CAP_SYS_ADMIN"])
    assert few != many and os.path.getsize(few) % 8 == 0
    monkeypatch.setattr(profiles, "ensure", None)  # nothing is compiled from here on
    assert made.path(["CAP_KILL", "CAP_CHOWN"]) == few


def test_a_program_that_was_deleted_is_made_again(tmp_path: Path) -> None:
    made = Profiles(tmp_path)
    path = made.path([])
    os.unlink(path)
    assert made.path([]) == path and os.path.exists(path)
