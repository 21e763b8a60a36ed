"""Who kills the daemon in the birth of a pod with a user namespace leaves nothing of it that is not made good."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.failpoints.cases import KILL, KILL_MONITORS, run_case
from tests.failpoints.points import CREATE, RUN, START, Point, all_points
from tests.failpoints.razing import raze
from tests.failpoints.serving import Daemon, serving

pytestmark = pytest.mark.leaks("module")

STEPS = ("create_namespaces", "prepare_init", "start_init")
"""Those that do something else for such a pod."""

POINTS = [
    point
    for point in all_points()
    if point.operation in (RUN, CREATE, START) and point.name.partition("/")[2].partition(":")[0] in STEPS
]


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with serving() as found:
        yield found


@pytest.mark.parametrize("action", [KILL, KILL_MONITORS])
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_the_identical_request_succeeds_and_nothing_is_left(daemon: Daemon, point: Point, action: str) -> None:
    try:
        run_case(daemon, point, action, mapped=True)
    except BaseException:
        print(daemon.log_tail())
        raze(daemon)
        raise
