"""``crisp version``."""

from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import grpc
import pytest


def test_both_versions_are_shown(admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert crisp("version") == 0
    shown = capsys.readouterr().out
    assert version("crisp-cri") in shown
    assert "9.9.9" in shown
    assert "pid 42, instance 0123abcd" in shown


def test_without_a_daemon_it_says_so(crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert crisp("version") == 0
    assert "not running" in capsys.readouterr().out


def test_programs_get_json(admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert crisp("version", "--output", "json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer == {
        "crisp": version("crisp-cri"),
        "daemon": {"version": "9.9.9", "pid": 42, "instance": "0123abcd"},
    }


def test_without_a_daemon_json_has_null(crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert crisp("version", "--output", "json") == 0
    assert json.loads(capsys.readouterr().out)["daemon"] is None


def test_a_daemon_that_refuses_is_an_error(
    admin: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    admin.refuse = (grpc.StatusCode.INTERNAL, "broken")
    assert crisp("version") == 1
    assert capsys.readouterr().err == "crisp: broken\n"
