"""``crisp serve``: settings first, then the daemon."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import cri
from cri import logs


@pytest.fixture
def daemon(monkeypatch: pytest.MonkeyPatch) -> Any:
    """In place of ``cri.daemon``: keeps what it was called with."""
    stub = ModuleType("cri.daemon")
    stub.calls = []  # type: ignore[attr-defined]

    def main(settings: Any, reload: Callable[[], Any]) -> int:
        stub.calls.append((settings, reload))
        return 3

    stub.main = main  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "cri.daemon", stub)
    monkeypatch.setattr(cri, "daemon", stub, raising=False)
    monkeypatch.setattr(logs, "configure", lambda level: stub.calls.append(level))
    return stub


def test_the_daemon_gets_the_settings_and_its_status_is_ours(daemon: Any, crisp: Callable[..., int]) -> None:
    assert crisp("serve", "--log-level=debug", "--metrics=") == 3
    level, (settings, _) = daemon.calls
    assert level == "debug"
    assert settings.metrics == ""


def test_whatever_the_umask_containers_can_look_at_what_the_daemon_makes(
    daemon: Any, crisp: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = os.umask(0o077)
    try:
        crisp("serve", "--metrics=")
    finally:
        assert os.umask(before) == 0o022


def test_a_reload_reads_the_same_file_again(daemon: Any, crisp: Callable[..., int], tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('log_level = "info"\n')
    crisp("serve", f"--config={file}")
    file.write_text('log_level = "debug"\n')
    assert daemon.calls[1][1]().log_level == "debug"


def test_a_wrong_setting_ends_with_status_2(
    daemon: Any, crisp: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert crisp("serve", "--listen=nonsense") == 2
    assert "--listen" in capsys.readouterr().err
    assert daemon.calls == []
