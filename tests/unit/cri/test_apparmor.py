"""Which AppArmor profile a process gets: one that is there, or an error."""

from __future__ import annotations

import asyncio
import logging
import time

import pytest
from google.protobuf import text_format

from cri import apparmor
from cri.apparmor import AppArmorProfiles
from cri.tasks import Tasks
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, HostFault

LOCALHOST = "apparmor { profile_type: Localhost localhost_ref: 'mine' }"


def profile_of(text: str, enabled: bool = True) -> str:
    context = text_format.Parse(text, api.LinuxContainerSecurityContext())

    async def ask() -> str:
        return await AppArmorProfiles(enabled, Tasks()).profile_of(context)

    return asyncio.run(ask())


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was loaded or looked for; the kernel has all but ``absent``."""
    seen: list[str] = []

    def look(name: str) -> bool:
        seen.append(name)
        return name != "absent"

    monkeypatch.setattr(apparmor, "load_default", lambda: seen.append("crisp-default"))
    monkeypatch.setattr(apparmor, "is_loaded", look)
    return seen


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise HostFault("no apparmor_parser command", step="load the AppArmor profile")

    monkeypatch.setattr(apparmor, "load_default", fail)


@pytest.mark.parametrize("text", ["", "apparmor {}", LOCALHOST, "privileged: true"])
def test_without_apparmor_there_is_none(loads: list[str], text: str) -> None:
    assert profile_of(text, enabled=False) == "" and loads == []


@pytest.mark.parametrize("text", ["", "apparmor {}", "apparmor_profile: 'runtime/default'"])
def test_crisps_own_is_loaded_for_who_asks_for_nothing_else(loads: list[str], text: str) -> None:
    assert profile_of(text) == "crisp-default" and loads == ["crisp-default"]


@pytest.mark.parametrize("text", ["apparmor { profile_type: Unconfined }", "privileged: true apparmor {}"])
def test_unconfined_needs_nothing(loads: list[str], text: str) -> None:
    assert profile_of(text) == "" and loads == []


def test_a_profile_by_name_has_to_be_loaded(loads: list[str]) -> None:
    assert profile_of(LOCALHOST) == "mine"
    with pytest.raises(FailedPrecondition, match="absent: there is no such AppArmor profile loaded"):
        profile_of("apparmor_profile: 'localhost/absent'")
    assert loads == ["mine", "absent"]


@pytest.mark.usefixtures("broken")
def test_what_cannot_be_loaded_is_refused_to_who_asks_for_it(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert profile_of("") == ""
    assert "run without one: load the AppArmor profile: no apparmor_parser command" in caplog.text
    with pytest.raises(FailedPrecondition, match=r"is not loaded: .*no apparmor_parser command"):
        profile_of("apparmor {}")


def test_it_is_loaded_once_and_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    loaded: list[float] = []

    def load() -> None:
        time.sleep(0.05)
        loaded.append(time.monotonic())

    monkeypatch.setattr(apparmor, "load_default", load)

    async def ask() -> list[str]:
        profiles = AppArmorProfiles(True, Tasks())
        contexts = (api.LinuxContainerSecurityContext() for _ in range(3))
        return await asyncio.gather(*(profiles.profile_of(context) for context in contexts))

    assert asyncio.run(ask()) == ["crisp-default"] * 3 and len(loaded) == 1
