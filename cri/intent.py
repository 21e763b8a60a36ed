"""How an RPC that makes or changes something is carried out so that nothing is lost.

``run`` joins, adopts or begins (``cri.state.journal``), ``change`` waits for its turn; ``carry_out``
and ``carry_out_change`` are the work itself: intent stored, steps applied, result stored, in that order.

Invariant: while steps are owed an undo, the journal names them; a name is free
again as soon as nothing is owed.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import secrets
from collections.abc import Awaitable, Callable, Collection, Sequence
from typing import Any

from google.protobuf.message import Message

from cri.host import Host
from cri.state.journal import Operation
from cri.state.records import ContainerRecord, OperationPhase, OperationRecord, SandboxRecord
from cri.steps.codec import AnyStep, decode, encode
from runtime.errors import Fault
from runtime.steps import RollbackFailed, Stage, apply_steps, undo_steps

LOG = logging.getLogger("crisp.intent")

SETTLE_FIRST, SETTLE_AT_LEAST = 1.0, 60.0
"""Seconds before the first try to undo what could not be undone, and between tries in the end."""

STORE, ANSWER = "store", "answer"
"""The failpoints beside those of the steps, ``<operation>:store`` and ``:answer``: all steps are
applied and nothing is stored; the result is stored and nobody has been told."""

Finish = Callable[[list[Stage]], SandboxRecord | ContainerRecord]


def digest_of(request: Message) -> str:
    """sha256 of the request's canonical bytes; equal requests have equal digests."""
    return hashlib.sha256(request.SerializeToString(deterministic=True)).hexdigest()


async def run(
    host: Host,
    context: Any,
    key: str,
    request: Message,
    work: Callable[[Operation], Awaitable[None]],
    new_id: Callable[[], str] = lambda: secrets.token_hex(32),
) -> str:
    """The id of what ``key`` names: made now, or by the identical request before.

    The work goes on when the client leaves; once the answer has been delivered the
    same request is ALREADY_EXISTS.
    """
    kind = type(request).__name__.removesuffix("Request")
    id = await host.operations.run(key, kind, digest_of(request), work, new_id)
    await host.failpoints.hit(f"{kind}:{ANSWER}")

    def done(ended: Any) -> None:
        if not ended.cancelled():
            host.operations.delivered(key)

    context.add_done_callback(done)
    return id


async def change(host: Host, key: str, kind: str, object_id: str, work: Callable[[Operation], Awaitable[None]]) -> None:
    """Change ``object_id``, which goes on when the client leaves. Whatever an earlier change under
    ``key`` still owed is settled before ``work`` begins, so that it plans on what will be there.

    Raises:
        RollbackFailed: that cannot be settled now.
        Exception: what ``work`` raised.
    """

    async def settled(operation: Operation) -> None:
        await settle_debt(host, key)
        await work(operation)

    await host.operations.change(key, kind, object_id, settled)
    await host.failpoints.hit(f"{kind}:{ANSWER}")


async def carry_out(
    host: Host,
    operation: Operation,
    steps: Sequence[AnyStep],
    finish: Finish,
    done: Collection[str] = (),
) -> None:
    """Record the intent, apply ``steps`` (but for those ``done`` before), store what ``finish`` makes of it.

    Raises:
        RollbackFailed, Exception: as ``carry_out_change``.
    """

    async def store(stages: list[Stage]) -> None:
        await host.store.commit(puts=[finish(stages)], end=operation.key)

    await carry_out_change(host, operation, steps, store, done)


async def carry_out_change(
    host: Host,
    operation: Operation,
    steps: Sequence[AnyStep],
    store: Callable[[list[Stage]], Awaitable[object]],
    done: Collection[str] = (),
) -> None:
    """As ``carry_out``, but ``store`` is the transaction that stores the result and ends the operation.

    Raises:
        RollbackFailed: what is left stands in the journal. The next try undoes it first,
            and so does the daemon by itself, some time later.
        Exception: what the failing step raised; nothing is left.
    """
    stages: list[Stage] = []
    run = host.execution(operation.kind, stages)
    try:
        await settle_debt(host, operation.key)
        await host.store.commit(begin=operation.record(encode(steps)))
    except BaseException:
        for failure in await undo_steps([step for step in steps if step.name in done], run, operation.kind):
            LOG.warning("%s", failure, extra={"object_id": operation.object_id})
        raise
    try:
        await apply_steps(steps, run, operation.kind, done)
    except RollbackFailed:
        keep_settling(host, operation.key)
        raise
    except BaseException:
        await host.operations.forget(operation.key)
        raise
    try:
        await host.failpoints.hit(f"{operation.kind}:{STORE}")
        await store(stages)
    except BaseException as error:
        await take_back(host, operation, steps, error)
        raise


async def take_back(host: Host, operation: Operation, steps: Sequence[AnyStep], error: BaseException) -> None:
    """Undo what was applied and cannot be stored, because of ``error``. Raises RollbackFailed as ``carry_out``."""
    if isinstance(error, asyncio.CancelledError):  # the daemon stops, and it may be stored all the same
        await host.store.flush()
        if not owes(host, operation.key):
            return
    failures = await undo_steps(steps, host.execution(operation.kind, []), operation.kind)
    if failures:
        keep_settling(host, operation.key)
        raise RollbackFailed("; ".join(map(str, failures)), step="roll back") from error
    await host.operations.forget(operation.key)


async def settle_debt(host: Host, key: str, only: OperationRecord | None = None) -> None:
    """Undo what an earlier try for the same name left behind; with ``only``, if it still is that one.

    Raises:
        RollbackFailed: as ``undo_operation``.
    """
    if not owes(host, key):
        return
    async with host.lock(key):
        record = host.store.operations.get(key)
        if record is not None and owes(host, key) and only in (None, record):
            await undo_operation(host, record)


def owes(host: Host, key: str) -> bool:
    record = host.store.operations.get(key)
    return record is not None and record.phase is OperationPhase.RUNNING


def keep_settling(host: Host, key: str) -> None:
    """Have the undo that is owed under ``key`` tried again until it succeeds: whoever asked
    may never ask again under that name."""
    record = host.store.operations.get(key)
    if record is not None:
        host.tasks.spawn(f"settle {record.kind} {record.object_id[:12]}", settle_later(host, record))


async def settle_later(host: Host, record: OperationRecord) -> None:
    pause = SETTLE_FIRST
    while True:
        await asyncio.sleep(pause)
        pause = min(pause * 2, SETTLE_AT_LEAST)
        try:
            return await settle_debt(host, record.key, only=record)
        except RollbackFailed as fault:
            LOG.warning("%s", fault, extra={"object_id": record.object_id})


async def undo_operation(host: Host, record: OperationRecord) -> None:
    """Undo all steps of an operation that did not end, and forget it.

    Raises:
        RollbackFailed: some are still owed; the journal keeps them.
    """
    stages: list[Stage] = []
    failures = await undo_steps(decode(record.steps), host.execution(record.kind, stages), record.kind)
    if failures:
        raise RollbackFailed("; ".join(map(str, failures)), step="roll back", object=record.object_id)
    await host.operations.forget(record.key)
    LOG.info("undid an unfinished %s", record.kind, extra={"object_id": record.object_id})


async def undo_all(host: Host, operation: str, steps: Sequence[AnyStep], stages: list[Stage]) -> None:
    """Undo ``steps`` in reverse as the way forward of a stop or a removal.

    Raises:
        Fault: the first failure, after all undos were tried; calling again goes on.
    """
    failures = await undo_steps(steps, host.execution(operation, stages), operation)
    for failure in failures:
        LOG.warning("%s: %s", operation, failure)
    if failures:
        first = failures[0]
        raise first if isinstance(first, (Fault, OSError)) else Fault(str(first), step=operation)
