"""The profiles that a request names, together."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from google.protobuf import text_format

from cri import apparmor
from cri.apparmor import AppArmorProfiles
from cri.confinement import confine
from cri.plan.security import NOT_CONFINED, Confinement
from cri.profiles import Profiles
from cri.tasks import Tasks
from proto import api_pb2 as api
from runtime.errors import NotFound


def confined(folder: Path, text: str, *, enabled: bool) -> Confinement:
    context = text_format.Parse(text, api.LinuxContainerSecurityContext())

    async def ask() -> Confinement:
        host: Any = SimpleNamespace(profiles=Profiles(folder / "cache"), apparmor=AppArmorProfiles(enabled, Tasks()))
        return await confine(host, context, ["CAP_BPF"])

    return asyncio.run(ask())


def test_who_asks_for_nothing_on_an_ordinary_host_has_none(tmp_path: Path) -> None:
    assert confined(tmp_path, "seccomp {}", enabled=False) == NOT_CONFINED


def test_each_of_them_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(apparmor, "is_loaded", lambda name: name == "mine")
    call = {"names": ["bpf"], "action": "SCMP_ACT_LOG", "includes": {"caps": ["CAP_BPF"]}}
    (tmp_path / "p.json").write_text(json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [call]}))
    named = f"seccomp {{ profile_type: Localhost localhost_ref: '{tmp_path}/p.json' }}"
    found = confined(tmp_path, f"{named} apparmor_profile: 'localhost/mine'", enabled=True)
    assert found.seccomp is not None and found.seccomp["syscalls"][0]["names"] == ["bpf"]
    assert found.apparmor == "mine"


def test_one_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotFound):
        confined(tmp_path, "seccomp { profile_type: Localhost localhost_ref: '/none.json' }", enabled=False)
