"""Failpoints: armed by variable or one by one, harmless when the daemon has none."""

from __future__ import annotations

import asyncio
import errno
import os
import subprocess
import sys
import time

import pytest

from cri.failpoints import VARIABLE, Failpoints, Point
from runtime.errors import FailedPrecondition, HostFault, InvalidArgument


def armed(text: str, monkeypatch: pytest.MonkeyPatch) -> Failpoints:
    monkeypatch.setenv(VARIABLE, text)
    return Failpoints.from_environment()


async def test_a_daemon_without_them_does_nothing_and_arms_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(VARIABLE, raising=False)
    points = Failpoints.from_environment()
    await points.hit("run/address:before")
    assert points.hits == {}
    with pytest.raises(FailedPrecondition, match=VARIABLE):
        points.set("run/address:before", "fail")
    with pytest.raises(FailedPrecondition):
        points.points()


async def test_every_point_that_is_passed_is_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    points = armed("b:mid=delay:0", monkeypatch)
    await points.hit("a:before")
    await points.hit("a:before")
    assert points.points() == [Point("a:before", "", 2, 0), Point("b:mid", "delay:0", 0, 0)]


async def test_an_armed_point_fails_and_the_others_do_not(monkeypatch: pytest.MonkeyPatch) -> None:
    points = armed("run/address:mid=fail; run/bridge:*=errno:ENOSPC*1", monkeypatch)
    await points.hit("run/address:before")
    for _ in range(2):
        with pytest.raises(HostFault, match="failpoint: run/address:mid: made to fail"):
            await points.hit("run/address:mid")
    with pytest.raises(HostFault) as full:
        await points.hit("run/bridge:after")
    assert full.value.errno == errno.ENOSPC
    await points.hit("run/bridge:after")


async def test_a_count_lets_it_act_so_often(monkeypatch: pytest.MonkeyPatch) -> None:
    points = armed("", monkeypatch)
    points.set("a", "fail", 2)
    for _ in range(2):
        with pytest.raises(HostFault):
            await points.hit("a")
    await points.hit("a")
    assert points.points() == [Point("a", "", 3, 0)]


async def test_a_delay_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    points = armed("a=delay:0.05", monkeypatch)
    began = time.monotonic()
    await points.hit("a")
    assert time.monotonic() - began >= 0.05


@pytest.mark.parametrize("off", ["a", "*"])
async def test_what_hangs_goes_on_when_it_is_disarmed(monkeypatch: pytest.MonkeyPatch, off: str) -> None:
    points = armed("a=hang", monkeypatch)
    hanging = asyncio.ensure_future(points.hit("a"))
    await asyncio.sleep(0.01)
    assert points.points() == [Point("a", "hang", 1, 1)]
    points.set(off, "off")
    await asyncio.wait_for(hanging, 5)
    assert points.points() == [Point("a", "", 1, 0)]


async def test_kill_monitors_calls_what_the_daemon_registered(monkeypatch: pytest.MonkeyPatch) -> None:
    points, killed = armed("a=kill-monitors", monkeypatch), []

    async def kill() -> None:
        killed.append(1)

    await points.hit("a")
    points.kill_monitors = kill
    await points.hit("a")
    assert killed == [1]


def test_kill_ends_the_process_as_sigkill_does() -> None:
    script = "import asyncio; from cri.failpoints import Failpoints as F; asyncio.run(F.from_environment().hit('a'))"
    ended = subprocess.run([sys.executable, "-c", script], env={**os.environ, VARIABLE: "a=kill"}, check=False)
    assert ended.returncode == -9


@pytest.mark.parametrize(
    "text", ["a", "=fail", "a=explode", "a=errno", "a=errno:ENOTHING", "a=delay:soon", "a=fail:now", "a=fail*often"]
)
def test_a_wrong_specification_is_refused(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidArgument, match="arm a failpoint"):
        armed(text, monkeypatch)


def test_a_wrong_action_leaves_the_point_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    points = armed("a=fail", monkeypatch)
    with pytest.raises(InvalidArgument):
        points.set("a", "explode")
    assert points.points() == [Point("a", "fail", 0, 0)]
