"""What happens around every RPC, once: the gate, the log line, the metric, the code.

``cri.server`` wraps each function of ``cri.rpc`` with ``Interceptor.wrap``;
``cri.errors`` has the table from faults to codes.

Invariant: a fault leaves here as exactly one status with one message, and is
logged exactly once; nothing of an RPC's own logic is in here.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from cri.errors import status_of
from cri.server import MESSAGE_LIMIT, Handler
from cri.turns import Arrivals, Turns
from runtime.errors import ResourceExhausted, Unavailable

LOG = logging.getLogger("crisp.rpc")

GATE_WAIT = 15.0
"""Seconds that an RPC waits for the recovery after a restart before it is UNAVAILABLE: longer than one
pod that does not answer may take (``cri.recovery``)."""

UNGATED = frozenset({"Version", "Status", "RuntimeConfig"})
QUIET = ("Status", "List", "Version", "ImageFsInfo", "ContainerStats", "Stream", "RuntimeConfig", "GetContainerEvents")
"""RPCs that only read, by how their name begins or ends; they are logged at debug."""

IN_TURN = {
    "RunPodSandbox": 2.0,
    "StopPodSandbox": 2.0,
    "RemovePodSandbox": 2.0,
    "CreateContainer": 2.0,
    "StartContainer": 2.0,
    "RemoveContainer": 2.0,
    "UpdateContainerResources": 2.0,
    "UpdatePodSandboxResources": 2.0,
    "ExecSync": 0.05,
}
"""RPCs that work on the host, and the lease of their turn in seconds (``cri.turns``): what is longer than
that waits for something. StopContainer and PullImage do little else."""

LOOKS, LOOK = ("List", "Stream"), 0.5
"""RPCs that look at everything there is, by how their name begins, and the lease of their turn: one at a time,
for each takes the event loop for milliseconds, and between two of them others are served."""

Observe = Callable[[str, str, float], None]


def is_quiet(name: str) -> bool:
    return name.startswith(QUIET) or name.endswith(("Status", "Stats"))


def plan_level(code: str, *, quiet: bool, failed: bool) -> int:
    """Of an RPC's log line. That an object is gone, kubelet finds out by asking for it."""
    if failed and not (quiet and code == grpc.StatusCode.NOT_FOUND.name):
        return logging.WARNING
    return logging.DEBUG if quiet else logging.INFO


class Interceptor:
    """``observe(rpc, code, seconds)`` is told of each RPC; ``ready`` opens the gate."""

    def __init__(self, ready: asyncio.Event, observe: Observe) -> None:
        self._ready = ready
        self._observe = observe
        self._arrivals = Arrivals()
        self._works = Turns(self._arrivals)
        self._looks = Turns(self._arrivals, 1)

    def wrap(self, name: str, handler: Handler) -> Handler:
        quiet = is_quiet(name)
        gated, turn = name not in UNGATED, self._turn_of(name)

        async def around(request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
            began = time.monotonic()
            self._arrivals.note()
            code, told, answer = "OK", name, None
            try:
                if gated and not self._ready.is_set():
                    await self._wait_ready()
                async with turn():
                    answer = bounded(name, await handler(request, context))
                    return answer
            except asyncio.CancelledError:
                code = "CANCELLED"
                raise
            except grpc.aio.AbortError:
                code = "ABORTED"
                raise
            except Exception as error:  # noqa: BLE001 - the boundary: every failure becomes a status here
                status, message = status_of(error)
                code, told = status.name, f"{name} failed: {status.name}: {message}"
                await context.abort(status, message)
            finally:
                took = time.monotonic() - began
                self._observe(name, code, took)
                level = plan_level(code, quiet=quiet, failed=told != name)
                if LOG.isEnabledFor(level):
                    said = told if told != name else f"{name} {code}"
                    extra = {**ids_of(request, answer), "took_ms": round(took * 1e3, 2)}
                    # After the answer, which need not wait for whoever takes the lines.
                    asyncio.get_running_loop().call_soon(functools.partial(LOG.log, level, "%s", said, extra=extra))

        return around

    def _turn_of(self, name: str) -> Callable[[], AbstractAsyncContextManager[None]]:
        if name in IN_TURN:
            return functools.partial(self._works.turn, IN_TURN[name])
        if name.startswith(LOOKS):
            return functools.partial(self._looks.turn, LOOK)
        return contextlib.nullcontext

    async def _wait_ready(self) -> None:
        try:
            await asyncio.wait_for(self._ready.wait(), GATE_WAIT)
        except TimeoutError:
            raise Unavailable("still recovering after a restart; try again") from None


def bounded(name: str, answer: Any) -> Any:
    """``answer``, if a client takes one of its size.

    Raises:
        ResourceExhausted: it does not.
    """
    size = answer.ByteSize() if isinstance(answer, Message) else len(answer) if isinstance(answer, bytes) else 0
    if size > MESSAGE_LIMIT:
        way = "; ask for less by a filter, or by the Stream RPC" if name.startswith("List") else ""
        raise ResourceExhausted(f"the answer has {size} bytes, above the {MESSAGE_LIMIT} that fit in a message{way}")
    return answer


def ids_of(request: Any, answer: Any = None) -> dict[str, str]:
    """The ids and the image that a request names and its answer gives, for its log line."""
    ids = {}
    for field, key in (("pod_sandbox_id", "sandbox_id"), ("container_id", "container_id"), ("image", "image")):
        value = getattr(request, field, "") or getattr(answer, field, "")
        value = getattr(value, "image", value)
        if value and isinstance(value, str):
            ids[key] = value
    return ids
