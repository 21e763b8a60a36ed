"""Where a pod's time went: its stages as records, as JSON, and in words.

The step executor measures stages (``runtime.steps.Stage``), the records keep them
(``cri.state.records.StageRecord``), ``crisp explain`` and the verbose status show them.

Invariant: stages stay in the order in which they began.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from cri.state.records import StageRecord
from runtime.steps import Stage

FULL_ID = re.compile(r"\b([0-9a-f]{12})[0-9a-f]{52}\b")

LIMIT = 128
"""Stages that one object keeps; retries of a failing stop would grow it without end."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The stages of one object; ``title`` says which (``sandbox 0123456789ab web``)."""

    title: str
    stages: tuple[StageRecord, ...]


def to_records(stages: Iterable[Stage]) -> tuple[StageRecord, ...]:
    """What the executor measured, in the form that records keep: ids are shortened as people know them."""
    return tuple(
        StageRecord(stage.step, FULL_ID.sub(r"\1", stage.describe), stage.began, stage.took, stage.error)
        for stage in stages
    )


def extend(kept: Sequence[StageRecord], stages: Iterable[Stage]) -> tuple[StageRecord, ...]:
    """``kept`` and then ``stages``; the oldest go when there are more than ``LIMIT``."""
    return (*kept, *to_records(stages))[-LIMIT:]


def duration(nanoseconds: int) -> str:
    """``1.23 ms``, with the unit that keeps three digits."""
    for unit, size in (("s", 1e9), ("ms", 1e6)):
        if nanoseconds >= size:
            return f"{nanoseconds / size:.2f} {unit}"
    return f"{nanoseconds / 1e3:.0f} µs"


def clock(nanoseconds: int) -> str:
    """Local time of day with milliseconds."""
    seconds, rest = divmod(nanoseconds, 10**9)
    return time.strftime("%H:%M:%S", time.localtime(seconds)) + f".{rest // 10**6:03d}"


def to_json(timeline: Timeline) -> dict[str, Any]:
    """``stages`` with ``began`` (ns since the epoch), ``took`` (ns) and, if it failed, ``error``."""
    stages = []
    for stage in timeline.stages:
        row: dict[str, Any] = {
            "step": stage.step,
            "describe": stage.describe,
            "began": stage.began,
            "took": stage.took,
        }
        if stage.error:
            row["error"] = stage.error
        stages.append(row)
    return {"title": timeline.title, "stages": stages}


def to_info(timelines: Iterable[Timeline]) -> str:
    """The value of ``timeline`` in the verbose status: JSON."""
    return json.dumps([to_json(timeline) for timeline in timelines], ensure_ascii=False)
