"""One daemon for all tests of a module, spoken to over real gRPC, and hostile images for it.

Invariant: a test leaves no pod behind, the module nothing on the host.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from tests.cri.harness import settings_in, start
from tests.security.attacks import Attacked


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def daemon() -> AsyncIterator[Attacked]:
    """A recovered daemon that has ``attacks.IMAGE``."""
    with tempfile.TemporaryDirectory(prefix="s-") as folder:
        settings = settings_in(Path(folder), os.getpid() % 200 + 20)
        async with contextlib.AsyncExitStack() as undo:
            started = await start(settings, undo)
            found = Attacked(started.host, started.channel)
            await found.image()
            yield found
            await found.remove_all()


@pytest_asyncio.fixture(loop_scope="module")
async def crisp(daemon: Attacked) -> AsyncIterator[Attacked]:
    """The module's daemon; the pods of the test are removed after it."""
    yield daemon
    await daemon.remove_all()
