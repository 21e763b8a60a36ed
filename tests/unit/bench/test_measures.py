from __future__ import annotations

from pathlib import Path
from typing import cast

import pytest

from tests.bench import measures
from tests.bench.endpoint import Endpoint
from tests.bench.report import Samples
from tests.bench.workload import Workload


def test_who_begins_changes_each_round() -> None:
    a, b = (cast("Endpoint", object()) for _ in range(2))
    assert list(measures.turns([a, b], 3)) == [(0, a), (0, b), (1, b), (1, a), (2, a), (2, b)]


def test_a_container_that_says_nothing_is_not_waited_for_without_end(tmp_path: Path) -> None:
    with pytest.raises(TimeoutError, match=r"main\.log"):
        measures.wait_log(tmp_path / "main.log", 0.01)
    (tmp_path / "main.log").write_text("ready\n")
    measures.wait_log(tmp_path / "main.log", 0.01)


def test_calls_that_run_at_once_are_not_among_those_that_run_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    class End:
        samples = Samples()

    def cycle(end: End, work: object, name: str, run: str) -> None:
        end.samples.add("CreateContainer", 1000.0, "ms")

    monkeypatch.setattr(measures, "cycle", cycle)
    end = End()
    end.samples.add("CreateContainer", 1.0, "ms")
    measures.at_once(cast("Endpoint", end), cast("Workload", None), 4, "x")
    assert end.samples.series["CreateContainer"].values == [1.0]
    assert list(end.samples.series) == ["CreateContainer", "whole pod cycles, 4 at once"]
