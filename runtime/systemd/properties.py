"""From the writes that limit a cgroup of v2 to the properties of its unit, which say the same.

systemd writes a unit's properties to its cgroup whenever it feels like it: at ``daemon-reload``,
and when one of them changes. So whatever crisp writes to the files of a unit's cgroup it tells
systemd, too. The names and their units are those of org.freedesktop.systemd1(5) and
systemd.resource-control(5).

``runtime.cgroups.resources`` makes the writes, ``runtime.systemd.units`` sends the properties.

Invariant: no property limits more than the write that it comes from: what only some
resolution of systemd's can express is rounded up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from runtime.cgroups.resources import Write

Property = tuple[str, tuple[str, Any]]
"""Name, and D-Bus signature and value."""

INFINITY = (1 << 64) - 1

SECOND = 1_000_000
RESOLUTION = 10_000
"""Microseconds: systemd keeps a quota as whole percents of a CPU."""

MAXIMA = {
    "memory.max": "MemoryMax",
    "memory.high": "MemoryHigh",
    "memory.low": "MemoryLow",
    "memory.min": "MemoryMin",
    "memory.swap.max": "MemorySwapMax",
    "memory.zswap.max": "MemoryZSwapMax",
}
"""Files with a number of bytes or ``max``."""


def plan_properties(writes: Iterable[Write], beside: int = 0) -> list[Property]:
    """What systemd has to know of ``writes``; files that it has no property for are left out.

    Args:
        beside: processes in the unit beside those that are limited.
    """
    found: dict[str, tuple[str, Any]] = {}
    for write in writes:
        value = write.value.strip()
        if write.file in MAXIMA:
            found[MAXIMA[write.file]] = ("t", maximum(value))
        elif write.file == "pids.max":
            found["TasksMax"] = ("t", maximum(value, beside))
        elif write.file in FILES:
            found.update(FILES[write.file](value))
    return list(found.items())


def maximum(value: str, more: int = 0) -> int:
    return INFINITY if value == "max" else int(value) + more


def bandwidth(value: str) -> dict[str, tuple[str, Any]]:
    """cpu.max is ``quota period``, both in microseconds; systemd has the quota of a second."""
    quota, _, period = value.partition(" ")
    if quota == "max":
        return {"CPUQuotaPerSecUSec": ("t", INFINITY)}
    length = int(period or 100_000)
    share = -(-int(quota) * SECOND // length)
    return {
        "CPUQuotaPerSecUSec": ("t", -(-share // RESOLUTION) * RESOLUTION),
        "CPUQuotaPeriodUSec": ("t", length),
    }


def weight(value: str) -> dict[str, tuple[str, Any]]:
    return {"CPUWeight": ("t", int(value))}


def cpus(value: str) -> dict[str, tuple[str, Any]]:
    return {"AllowedCPUs": ("ay", mask(value))}


def nodes(value: str) -> dict[str, tuple[str, Any]]:
    return {"AllowedMemoryNodes": ("ay", mask(value))}


def mask(listed: str) -> bytes:
    """``0-2,8`` as bits, the lowest number first; none for an empty list, which is systemd's "not set"."""
    bits = 0
    for part in filter(None, listed.split(",")):
        first, _, last = part.partition("-")
        bits |= (1 << int(last or first) + 1) - (1 << int(first))
    return bits.to_bytes((bits.bit_length() + 7) // 8, "little")


FILES: dict[str, Callable[[str], dict[str, tuple[str, Any]]]] = {
    "cpu.max": bandwidth,
    "cpu.weight": weight,
    "cpuset.cpus": cpus,
    "cpuset.mems": nodes,
}
