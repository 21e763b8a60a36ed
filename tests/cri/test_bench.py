"""The bench against a daemon of its own, small: that it measures everything and leaves nothing."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from tests.bench import measures
from tests.bench.__main__ import main

NAMED = (
    "RunPodSandbox, bridge, warm pool", "RunPodSandbox, bridge, pool drained", "RunPodSandbox, host network",
    "RunPodSandbox, bridge, burst of 3", "CreateContainer", "StartContainer", "Create+Start", "ExecSync true",
    "StopContainer (exits on TERM)", "StopPodSandbox", "RemovePodSandbox", "whole pod cycle",
    "whole pod cycles, 1 at once", "whole pod cycles, 4 at once", "whole pod cycles, 16 at once",
    "burst of 3, up", "burst of 3, down", "ListContainers, 3 pods", "ListContainerStats, 3 pods",
    "ListPodSandboxStats, 3 pods", "ListPodSandboxMetrics, 3 pods", "CPU time of one cgroup sweep, 3 pods",
    "CPU time of one ListPodSandboxStats, 3 pods", "CPU time of one ListPodSandboxMetrics, 3 pods",
    "log, 100-byte lines", "private memory a pod, monitor or shim and pause", "daemon growth a pod",
)  # fmt: skip


async def test_all_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(measures, "LOG_BYTES", 4 << 20)
    monkeypatch.setattr(measures, "IDLE", 0.1)
    arguments = ["--rounds", "1", "--pods", "3", "--json", str(tmp_path / "bench.json")]
    assert await asyncio.to_thread(main, arguments) == 0
    table = capsys.readouterr().out
    (found,) = json.loads((tmp_path / "bench.json").read_text())["endpoints"].values()
    assert sorted(found) == sorted(NAMED)
    assert all(f"| {name} | " in table and found[name]["p50"] >= 0 for name in NAMED)
