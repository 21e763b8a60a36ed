"""Kill and fail at every step of a blank pod's making, and of a pod that begins with one.

While a case runs, the making of the next blank pod hangs at its first point, so that
nothing but the case's own pod is there.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from cri.pool import OPERATION as POOL
from tests.failpoints.cases import FAIL, KILL, run_case
from tests.failpoints.points import Point, blank_points, pool_points
from tests.failpoints.razing import raze
from tests.failpoints.serving import Daemon, launching, serving, wait_for
from tests.failpoints.truth import check_nothing_remains, monitors_of

pytestmark = pytest.mark.leaks("module")

FIRST, LAST = f"{POOL}/make_pod_directory:before", f"{POOL}/attach_network:after"
HANGING = f"{FIRST}=hang"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with launching() as launcher, serving(pool=1, failpoints=HANGING, launcher=launcher) as found:
        yield found


def make_blank(daemon: Daemon) -> None:
    """Let the pool make one, and no more."""
    made = daemon.hits(LAST)
    daemon.arm(FIRST, "off")
    wait_for(lambda: daemon.hits(LAST) > made, "a blank pod")
    daemon.arm(FIRST, "hang")
    assert len(monitors_of(daemon)) == 1


@pytest.mark.parametrize("action", [FAIL, KILL])
@pytest.mark.parametrize("point", blank_points(), ids=str)
def test_a_pod_that_began_blank_leaves_nothing_either(daemon: Daemon, point: Point, action: str) -> None:
    try:
        make_blank(daemon)
        run_case(daemon, point, action, begins_blank=True)
    except BaseException:
        print(daemon.log_tail())
        raze(daemon)
        raise


@pytest.mark.parametrize("point", pool_points(), ids=str)
def test_what_a_killed_daemon_leaves_of_a_blank_pod_goes_at_the_next_start(daemon: Daemon, point: Point) -> None:
    try:
        if point.trigger:
            daemon.arm(point.trigger, FAIL, 1)
        daemon.arm(point.name, KILL)
        assert daemon.process is not None
        if point.name != FIRST:
            daemon.arm(FIRST, "off")
        else:  # hanging there: let go, it would not come by again
            daemon.process.kill()
        daemon.reap()
        daemon.start()
        check_nothing_remains(daemon)
    except BaseException:
        print(daemon.log_tail())
        raze(daemon)
        raise


def test_a_blank_pod_that_waits_does_not_outlive_a_killed_daemon(daemon: Daemon) -> None:
    make_blank(daemon)
    daemon.kill()
    daemon.start()
    check_nothing_remains(daemon)
