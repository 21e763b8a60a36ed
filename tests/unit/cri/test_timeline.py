"""A pod's stages as records, as JSON, and in words."""

from __future__ import annotations

import json

import pytest

from cri.state.records import StageRecord
from cri.timeline import LIMIT, Timeline, clock, duration, extend, to_info, to_records
from runtime.steps import Stage

ADDRESS = Stage("address", "lease an address", 1_700_000_000_123_456_789, 1_234_567)
FAILED = Stage("bridge", "attach to crisp0", 1_700_000_000_125_000_000, 2_000, "no such device (ENODEV)")


def test_what_was_measured_is_what_is_kept() -> None:
    assert to_records([FAILED]) == (
        StageRecord("bridge", "attach to crisp0", 1_700_000_000_125_000_000, 2_000, "no such device (ENODEV)"),
    )


def test_a_pod_that_is_stopped_again_and_again_keeps_a_bounded_timeline() -> None:
    kept: tuple[StageRecord, ...] = ()
    for number in range(LIMIT + 10):
        kept = extend(kept, [Stage(str(number), "", 0, 0)])
    assert len(kept) == LIMIT
    assert kept[-1].step == str(LIMIT + 9)


@pytest.mark.parametrize(
    ("nanoseconds", "words"), [(900, "1 µs"), (45_600, "46 µs"), (1_234_567, "1.23 ms"), (2_500_000_000, "2.50 s")]
)
def test_a_duration_has_the_unit_that_fits(nanoseconds: int, words: str) -> None:
    assert duration(nanoseconds) == words


def test_a_time_has_milliseconds() -> None:
    assert clock(ADDRESS.began).endswith(".123")


def test_the_verbose_status_has_the_stages_as_json() -> None:
    [line] = json.loads(to_info([Timeline("sandbox web", to_records([ADDRESS, FAILED]))]))
    assert line["title"] == "sandbox web"
    assert line["stages"][0] == {
        "step": "address",
        "describe": "lease an address",
        "began": 1_700_000_000_123_456_789,
        "took": 1_234_567,
    }
    assert line["stages"][1]["error"] == "no such device (ENODEV)"


def test_the_ids_in_what_a_stage_did_are_shortened() -> None:
    id = "0123456789ab" + "c" * 52
    (record,) = to_records([Stage("make", f"make /run/pods/{id}/ns", 1, 2)])
    assert record.describe == "make /run/pods/0123456789ab/ns"
