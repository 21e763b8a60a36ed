"""Windows of clients that count bytes, and of those that do not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest

from cri.streaming import spdy_windows
from cri.streaming.session import StreamReset
from cri.streaming.spdy_windows import DEFAULT_WINDOW, UNLIMITED, Allowance, Windows
from tests.unit.cri.streaming.peer import soon, until


def make() -> tuple[Windows, list[str]]:
    probes: list[str] = []
    return Windows(lambda: probes.append("ping")), probes


def never() -> str:
    return ""


async def waiting(
    windows: Windows, why_not: Callable[[], str] = never
) -> tuple[asyncio.Task[None], spdy_windows.Window]:
    """A task that waits at a window which is used up."""
    window = windows.new()
    windows.spend(window, DEFAULT_WINDOW)
    task = asyncio.get_running_loop().create_task(windows.wait(window, why_not))
    await asyncio.sleep(0)
    return task, window


async def test_a_client_without_windows_is_found_out_by_a_ping() -> None:
    windows, probes = make()
    task, window = await waiting(windows)
    assert probes == ["ping"] and not task.done()
    windows.answered()
    await soon(task)
    assert windows.left(window) == UNLIMITED
    windows.spend(window, 1 << 30)
    await soon(windows.wait(window, never))
    assert probes == ["ping"]


async def test_no_answer_to_the_ping_is_one_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spdy_windows, "PROBE_TIMEOUT", 0.01)
    windows, _ = make()
    task, _ = await waiting(windows)
    await soon(task)


async def test_a_client_that_counts_is_waited_for() -> None:
    windows, _ = make()
    windows.resize(DEFAULT_WINDOW, [])
    task, window = await waiting(windows)
    windows.answered()
    await asyncio.sleep(0)
    assert not task.done()  # the session has no window, but the stream has
    windows.update(window, 10)
    await soon(task)
    assert windows.left(window) == 10


async def test_a_window_that_is_opened_late_still_counts() -> None:
    windows, _ = make()
    task, window = await waiting(windows)
    windows.answered()
    await soon(task)
    windows.spend(window, 1000)
    windows.update(window, 600)
    assert windows.left(window) == -400


async def test_the_session_has_a_window_of_its_own() -> None:
    windows, _ = make()
    windows.update(None, 100)
    window = windows.new()
    windows.spend(window, DEFAULT_WINDOW)
    other = windows.new()
    assert windows.left(other) == 100


async def test_settings_change_all_windows_by_the_difference() -> None:
    windows, _ = make()
    window = windows.new()
    windows.spend(window, 1000)
    windows.update(None, 1 << 20)
    windows.resize(2000, [window])
    assert windows.left(window) == 1000
    assert windows.left(windows.new()) == 2000


async def test_who_waits_is_told_of_the_end() -> None:
    windows, _ = make()
    reason: list[str] = []
    task, _ = await waiting(windows, lambda: "".join(reason))
    reason.append("gone")
    windows.close()
    await until(task.done)
    with pytest.raises(StreamReset, match="gone"):
        task.result()


def test_a_flood_of_frames_is_noticed_and_a_steady_stream_is_not() -> None:
    now = [0.0]
    allowance = Allowance(lambda: now[0])
    assert all(allowance.spend() for _ in range(20_000))
    assert not allowance.spend()
    for _ in range(100):
        now[0] += 1
        assert all(allowance.spend() for _ in range(5_000))
