"""Calls and signals over a socket, and what becomes of them when it does not go well."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from runtime.errors import AlreadyExists, DeadlineExceeded, HostFault, NotFound, Unavailable
from runtime.systemd import bus as bus_module
from runtime.systemd.bus import SYSTEMD, Bus
from runtime.systemd.units import MANAGER, OBJECT
from tests.fake_systemd import FakeSystemd


class Heard:
    def __init__(self) -> None:
        self.signals: list[tuple[str, tuple[Any, ...]]] = []
        self.ended = 0

    def signal(self, member: str, body: tuple[Any, ...]) -> None:
        self.signals.append((member, body))

    def end(self, _: Bus) -> None:
        self.ended += 1


@pytest.fixture
def heard() -> Heard:
    return Heard()


@pytest.fixture
async def bus(systemd: FakeSystemd, tmp_path: Path, heard: Heard) -> AsyncIterator[Bus]:
    connected = await Bus.connect(str(tmp_path / "bus"), heard.signal, heard.end)
    yield connected
    connected.close()


async def call(bus: Bus, member: str, signature: str = "", body: tuple[Any, ...] = ()) -> tuple[Any, ...]:
    return await bus.call(OBJECT, MANAGER, member, signature, body)


async def test_a_call_gets_the_arguments_of_its_answer(bus: Bus, systemd: FakeSystemd) -> None:
    systemd.units = {"a.scope": {}, "b.scope": {}}
    (found,) = await call(bus, "ListUnitsByPatterns", "asas", ([], ["a*"]))
    assert [unit[0] for unit in found] == ["a.scope"]
    assert systemd.calls == ["Hello", "ListUnitsByPatterns"]


async def test_answers_find_those_who_asked(bus: Bus, systemd: FakeSystemd) -> None:
    systemd.units = {"a.scope": {}, "b.scope": {}}
    asked = (call(bus, "ListUnitsByPatterns", "asas", ([], [name])) for name in ("a*", "b*"))
    (first,), (second,) = await asyncio.gather(*asked)
    assert (first[0][0], second[0][0]) == ("a.scope", "b.scope")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        (f"{SYSTEMD}.UnitExists", AlreadyExists),
        (f"{SYSTEMD}.NoSuchUnit", NotFound),
        ("org.freedesktop.DBus.Error.ServiceUnknown", Unavailable),
        ("org.freedesktop.DBus.Error.AccessDenied", HostFault),
    ],
)
async def test_an_error_is_a_fault_in_its_own_words(
    bus: Bus, systemd: FakeSystemd, name: str, kind: type[Exception]
) -> None:
    systemd.errors["Subscribe"] = name, "Permission denied by nobody."
    with pytest.raises(kind, match=r"^ask systemd: Subscribe: Permission denied by nobody$"):
        await call(bus, "Subscribe")


async def test_signals_are_told_as_they_come(bus: Bus, heard: Heard) -> None:
    await call(bus, "StartTransientUnit", "ssa(sv)a(sa(sv))", ("a.slice", "replace", [], []))
    await call(bus, "Subscribe")
    assert heard.signals == [("JobRemoved", (1, f"{OBJECT}/job/1", "a.slice", "done"))]


async def test_whoever_waits_hears_of_the_end_of_the_connection(bus: Bus, systemd: FakeSystemd, heard: Heard) -> None:
    systemd.silent.add("Subscribe")
    waiting = asyncio.gather(call(bus, "Subscribe"), return_exceptions=True)
    while "Subscribe" not in systemd.calls:
        await asyncio.sleep(0)
    systemd.hang_up()
    (fault,) = await waiting
    assert isinstance(fault, Unavailable) and "has ended" in str(fault)
    assert bus.closed and heard.ended == 1
    with pytest.raises(Unavailable, match="Subscribe: the connection has ended"):
        await call(bus, "Subscribe")


async def test_an_answer_that_does_not_come_is_not_waited_for_for_ever(
    bus: Bus, systemd: FakeSystemd, monkeypatch: pytest.MonkeyPatch
) -> None:
    systemd.silent.add("Subscribe")
    monkeypatch.setattr(bus_module, "CALL_SECONDS", 0.01)
    with pytest.raises(DeadlineExceeded, match=r"no answer in 0\.01 s"):
        await call(bus, "Subscribe")
    assert not bus.closed


async def test_where_nobody_gives_names_none_is_asked_for(tmp_path: Path, heard: Heard) -> None:
    fake = FakeSystemd(private=True)
    async with fake.serving(tmp_path / "private") as path:
        connected = await Bus.connect(path, heard.signal, heard.end, private=True)
        await call(connected, "Subscribe")
        connected.close()
        with pytest.raises(NotFound, match="Hello: Unknown object"):
            await Bus.connect(path, heard.signal, heard.end)
    assert fake.calls == ["Subscribe", "Hello"]


async def test_a_socket_of_nobody_or_of_somebody_who_refuses_is_said(tmp_path: Path, heard: Heard) -> None:
    with pytest.raises(Unavailable, match="absent: no such file"):
        await Bus.connect(str(tmp_path / "absent"), heard.signal, heard.end)
    fake = FakeSystemd(errors={"AUTH": ("", "")})
    async with fake.serving(tmp_path / "bus") as path:
        with pytest.raises(HostFault, match="Authentication failed"):
            await Bus.connect(path, heard.signal, heard.end)


async def test_bytes_that_are_no_message_end_the_connection(bus: Bus, systemd: FakeSystemd) -> None:
    systemd.silent.add("Subscribe")
    waiting = asyncio.gather(call(bus, "Subscribe"), return_exceptions=True)
    while "Subscribe" not in systemd.calls:
        await asyncio.sleep(0)
    systemd.writers[0].write(b"x" * 64)
    (fault,) = await waiting
    assert isinstance(fault, HostFault) and "not D-Bus" in str(fault)
