"""Hearing of changes in the folder of configurations, and of the folder's own."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from network.cni import watch
from runtime.linux import inotify
from runtime.linux.libc import SyscallError


class Heard:
    """Counts the calls and lets a test wait for one."""

    def __init__(self, folder: Path) -> None:
        self.event = asyncio.Event()
        self.watch = watch.Watch(str(folder), self.event.set)

    async def after(self) -> None:
        await asyncio.wait_for(self.event.wait(), 20)
        self.event.clear()
        self.watch.renew()


@pytest.fixture
async def heard(tmp_path: Path) -> Heard:
    return Heard(tmp_path / "a" / "net.d")


@pytest.fixture(autouse=True)
def closes(heard: Heard) -> Iterator[None]:
    yield
    assert heard.watch._fd == -1


async def test_files_that_come_change_and_go_are_heard_of(heard: Heard, tmp_path: Path) -> None:
    folder = tmp_path / "a" / "net.d"
    folder.mkdir(parents=True)
    heard.watch.renew()
    (folder / "x").write_text("1")
    await heard.after()
    (folder / "x").write_text("2")
    await heard.after()
    (folder / "x").unlink()
    await heard.after()
    heard.watch.close()


async def test_a_folder_that_comes_later_and_one_that_replaces_it_are_watched(heard: Heard, tmp_path: Path) -> None:
    heard.watch.renew()
    (tmp_path / "a").mkdir()
    await heard.after()
    (tmp_path / "a" / "net.d").mkdir()
    await heard.after()
    (tmp_path / "a" / "net.d").rename(tmp_path / "a" / "old")
    await heard.after()
    (tmp_path / "a" / "net.d").mkdir()
    await heard.after()
    (tmp_path / "a" / "net.d" / "x").touch()
    await heard.after()
    heard.watch.close()


async def test_watching_again_what_is_watched_keeps_the_descriptor(heard: Heard) -> None:
    heard.watch.renew()
    fd = heard.watch._fd
    heard.watch.renew()
    assert heard.watch._fd == fd
    heard.watch.close()
    heard.watch.close()


async def test_a_pending_word_is_not_told_after_the_end(heard: Heard, tmp_path: Path) -> None:
    heard.watch.renew()
    (tmp_path / "a").mkdir()
    while heard.watch._timer is None:
        await asyncio.sleep(0)
    pending = heard.watch._timer
    heard.watch.close()
    assert pending.cancelled() and not heard.event.is_set()


async def test_without_inotify_nothing_is_watched_and_nothing_fails(
    heard: Heard, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> int:
        raise SyscallError("inotify_init1", 24)

    monkeypatch.setattr(inotify, "inotify_init1", refuse)
    before = os.listdir("/proc/self/fd")
    caplog.set_level("INFO")
    heard.watch.renew()
    assert "cannot watch" in caplog.text
    assert os.listdir("/proc/self/fd") == before
