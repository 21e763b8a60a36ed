"""What was measured: samples by measure, their percentiles, ratios, and the table that people read.

``measures`` adds the samples, ``__main__`` prints the table and writes the JSON.

Invariant: pure; a measure whose name is in parentheses is preparation and not shown.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Series:
    """Values in ``unit``, in the order in which they were taken."""

    unit: str
    values: list[float] = field(default_factory=list)

    @property
    def more_is_better(self) -> bool:
        """Of a speed; of times and sizes less is better."""
        return self.unit.endswith("/s")


@dataclass(slots=True)
class Samples:
    """Those of one endpoint, by measure."""

    series: dict[str, Series] = field(default_factory=dict)

    def add(self, measure: str, value: float, unit: str) -> None:
        self.series.setdefault(measure, Series(unit)).values.append(value)

    def clear(self) -> None:
        self.series.clear()


def percentile(values: Sequence[float], share: float) -> float:
    """Nearest rank: the smallest value that ``share`` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(len(ordered) * share) - 1)]


def summary(samples: Samples) -> dict[str, dict[str, Any]]:
    """By measure: unit, p50, p95 and how many. The p95 is the bad end: of a speed, what 95 % reach."""
    return {
        measure: {
            "unit": series.unit,
            "p50": percentile(series.values, 0.5),
            "p95": percentile([-value for value in series.values], 0.95) * -1
            if series.more_is_better
            else percentile(series.values, 0.95),
            "count": len(series.values),
        }
        for measure, series in samples.series.items()
        if not measure.startswith("(")
    }


def ratio_text(ours: Mapping[str, Any] | None, theirs: Mapping[str, Any] | None) -> str:
    """How many times better the first is at the median; nothing where that cannot be said."""
    if not ours or not theirs or min(ours["p50"], theirs["p50"]) <= 0:
        return "–"
    better, worse = ours["p50"], theirs["p50"]
    if not str(ours["unit"]).endswith("/s"):
        better, worse = worse, better
    return f"{better / worse:.1f}x"


def markdown(tables: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> str:
    """A row a measure, a column an endpoint, and how many times better the first is than the second."""
    names = list(tables)
    head = ["measure, p50 / p95", *names] + (["ratio"] if len(names) == 2 else [])
    rows = [head, ["---"] * len(head)]
    for measure in dict.fromkeys(measure for table in tables.values() for measure in table):
        cells = [tables[name].get(measure) for name in names]
        row = [measure, *map(cell_text, cells)]
        if len(names) == 2:
            row.append(ratio_text(*cells))
        rows.append(row)
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def cell_text(cell: Mapping[str, Any] | None) -> str:
    """One figure where there is but one."""
    if cell is None:
        return "–"
    if cell["count"] == 1:
        return f"{cell['p50']:.2f} {cell['unit']}"
    return f"{cell['p50']:.2f} / {cell['p95']:.2f} {cell['unit']}"
