"""What the host was like before is not forgotten."""

from __future__ import annotations

import json
from typing import Any

import pytest

from cri.changed_sysctls import record_sysctls, recorded
from cri.state.meta import SYSCTLS
from network.sysctls import SysctlChange
from proto import api_pb2 as api
from runtime.errors import ResourceExhausted
from tests.cri.harness import Crisp


async def test_the_first_value_of_each_setting_is_kept_and_shown(crisp: Crisp) -> None:
    bridge: Any = crisp.host.network["bridge"]
    before, changes = crisp.host.meta.get(SYSCTLS), bridge._wiring.changes
    try:
        for old, new in (("0", "1"), ("1", "2")):
            bridge._wiring.changes = (SysctlChange("net.test.name", old, new),)
            await record_sysctls(crisp.host)
        assert recorded(crisp.host.meta)["net.test.name"] == "0 -> 1"
        answer = await crisp.runtime.Status(api.StatusRequest(verbose=True))
        assert json.loads(answer.info["network"])["sysctls"]["net.test.name"] == "0 -> 1"
    finally:
        bridge._wiring.changes = changes
        await crisp.host.meta.set(SYSCTLS, before)
    assert "net.test.name" not in recorded(crisp.host.meta)


async def test_a_full_disk_stops_nothing(
    crisp: Crisp, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def full(*_: object) -> None:
        raise ResourceExhausted("the disk is full")

    bridge: Any = crisp.host.network["bridge"]
    monkeypatch.setattr(bridge._wiring, "changes", (SysctlChange("net.test.name", "0", "1"),))
    monkeypatch.setattr(crisp.host.meta, "set", full)
    await record_sysctls(crisp.host)
    assert "cannot be stored: the disk is full" in caplog.text
