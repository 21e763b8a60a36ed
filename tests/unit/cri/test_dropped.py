"""Log entries that the disk refused: totals that come again, and come after a restart."""

from __future__ import annotations

import logging

import pytest

from cri.dropped import Dropped
from cri.metrics import Metrics


def counted(metrics: Metrics) -> float | None:
    return metrics.registry.get_sample_value("crisp_log_entries_dropped_total")


def test_totals_of_containers_add_up_however_often_they_are_told(caplog: pytest.LogCaptureFixture) -> None:
    metrics = Metrics()
    dropped = Dropped(metrics)
    assert (dropped.of("one"), counted(metrics)) == (0, 0)
    with caplog.at_level(logging.WARNING):
        for id, total in (("one", 3), ("one", 3), ("two", 4), ("one", 10), ("one", 7), ("three", 0)):
            dropped.note(id, total)
    assert [dropped.of(id) for id in ("one", "two", "three")] == [10, 4, 0]
    assert counted(metrics) == 14
    assert [record.__dict__["container_id"] for record in caplog.records] == ["one", "two"]


def test_what_was_counted_before_this_daemon_is_told_and_not_counted() -> None:
    metrics = Metrics()
    dropped = Dropped(metrics)
    dropped.found("one", 5)
    dropped.found("two", 0)
    assert (dropped.of("one"), dropped.of("two"), counted(metrics)) == (5, 0, 0)
    dropped.note("one", 6)
    dropped.found("one", 2)
    assert (dropped.of("one"), counted(metrics)) == (6, 1)


def test_a_removed_container_is_forgotten_and_its_share_of_the_sum_stays() -> None:
    metrics = Metrics()
    dropped = Dropped(metrics)
    dropped.note("one", 5)
    dropped.forget("one")
    dropped.forget("unknown")
    assert (dropped.of("one"), counted(metrics)) == (0, 5)
