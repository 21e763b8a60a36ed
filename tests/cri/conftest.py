"""A whole daemon in the test's own process, spoken to over real gRPC.

The zygote, monitors and containers are real processes; only the daemon's loop is
the test's, so that coverage and inspection are easy. ``tests.cri.harness`` has the
requests.

A daemon that is to be killed, or to have a node of its own, is a process: ``tests.failpoints.serving``
has it, ``daemons_on_node`` the node.

Invariant: the tests of a module share a daemon in this process, and each finds it without a pod and
without a failpoint; after each, nothing on the host belongs to no record.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import os
import socket
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

from cri import assembly, intent, mountpoints, spares
from cri.fsck import fsck
from cri.settings import Settings
from cri.state import journal
from runtime.cgroups import sampler
from tests.cri.harness import Crisp, TrashOnDemand, settings_in, start
from tests.failpoints.serving import Daemon
from tests.kernel.network.conftest import Netns
from tests.zygotes import leave_out_the_rehearsal

HERE = Path(__file__).resolve().parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One loop and one look for leaks a module, as long as the daemon lives."""
    for item in items:
        if item.path.is_relative_to(HERE):
            if inspect.iscoroutinefunction(getattr(item, "function", None)):
                item.add_marker(pytest.mark.asyncio(loop_scope="module"), append=False)
            item.add_marker(pytest.mark.leaks("module"))


@pytest.fixture
def short_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate covers a tenth of a second at least, instead of a whole one."""
    monkeypatch.setattr(sampler, "MIN_INTERVAL", 100_000_000)


@pytest.fixture(scope="session", autouse=True)
def no_rehearsal() -> Iterator[None]:
    """More than half of a daemon's start, and a hundred are started here."""
    with pytest.MonkeyPatch.context() as patch:
        leave_out_the_rehearsal(patch)
        yield


@pytest.fixture(scope="module")
def new_settings() -> Iterator[Callable[[], Settings]]:
    """Makes settings for one more daemon, in a directory with a short name."""
    with contextlib.ExitStack() as undo:
        numbers = iter(range(os.getpid() % 29 * 8, 256))

        def make() -> Settings:
            folder = undo.enter_context(tempfile.TemporaryDirectory(prefix="c-"))
            return settings_in(Path(folder), next(number for number in numbers if claim(number, undo)))

        yield make


def claim(number: int, undo: contextlib.ExitStack) -> bool:
    """Whether no other run on this host has the bridge of that number; until ``undo`` it is ours."""
    held = socket.socket(socket.AF_UNIX)
    try:
        held.bind(f"\0crisp-test-bridge-{number}")
    except OSError:
        held.close()
        return False
    undo.callback(held.close)
    return True


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def daemon(new_settings: Callable[[], Settings]) -> AsyncIterator[Crisp]:
    """A recovered daemon with the demo image."""
    async with contextlib.AsyncExitStack() as undo:
        patch = undo.enter_context(pytest.MonkeyPatch.context())
        patch.setattr(assembly, "Trash", TrashOnDemand)
        patch.setattr(journal, "FORGET_AFTER", 0.0)
        patch.setattr(intent, "SETTLE_FIRST", 600.0)
        patch.setattr(mountpoints, "DELAY", 0.0)
        patch.setattr(spares, "QUIET", 0.0)
        started = await start(new_settings(), undo)
        started.host.failpoints.enabled = True
        await started.import_demo_image()
        yield started
        await started.end_of_tasks()


@pytest_asyncio.fixture(loop_scope="module")
async def crisp(daemon: Crisp) -> AsyncIterator[Crisp]:
    """The module's daemon; what the test leaves in it is removed. What is owed it tries again when it is asked."""
    yield daemon
    for task in asyncio.all_tasks():
        if task.get_name().startswith("settle "):
            task.cancel()
    daemon.host.failpoints.set("*", "off")
    await daemon.remove_all()
    await daemon.end_of_tasks()
    assert await fsck(daemon.host, repair=False) == []


@pytest.fixture
def node() -> Iterator[Netns]:
    """A network namespace that plays a node with the address 192.0.2.7."""
    netns = Netns()
    try:
        netns.ip("link", "set", "lo", "up")
        netns.ip("link", "add", "up0", "type", "veth", "peer", "name", "up1")
        netns.ip("address", "add", "192.0.2.7/24", "dev", "up0")
        netns.ip("link", "set", "up0", "up")
        netns.ip("link", "set", "up1", "up")
        yield netns
    finally:
        netns.close()


@pytest.fixture
def daemons_on_node(node: Netns, monkeypatch: pytest.MonkeyPatch) -> None:
    """Daemons that are processes of their own start on ``node``."""
    launch = Daemon.launch
    monkeypatch.setattr(Daemon, "launch", lambda self: node.do(lambda: launch(self)))
