"""The stages of operations on images and their failpoints."""

from __future__ import annotations

import pytest

from runtime.errors import HostFault
from runtime.images import stages
from runtime.images.stages import Stages


class Passed:
    """Remembers the points; ``refuse`` is one that fails."""

    def __init__(self, refuse: str = "") -> None:
        self.points: list[str] = []
        self.refuse = refuse

    async def hit(self, point: str) -> None:
        self.points.append(point)
        if point == self.refuse:
            raise HostFault("made to fail")


async def test_the_listed_points_are_those_that_are_passed() -> None:
    for operation, names in stages.STAGES.items():
        passed = Passed()
        made = Stages(passed)
        for name in names:
            async with made.stage(name):
                if name in stages.HALVED:
                    await made.halfway(name)
        assert tuple(passed.points) == stages.points(operation)


async def test_a_stage_that_fails_is_not_passed() -> None:
    passed = Passed()
    with pytest.raises(ZeroDivisionError):
        async with Stages(passed).stage(stages.LIST_IMAGE):
            raise ZeroDivisionError
    assert passed.points == ["images/list_image:before"]


async def test_a_stage_that_is_made_to_fail_does_nothing() -> None:
    done = []
    with pytest.raises(HostFault):
        async with Stages(Passed("images/list_image:before")).stage(stages.LIST_IMAGE):
            done.append(True)
    assert not done


async def test_without_failpoints_nothing_happens() -> None:
    async with Stages().stage(stages.COMMIT_LAYER):
        await Stages().halfway(stages.COMMIT_LAYER)


def test_every_half_stage_is_one_of_an_operation() -> None:
    assert {name for names in stages.STAGES.values() for name in names} > stages.HALVED
