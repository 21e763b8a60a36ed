"""Choosing the image that runs here."""

from __future__ import annotations

import os

import pytest

from runtime.errors import NotFound
from runtime.images.platforms import Platform, choose, host_platform, rank

AMD = Platform("linux", "amd64")
ARM64 = Platform("linux", "arm64", "v8")


@pytest.mark.parametrize(
    ("machine", "platform"),
    [
        ("x86_64", "linux/amd64"),
        ("aarch64", "linux/arm64/v8"),
        ("armv7l", "linux/arm/v7"),
        ("i686", "linux/386"),
        ("riscv64", "linux/riscv64"),
        ("strange", "linux/strange"),
    ],
)
def test_a_machine_has_its_platform(machine: str, platform: str) -> None:
    assert str(host_platform(machine)) == platform


def test_the_default_is_this_machine() -> None:
    assert host_platform() == host_platform(os.uname().machine)


def test_the_nearest_variant_is_chosen() -> None:
    host = host_platform("armv7l")
    offered = [Platform("linux", "arm", variant) for variant in ("v5", "v6", "v8", "v7")]
    assert choose(offered, host, "x") == 3
    assert choose(offered[:2], host, "x") == 1
    assert choose([ARM64, AMD], AMD, "x") == 1
    assert choose([Platform("linux", "arm64")], ARM64, "x") == 0


def test_a_newer_variant_or_another_system_does_not_run() -> None:
    assert rank(Platform("linux", "arm", "v8"), host_platform("armv7l")) is None
    assert rank(Platform("linux", "amd64", "v3"), AMD) is None
    assert rank(Platform("windows", "amd64"), AMD) is None


def test_an_entry_without_a_platform_is_the_last_resort() -> None:
    assert choose([None, AMD], AMD, "x") == 1
    assert choose([None, ARM64], AMD, "x") == 0


def test_nothing_that_runs_here_is_not_found() -> None:
    with pytest.raises(NotFound, match="linux/arm64/v8"):
        choose([ARM64, Platform("unknown", "unknown")], AMD, "x")
    with pytest.raises(NotFound, match="nothing"):
        choose([], AMD, "x")
