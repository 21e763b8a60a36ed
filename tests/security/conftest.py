"""One daemon for all tests of a module, spoken to over real gRPC, and hostile images for it.

Invariant: a test leaves no pod behind, the module nothing on the host.
"""

from __future__ import annotations

import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest_asyncio

from network.names import host_link_name
from proto import api_pb2 as api
from tests.cri.harness import settings_in, start
from tests.security.attacks import Attacked
from tests.security.place import Place


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


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def place(daemon: Attacked) -> AsyncIterator[Place]:
    """A pod with a running and a created container, and a pod that was stopped."""
    pod, stopped = await daemon.run_pod(), await daemon.run_pod()
    running = await daemon.run(pod, daemon.attacker("sleep", "1000"))
    created = await daemon.create(pod, daemon.attacker("sleep", "1000"))
    await daemon.runtime.StopPodSandbox(api.StopPodSandboxRequest(pod_sandbox_id=stopped))
    gone = host_link_name(stopped)  # it goes with its namespace, a moment later
    await daemon.until(lambda: gone not in [name for _, name in socket.if_nameindex()])
    yield Place(daemon, pod, running, created, stopped)
