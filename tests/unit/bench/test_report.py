from __future__ import annotations

import pytest

from tests.bench.report import Samples, cell_text, markdown, percentile, ratio_text, summary


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [([3.0], 0.95, 3.0), ([2.0, 1.0], 0.5, 1.0), (list(range(1, 101)), 0.95, 95), ([1.0, 2.0, 3.0], 0.0, 1.0)],
)
def test_a_percentile_is_the_nearest_rank(values: list[float], share: float, expected: float) -> None:
    assert percentile(values, share) == expected


def test_preparation_is_not_shown() -> None:
    samples = Samples()
    samples.add("(first)", 5.0, "ms")
    samples.add("ExecSync", 5.0, "ms")
    assert list(summary(samples)) == ["ExecSync"]


def test_the_p95_of_a_time_is_the_slow_end_and_that_of_a_speed_too() -> None:
    samples = Samples()
    for value in range(1, 101):
        samples.add("call", float(value), "ms")
        samples.add("log", float(value), "MB/s")
    found = summary(samples)
    assert (found["call"]["p95"], found["log"]["p95"]) == (95.0, 6.0)
    assert found["log"]["count"] == 100


def test_a_ratio_says_how_many_times_better_the_first_is() -> None:
    assert ratio_text({"unit": "ms", "p50": 2.0}, {"unit": "ms", "p50": 30.0}) == "15.0x"
    assert ratio_text({"unit": "MB/s", "p50": 300.0}, {"unit": "MB/s", "p50": 30.0}) == "10.0x"
    assert ratio_text({"unit": "MB", "p50": -0.1}, {"unit": "MB", "p50": 1.0}) == "–"
    assert ratio_text(None, {"unit": "MB", "p50": 1.0}) == "–"


def test_the_table_has_a_ratio_only_where_two_are_compared() -> None:
    cell = {"unit": "ms", "p50": 1.0, "p95": 2.0, "count": 9}
    assert markdown({"a": {"call": cell}}).splitlines() == [
        "| measure, p50 / p95 | a |",
        "| --- | --- |",
        "| call | 1.00 / 2.00 ms |",
    ]
    both = markdown({"a": {"call": cell}, "b": {"call": {**cell, "p50": 3.0}, "other": cell}}).splitlines()
    assert both[2:] == ["| call | 1.00 / 2.00 ms | 3.00 / 2.00 ms | 3.0x |", "| other | – | 1.00 / 2.00 ms | – |"]


def test_a_single_value_is_shown_once() -> None:
    assert cell_text({"unit": "pods/s", "p50": 4.0, "p95": 4.0, "count": 1}) == "4.00 pods/s"
    assert cell_text(None) == "–"
