"""The executor of steps: order, undo, failpoints, and what is owed after a failure."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import pytest

from runtime.errors import HostFault
from runtime.steps import (
    Execution,
    FailpointHook,
    RollbackFailed,
    Stage,
    apply_points,
    apply_steps,
    undo_points,
    undo_steps,
)


@dataclass
class Host:
    done: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Fake:
    name: str
    fails: bool = False
    stuck: bool = False

    def describe(self) -> str:
        return f"do {self.name}"

    async def apply(self, host: Host) -> None:
        host.done.append(f"+{self.name}")
        if self.fails:
            raise HostFault("cannot", step=self.name)

    async def undo(self, host: Host) -> None:
        host.done.append(f"-{self.name}")
        if self.stuck:
            raise HostFault("stays", step=self.name)


@dataclass
class Points:
    at: str = ""
    passed: list[str] = field(default_factory=list)

    async def hit(self, point: str) -> None:
        self.passed.append(point)
        if point == self.at:
            raise HostFault("made to fail", object=point)


def execution(points: FailpointHook | None = None) -> tuple[Execution[Host], Host, list[Stage]]:
    host, stages = Host(), list[Stage]()
    return Execution(host=host, failpoints=points or Points(), record=stages.append), host, stages


async def test_steps_are_applied_in_order_and_measured() -> None:
    run, host, stages = execution()
    await apply_steps([Fake("a"), Fake("b")], run, "Op")
    assert host.done == ["+a", "+b"]
    assert [(stage.step, stage.describe, stage.error) for stage in stages] == [("a", "do a", ""), ("b", "do b", "")]
    assert all(stage.took > 0 and stage.began > 0 for stage in stages)


async def test_a_failure_undoes_the_begun_ones_in_reverse_itself_included() -> None:
    run, host, stages = execution()
    with pytest.raises(HostFault, match="cannot"):
        await apply_steps([Fake("a"), Fake("b", fails=True), Fake("c")], run, "Op")
    assert host.done == ["+a", "+b", "-b", "-a"]
    assert stages[-1].error == "b: cannot"


async def test_steps_that_were_done_before_are_owed_their_undo_and_not_applied() -> None:
    run, host, _ = execution()
    with pytest.raises(HostFault):
        await apply_steps([Fake("a"), Fake("b", fails=True)], run, "Op", done={"a"})
    assert host.done == ["+b", "-b", "-a"]


async def test_a_failure_before_a_step_that_was_done_undoes_it_all_the_same() -> None:
    run, host, _ = execution()
    with pytest.raises(HostFault):
        await apply_steps([Fake("a", fails=True), Fake("b"), Fake("c")], run, "Op", done={"c"})
    assert host.done == ["+a", "-c", "-a"]


async def test_an_undo_that_fails_is_told_and_the_others_are_tried() -> None:
    run, host, stages = execution()
    with pytest.raises(RollbackFailed, match="stays") as failed:
        await apply_steps([Fake("a"), Fake("b", stuck=True), Fake("c", fails=True)], run, "Op")
    assert host.done[-3:] == ["-c", "-b", "-a"]
    assert "cannot" in str(failed.value.__cause__)
    assert [stage.describe for stage in stages if stage.error][-1] == "undo: do b"


@pytest.mark.parametrize(("place", "done"), [("before", []), ("mid", ["-a"]), ("after", ["+a", "-a"])])
async def test_undo_is_owed_from_the_middle_point_on(place: str, done: list[str]) -> None:
    run, host, _ = execution(Points(at=f"Op/a:{place}"))
    with pytest.raises(HostFault, match="made to fail"):
        await apply_steps([Fake("a")], run, "Op")
    assert host.done == done


async def test_undo_goes_in_reverse_and_passes_its_points() -> None:
    points = Points()
    run, host, _ = execution(points)
    assert await undo_steps([Fake("a"), Fake("b")], run, "Stop") == []
    assert host.done == ["-b", "-a"] and points.passed == ["Stop/b:undo", "Stop/a:undo"]


async def test_the_named_points_are_those_that_are_passed_in_that_order() -> None:
    points, steps = Points(), [Fake("a"), Fake("b")]
    run, _, _ = execution(points)
    await apply_steps(steps, run, "Op")
    assert tuple(points.passed) == apply_points("Op", steps)
    points.passed.clear()
    await undo_steps(steps, run, "Op")
    assert tuple(points.passed) == undo_points("Op", steps)


async def test_a_failure_passes_the_undo_points_of_what_had_begun() -> None:
    points, steps = Points(at="Op/b:mid"), [Fake("a"), Fake("b"), Fake("c")]
    run, _, _ = execution(points)
    with pytest.raises(HostFault, match="made to fail"):
        await apply_steps(steps, run, "Op")
    assert tuple(points.passed) == (*apply_points("Op", steps)[:5], *undo_points("Op", steps[:2]))


async def test_a_cancelled_step_is_undone_before_the_cancellation_goes_on() -> None:
    run, host, stages = execution(Cancelling())
    with pytest.raises(asyncio.CancelledError):
        await apply_steps([Fake("a"), Fake("b")], run, "Op")
    assert host.done == ["+a", "-a"] and len(stages) == 1


class Cancelling:
    async def hit(self, point: str) -> None:
        if point == "Op/b:before":
            raise asyncio.CancelledError
