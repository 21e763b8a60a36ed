"""Pods that could not be detached, and are tried again until they can.

``provider`` hands one over once its caller has been told often enough: a plugin that is broken
for good must not keep a pod from being removed, nor may its address be forgotten.

Invariant: who was handed over is tried until it succeeds or the daemon ends; the next daemon
finds its file (``network.cni.cache``) and goes on.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from runtime.errors import Fault

_LOG = logging.getLogger("crisp.network")

TOLD = 3
"""Failures that the caller is told before the pod is no longer its matter."""

FIRST, LONGEST = 1.0, 60.0
"""Seconds before the first try again, and between tries in the end."""


class Debts:
    """``spawn`` runs a named task; ``detach`` is the try. Of one event loop."""

    def __init__(
        self,
        spawn: Callable[[str, Coroutine[Any, Any, None]], object],
        detach: Callable[[str], Awaitable[None]],
        *,
        told: int = TOLD,
        first: float = FIRST,
    ) -> None:
        self._spawn = spawn
        self._detach = detach
        self._told = told
        self._first = first
        self._failures: Counter[str] = Counter()
        self._owed: set[str] = set()

    def __contains__(self, sandbox_id: str) -> bool:
        return sandbox_id in self._owed

    def take_over(self, sandbox_id: str, fault: Fault, *, at_once: bool = False) -> bool:
        """One more try has failed with ``fault``; whether it is now ours alone."""
        self._failures[sandbox_id] += 1
        if self._failures[sandbox_id] < self._told and not at_once:
            return False
        if sandbox_id not in self._owed:
            self._owed.add(sandbox_id)
            _LOG.error("%s; tried again until it succeeds", fault, extra={"object_id": sandbox_id})
            self._spawn(f"detach {sandbox_id[:12]}", self._settle(sandbox_id))
        return True

    def forget(self, sandbox_id: str) -> None:
        """It is detached."""
        self._failures.pop(sandbox_id, None)
        self._owed.discard(sandbox_id)

    async def _settle(self, sandbox_id: str) -> None:
        pause = self._first
        while sandbox_id in self._owed:
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST)
            try:
                await self._detach(sandbox_id)
            except (Fault, OSError) as error:
                _LOG.warning("%s", error, extra={"object_id": sandbox_id})
            else:
                self.forget(sandbox_id)
                _LOG.info("detached at last", extra={"object_id": sandbox_id})
