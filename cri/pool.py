"""Pods that wait blank: everything of a pod that needs no name, made while idle.

An item has its id already, and is the first steps of a plan applied: directory,
monitor, namespaces, network. ``cri.rpc.sandbox_run`` takes one and gives its id to
the new pod, so nothing has to be renamed. What a killed daemon leaves of the pool
belongs to no record, and goes at the next start (``cri.recovery``).

Invariant: items are made while it is quiet and only taken in a request;
the pool is never larger than its size, and an item that was taken is never given back.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time
from collections import deque
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from cri.plan.sandbox import CNI
from runtime.errors import Fault
from runtime.steps import Stage, apply_steps, undo_steps

if TYPE_CHECKING:
    from cri.host import Host, LivePod
    from cri.steps.sandbox import SandboxStep

LOG = logging.getLogger("crisp.pool")

QUIET = 0.2
"""Seconds without an RPC that changes something before an item is made: making one takes
about as much CPU as a cold pod, which neither the pod that took one nor the start of a
container should have to share."""

HURRY = 2.0
"""Seconds after which an item is made all the same, on a node that is never quiet."""

PAUSE = 5.0
"""Seconds between tries when an item cannot be made."""

OPERATION = "pool"


class Pool:
    """Of one daemon; ``size`` items at most, 0 for none."""

    def __init__(self, host: Host, size: int) -> None:
        self._host = host
        self._size = size
        self._items: deque[str] = deque()
        self._wanted = asyncio.Event()
        self._touched = 0.0
        self._making = ""
        self._making_one = asyncio.Lock()
        self._flushes = 0

    def __len__(self) -> int:
        return len(self._items)

    def take(self, provider: str) -> str | None:
        """The id of a blank pod whose monitor lives and that fits the network provider, now the
        caller's; None: make one the cold way."""
        self.touch()  # its replacement would be made beside the very pod that takes it
        asyncio.get_running_loop().call_later(QUIET, self._wanted.set)
        while self._items:
            id = self._items.popleft()
            self._host.metrics.pool(len(self._items))
            pod = self._host.pods.get(id)
            if pod is not None and not pod.monitor.closed and fits(pod, provider):
                return id
            self._host.tasks.spawn(f"drop blank {id[:12]}", self.drop(id))
        return None

    def makes(self, id: str) -> bool:
        """Whether ``id`` is that of the item being made at this moment."""
        return id == self._making

    def touch(self) -> None:
        """An RPC that changed something was served just now."""
        self._touched = time.monotonic()

    async def keep_full(self) -> None:
        """Make items, one at a time, while it is quiet. Runs until cancelled."""
        await self._host.ready.wait()
        while True:
            await self._wait_quiet()
            if len(self._items) >= self._size:
                self._wanted.clear()
                await self._wanted.wait()
                continue
            try:
                async with self._making_one:
                    await self._add()
            except (Fault, OSError) as error:
                LOG.info("cannot make a blank pod now: %s", error)
                await asyncio.sleep(PAUSE)

    async def _add(self) -> None:
        flushes = self._flushes
        id = await self._make()
        if flushes != self._flushes:  # it may be as outdated as those that were flushed
            return await self.drop(id)
        self._items.append(id)
        self._host.metrics.pool(len(self._items))

    @contextlib.asynccontextmanager
    async def emptied(self) -> AsyncIterator[None]:
        """No item is there nor made meanwhile: none holds an address of the network of before."""
        await self.flush()
        async with self._making_one:
            yield

    async def flush(self) -> None:
        """Undo all items, one in the making included: their addresses are outdated, or the daemon stops."""
        self._flushes += 1
        while self._items:
            await self.drop(self._items.popleft())
        self._host.metrics.pool(0)
        self._wanted.set()

    async def _wait_quiet(self) -> None:
        latest = time.monotonic() + HURRY
        while (rest := min(self._touched + QUIET, latest) - time.monotonic()) > 0:
            await asyncio.sleep(rest)

    async def _make(self) -> str:
        id = self._making = secrets.token_hex(32)
        stages: list[Stage] = []
        try:
            await apply_steps(self._steps(id), self._host.execution(OPERATION, stages), OPERATION)
        finally:
            self._making = ""
        return id

    async def drop(self, id: str) -> None:
        """Undo an item; what cannot be undone is found by fsck."""
        for failure in await undo_steps(self._steps(id), self._host.execution(OPERATION, []), OPERATION):
            LOG.warning("blank pod %s: %s", id[:12], failure)

    def _steps(self, id: str) -> tuple[SandboxStep, ...]:
        from cri.steps.sandbox import plan_blank_steps  # the steps know the Host, which holds the pool

        pod = self._host.pods.get(id)
        provider = pod.provider if pod is not None and pod.provider else self._host.provider
        return plan_blank_steps(id, self._host.pod_directory(id), provider)


def fits(pod: LivePod, provider: str) -> bool:
    """One that CNI is to attach must not be attached, any other has to be."""
    return pod.provider == ("" if provider == CNI else provider)
