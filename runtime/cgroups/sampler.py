"""Rates out of two readings: CPU nanocores; pure.

``stats`` sweeps, the daemon keeps the samples between two sweeps.

Invariant: a rate covers a real interval: never less than ``MIN_INTERVAL``, never
across two cgroups that merely had the same path.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from runtime.cgroups.usage import Usage

MIN_INTERVAL = 1_000_000_000
"""Nanoseconds. Two clients asking in turn must not shorten each other's interval to noise."""


class Sample(NamedTuple):
    """A reading and the rate up to it. ``nanocores`` is None until there are two readings;
    ``base`` is the reading that the next rate starts from."""

    usage: Usage
    nanocores: int | None
    base: Usage


def nanocores(before: Usage, after: Usage) -> int | None:
    """CPU time per time, in billionths of a core; None where it cannot be said.

    The counter of a cgroup never falls: if it did, the path names another cgroup now.
    """
    interval = after.clock - before.clock
    if before.cpu is None or after.cpu is None or interval <= 0 or after.cpu < before.cpu:
        return None
    return (after.cpu - before.cpu) * 1_000_000_000 // interval


def lifetime_nanocores(usage: Usage, began: int) -> int | None:
    """The rate since ``began`` (ns since the epoch), when the cgroup was empty: for a first reading,
    which has no other interval."""
    interval = usage.time - began
    if usage.cpu is None or began <= 0 or interval < MIN_INTERVAL:
        return None
    return usage.cpu * 1_000_000_000 // interval


def advance(samples: Mapping[str, Sample], readings: Mapping[str, Usage]) -> dict[str, Sample]:
    """The samples after a sweep, which may have covered some of the cgroups only.

    Who removes a cgroup deletes its sample.
    """
    return {**samples, **{path: _next(samples.get(path), usage) for path, usage in readings.items()}}


def _next(sample: Sample | None, usage: Usage) -> Sample:
    if sample is None or (usage.cpu or 0) < (sample.base.cpu or 0):
        return Sample(usage, None, usage)
    if usage.clock - sample.base.clock < MIN_INTERVAL:
        return Sample(usage, sample.nanocores, sample.base)
    return Sample(usage, nanocores(sample.base, usage), usage)
