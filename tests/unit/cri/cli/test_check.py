"""``crisp check``: the judged rows as a table or JSON, and the exit status."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from cri import check, probes
from cri.check import Level, Row


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> list[Row]:
    judged = [Row("kernel", Level.OK, "6.1"), Row("swap", Level.FALLBACK, "none", "a limit is ignored")]
    monkeypatch.setattr(probes, "probe_host", lambda root, bridge: root)
    monkeypatch.setattr(check, "judge", lambda root: judged if root.endswith("/root") else [])
    return judged


def test_a_host_that_can_run_pods(
    rows: list[Row], crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert crisp("check") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split() == ["ok", "kernel", "6.1"]
    assert lines[2].split() == ["falls", "back", "swap", "none", "a", "limit", "is", "ignored"]
    assert lines[-1] == "pods can run here"


def test_a_host_that_cannot(rows: list[Row], crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    rows.append(Row("overlayfs", Level.FATAL, "no such device"))
    assert crisp("check") == 1
    assert capsys.readouterr().out.endswith("no pod could run here\n")


def test_programs_get_json(rows: list[Row], crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert crisp("check", "--output=json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["can_run"] is True
    assert answer["rows"][1] == {
        "subject": "swap",
        "level": "falls back",
        "found": "none",
        "means": "a limit is ignored",
    }
