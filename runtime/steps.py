"""Effects as data: a step says what it does, does it, and takes it back.

A plan is a tuple of steps made by a pure function. The executor applies them in
order; undo is owed from the moment before apply starts, and is idempotent, so
the same undo serves a failed apply, a recovery after a kill, and the ordinary
stop and removal of the object. ``cri.steps`` has the concrete steps.

Invariant: after ``apply_steps`` has raised, every step that had begun was undone
in reverse order, or its undo's failure is in ``RollbackFailed``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from runtime.errors import Fault

HostT = TypeVar("HostT", contravariant=True)

APPLY_PLACES = ("before", "mid", "after")
"""Where a failpoint lies in the applying of a step; undo is owed from ``mid`` on, which comes before apply."""

UNDO_PLACE = "undo"


class Step(Protocol[HostT]):
    """One effect on the host. ``name`` is stable: failpoints and the journal use it."""

    @property
    def name(self) -> str: ...

    def describe(self) -> str:
        """A line for people: the verb and the object."""
        ...

    async def apply(self, host: HostT) -> None: ...

    async def undo(self, host: HostT) -> None:
        """Take it back, wholly or partly applied or never begun. Idempotent."""
        ...


class RollbackFailed(Fault):
    """A step failed and so did the undo of one before it; the object stays, to be removed."""


@dataclass(frozen=True, slots=True)
class Stage:
    """How long one step took; times in ns, ``began`` since the epoch."""

    step: str
    describe: str
    began: int
    took: int
    error: str = ""


class FailpointHook(Protocol):
    async def hit(self, point: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Execution(Generic[HostT]):
    """What the executor needs beside the steps themselves."""

    host: HostT
    failpoints: FailpointHook
    record: Callable[[Stage], None]


def apply_points(operation: str, steps: Iterable[Step[HostT]]) -> tuple[str, ...]:
    """The failpoints that ``apply_steps`` passes, in order."""
    return tuple(f"{operation}/{step.name}:{place}" for step in steps for place in APPLY_PLACES)


def undo_points(operation: str, steps: Iterable[Step[HostT]]) -> tuple[str, ...]:
    """The failpoints that ``undo_steps`` passes, in its order, which is the reverse of ``steps``."""
    return tuple(f"{operation}/{step.name}:{UNDO_PLACE}" for step in reversed(list(steps)))


async def apply_steps(
    steps: Iterable[Step[HostT]], run: Execution[HostT], operation: str, done: Collection[str] = ()
) -> None:
    """Apply ``steps`` in order; on failure undo the begun ones in reverse and raise.

    Those whose names are in ``done`` were applied before (a blank pod's): they are not
    applied again, and their undo is owed from the beginning.

    Each step has the failpoints of ``apply_points``.

    Raises:
        RollbackFailed: an undo failed too; its cause is the first failure.
        Exception: what the failing step raised, once the undo is done.
    """
    steps, begun = tuple(steps), 0
    try:
        for step in steps:
            point = f"{operation}/{step.name}"
            await run.failpoints.hit(f"{point}:before")
            begun += 1
            if step.name in done:
                continue
            began, clock = time.time_ns(), time.monotonic_ns()
            try:
                await run.failpoints.hit(f"{point}:mid")
                await step.apply(run.host)
            except BaseException as error:
                run.record(Stage(step.name, step.describe(), began, time.monotonic_ns() - clock, str(error)))
                raise
            run.record(Stage(step.name, step.describe(), began, time.monotonic_ns() - clock))
            await run.failpoints.hit(f"{point}:after")
    except BaseException as error:
        owed = (*steps[:begun], *(step for step in steps[begun:] if step.name in done))
        failures = await undo_steps(owed, run, operation)
        if failures:
            raise RollbackFailed("; ".join(str(failure) for failure in failures), step="roll back") from error
        raise


async def undo_steps(steps: Iterable[Step[HostT]], run: Execution[HostT], operation: str) -> list[Exception]:
    """Undo ``steps`` in reverse, all of them; the failures that occurred, in order."""
    failures: list[Exception] = []
    for step in reversed(list(steps)):
        try:
            await run.failpoints.hit(f"{operation}/{step.name}:undo")
            await step.undo(run.host)
        except Exception as error:  # noqa: BLE001 - one failed undo must not keep the others from being tried
            run.record(Stage(step.name, f"undo: {step.describe()}", time.time_ns(), 0, str(error)))
            failures.append(error)
    return failures
