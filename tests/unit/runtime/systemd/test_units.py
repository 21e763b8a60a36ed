"""Units that are started, changed and stopped, and jobs that do not end well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from runtime.errors import AlreadyExists, DeadlineExceeded, HostFault, NotFound, Unavailable
from runtime.systemd import units as units_module
from runtime.systemd.properties import Property
from runtime.systemd.units import Units
from tests.fake_systemd import FakeSystemd

MEMORY: Property = ("MemoryMax", ("t", 4096))


@pytest.fixture
async def units(systemd: FakeSystemd, tmp_path: Path) -> AsyncIterator[Units]:
    made = Units(str(tmp_path / "bus"), str(tmp_path / "private"))
    yield made
    made.close()


@pytest.mark.parametrize("early", [False, True], ids=["answered first", "ended first"])
async def test_a_unit_is_started_changed_found_and_stopped(units: Units, systemd: FakeSystemd, early: bool) -> None:
    systemd.early = early
    await units.start("a.slice", [MEMORY, ("Delegate", ("b", True))])
    assert systemd.units == {"a.slice": {"MemoryMax": 4096, "Delegate": True}}
    await units.change("a.slice", [("AllowedCPUs", ("ay", b"\1"))])
    assert systemd.units["a.slice"]["AllowedCPUs"] == b"\1"
    assert await units.find("a*", "b*") == ["a.slice"]
    await units.stop("a.slice")
    assert systemd.units == {} and systemd.reset == ["a.slice"]


async def test_systemd_is_asked_for_the_ends_of_jobs_once(units: Units, systemd: FakeSystemd) -> None:
    await units.open()
    await asyncio.gather(*(units.start(f"a{number}.slice", []) for number in range(5)))
    assert systemd.calls[:3] == ["Hello", "AddMatch", "Subscribe"]
    assert systemd.calls[3:] == ["StartTransientUnit"] * 5


async def test_a_stop_of_what_is_not_there_is_fine_and_other_calls_say_so(units: Units) -> None:
    await units.stop("a.scope")
    with pytest.raises(NotFound, match=r"Unit a\.scope not loaded"):
        await units.change("a.scope", [MEMORY])
    await units.start("a.slice", [])
    with pytest.raises(AlreadyExists):
        await units.start("a.slice", [])


async def test_a_job_that_fails_is_a_fault_with_its_result(units: Units, systemd: FakeSystemd) -> None:
    systemd.results["a.scope"] = "timeout"
    with pytest.raises(HostFault, match=r"StartTransientUnit: a\.scope: systemd's job ended as timeout; journalctl"):
        await units.start("a.scope", [])


async def test_a_job_that_does_not_end_is_not_waited_for_for_ever(
    units: Units, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(units_module, "JOB_SECONDS", 0.01)
    monkeypatch.setattr(units_module.Units, "_on_signal", lambda *_: None)
    with pytest.raises(DeadlineExceeded, match=r"not done in 0\.01 s"):
        await units.start("a.slice", [])


async def test_a_connection_that_ends_is_made_anew_for_the_next_call(units: Units, systemd: FakeSystemd) -> None:
    await units.start("a.slice", [])
    systemd.silent.add("StopUnit")
    waiting = asyncio.gather(units.stop("a.slice"), return_exceptions=True)
    while "StopUnit" not in systemd.calls:
        await asyncio.sleep(0)
    systemd.hang_up()
    assert isinstance((await waiting)[0], Unavailable)
    systemd.silent.clear()
    await units.stop("a.slice")
    assert systemd.units == {}


async def test_a_job_whose_end_is_not_told_since_the_connection_has_ended_is_said(
    units: Units, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    def hang_up(*_: object) -> None:
        asyncio.get_running_loop().call_soon(systemd.hang_up)

    monkeypatch.setattr(units_module.Units, "_on_signal", hang_up)
    with pytest.raises(Unavailable, match="the connection to systemd has ended"):
        await units.start("a.slice", [])


async def test_without_a_bus_systemds_own_socket_is_asked(tmp_path: Path) -> None:
    fake = FakeSystemd(private=True)
    units = Units(str(tmp_path / "bus"), str(tmp_path / "private"))
    with pytest.raises(Unavailable, match=r"/bus: no such file or directory; .*/private: no such file"):
        await units.open()
    async with fake.serving(tmp_path / "private"):
        await units.start("a.slice", [MEMORY])
        assert fake.units == {"a.slice": {"MemoryMax": 4096}}
        units.close()
    assert fake.calls == ["Subscribe", "StartTransientUnit"]


async def test_a_bus_on_which_systemd_is_not_is_no_way_to_it(tmp_path: Path) -> None:
    bus = FakeSystemd(errors={"Subscribe": ("org.freedesktop.DBus.Error.ServiceUnknown", "not provided")})
    private = FakeSystemd(private=True)
    units = Units(str(tmp_path / "bus"), str(tmp_path / "private"))
    async with bus.serving(tmp_path / "bus"), private.serving(tmp_path / "private"):
        await units.start("a.slice", [])
        assert private.units == {"a.slice": {}} and bus.units == {}
        units.close()
