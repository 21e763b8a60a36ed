"""``crisp explain POD``."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from proto import admin_pb2 as pb

ANSWER = pb.ExplainResponse(
    pod_sandbox_id="ab" * 32,
    name="web\x1b[2J",
    namespace="default",
    state="notready",
    reason="pause ended",
    addresses=["10.85.0.2"],
    monitor_pid=7,
    path=[
        pb.Hop(part="interface", name="eth0", found="index 2, down", missing="it is down"),
        pb.Hop(part="route", name="10.85.0.0/16 dev crisp0", found="10.85.0.0/16 dev crisp0"),
        pb.Hop(part="way out", name="IPv4", missing="\x1bno route"),
    ],
    stages=[
        pb.Stage(step="address", describe="lease an address", began=10**18, took=1_500_000),
        pb.Stage(
            step="start", describe="start it", began=10**18, took=500_000, error="no such file", container_name="main"
        ),
    ],
)


def test_the_timeline_is_a_table(admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    admin.explanation = ANSWER
    assert crisp("explain", "default/web") == 0
    assert admin.asked[0].pod == "default/web"
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    assert "notready: pause ended" in shown
    assert "monitor 7, pause -" in shown
    lines = [line.split() for line in shown.splitlines()]
    assert lines[-3][1:5] == ["1.50", "ms", "pod", "address"]
    assert lines[-2][1:] == ["500", "µs", "main", "start", "start", "it:", "no", "such", "file"]
    assert lines[-1] == ["2.00", "ms", "in", "all"]


def test_the_path_is_a_table_that_says_what_is_missing(
    admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    admin.explanation = ANSWER
    assert crisp("explain", "default/web") == 0
    shown = capsys.readouterr().out
    assert "\x1b" not in shown
    lines = shown.splitlines()
    begin = lines.index("PART       NAME                     STATE")
    assert lines[begin + 1] == "interface  eth0                     index 2, down; missing: it is down"
    assert lines[begin + 2] == "route      10.85.0.0/16 dev crisp0  10.85.0.0/16 dev crisp0"
    assert lines[begin + 3].endswith("missing: \ufffdno route")


def test_a_pod_without_stages_has_an_empty_table(
    admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    admin.explanation = pb.ExplainResponse(name="web", state="ready")
    assert crisp("explain", "web") == 0
    assert capsys.readouterr().out.splitlines()[-1].split() == ["BEGAN", "TOOK", "OF", "STEP", "WHAT"]


def test_programs_get_json(admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    admin.explanation = ANSWER
    assert crisp("explain", "web", "--output=json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["id"] == "ab" * 32
    assert answer["stages"][1]["container_name"] == "main"
    assert answer["stages"][0]["took"] == 1_500_000
    assert answer["path"][0] == {
        "part": "interface",
        "name": "eth0",
        "found": "index 2, down",
        "missing": "it is down",
    }
