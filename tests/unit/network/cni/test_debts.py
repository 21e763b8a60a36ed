"""Pods that cannot be detached for long."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from network.cni.debts import Debts
from runtime.errors import HostFault


class Plugin:
    """Fails as often as it is told; runs what is spawned."""

    def __init__(self, failures: int) -> None:
        self.failures, self.tries = failures, 0
        self.tasks: list[asyncio.Task[None]] = []
        self.debts = Debts(self.spawn, self.detach, told=3, first=0.0)

    def spawn(self, _name: str, work: Coroutine[Any, Any, None]) -> object:
        self.tasks.append(asyncio.get_running_loop().create_task(work))
        return self.tasks[-1]

    async def detach(self, _id: str) -> None:
        self.tries += 1
        if self.tries <= self.failures:
            raise HostFault("no")


async def test_the_caller_is_told_three_times_and_then_it_is_no_longer_its_matter() -> None:
    plugin = Plugin(failures=2)
    assert [plugin.debts.take_over("x", HostFault("no")) for _ in range(3)] == [False, False, True]
    assert "x" in plugin.debts and "y" not in plugin.debts
    assert plugin.debts.take_over("x", HostFault("no"))
    assert len(plugin.tasks) == 1
    await asyncio.wait_for(plugin.tasks[0], 20)
    assert plugin.tries == 3
    assert "x" not in plugin.debts


async def test_a_success_forgets_earlier_failures() -> None:
    plugin = Plugin(failures=0)
    plugin.debts.take_over("x", HostFault("no"))
    plugin.debts.take_over("x", HostFault("no"))
    plugin.debts.forget("x")
    assert not plugin.debts.take_over("x", HostFault("no"))
    assert plugin.tasks == []


async def test_what_belongs_to_nobody_is_taken_over_at_once_and_ends_when_another_has_succeeded() -> None:
    plugin = Plugin(failures=10**6)
    assert plugin.debts.take_over("x", HostFault("no"), at_once=True)
    plugin.debts.forget("x")
    await asyncio.wait_for(plugin.tasks[0], 20)
    assert plugin.tries == 0
