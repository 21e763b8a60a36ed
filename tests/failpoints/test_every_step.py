"""Fail, kill and cancel at every step of every operation; then ask again, and look whether all is well.

The list of cases is that of ``points``; ``cases`` says what a case is.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import get_args

import grpc
import pytest

from cri.steps.codec import AnyStep
from cri.steps.relabel import RelabelVolumes
from tests.failpoints import truth
from tests.failpoints.cases import ACTIONS, FAIL, KILL, attempt, prepare, request_of, run_case
from tests.failpoints.launcher import Launcher
from tests.failpoints.points import (
    CREATE,
    LACKING,
    REMOVE_POD,
    RUN,
    START,
    UPDATE,
    UPDATE_POD,
    Point,
    all_points,
    all_steps,
)
from tests.failpoints.razing import raze
from tests.failpoints.serving import Daemon, launching, serving

pytestmark = pytest.mark.leaks("module")

POINTS = all_points()


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with launching() as found:
        yield found


@pytest.fixture(scope="module")
def daemon(launcher: Launcher) -> Iterator[Daemon]:
    with serving(launcher=launcher) as found:
        yield found


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_the_identical_request_succeeds_and_nothing_is_left(daemon: Daemon, point: Point, action: str) -> None:
    try:
        run_case(daemon, point, action)
    except BaseException:
        print(daemon.log_tail())
        raze(daemon)
        raise


# ---------------------------------------------------------------------------- tests of the loop itself


def test_the_list_has_a_step_of_every_kind() -> None:
    """But for the one that only a node takes that enforces SELinux."""
    if LACKING:
        pytest.skip(LACKING)
    assert all_steps() == set(get_args(AnyStep)) - {RelabelVolumes}


def test_the_list_has_exactly_the_points_that_are_passed(daemon: Daemon) -> None:
    """In one life of a pod, with each creation and change taken back once and each end done."""
    daemon.kill()
    daemon.start()
    for operation in (RUN, CREATE, START, UPDATE, UPDATE_POD):
        pod = prepare(daemon, operation)
        daemon.arm(f"{operation}:store", FAIL, 1)
        assert isinstance(attempt(daemon, operation, request_of(operation, pod)), grpc.RpcError)
        assert not attempt(daemon, operation, request_of(operation, pod))
    pod = prepare(daemon, REMOVE_POD)
    assert not attempt(daemon, REMOVE_POD, request_of(REMOVE_POD, pod))
    daemon.remove_pods()
    passed = {name for name, point in daemon.points().items() if point.hits}
    in_background = {name for name in passed if name.startswith("images/")}  # what an import leaves is deleted later
    assert passed - in_background == {point.name for point in POINTS}


def test_a_point_that_is_never_passed_fails_its_case(daemon: Daemon) -> None:
    for action in ACTIONS:
        with pytest.raises(AssertionError, match="was not passed"):
            run_case(daemon, Point(RUN, "RunPodSandbox/no_such_step:mid"), action)
        daemon.disarm()
        daemon.remove_pods()


NOTHING = "pass"
ERROR = "raise OSError(5, 'planted')"
PLANTED = {
    "a cgroup that stays": (RUN, "sandbox", "make_pod_cgroups", "MakePodCgroups", NOTHING),
    "a mount that stays": (RUN, "sandbox", "mount_shm", "MountShm", NOTHING),
    "an address that stays": (RUN, "sandbox", "attach_network", "AttachNetwork", NOTHING),
    "a link that limits and stays": (RUN, "bandwidth", "limit_bandwidth", "LimitBandwidth", NOTHING),
    "an undo that fails": (RUN, "sandbox", "attach_network", "AttachNetwork", ERROR),
    "a directory that stays": (CREATE, "container", "make_container_directories", "MakeContainerDirectories", NOTHING),
    "a limit that stays": (UPDATE, "limits", "set_container_limits", "SetContainerLimits", NOTHING),
    "a limit of a pod that stays": (UPDATE_POD, "limits", "set_pod_limits", "SetPodLimits", NOTHING),
    "a score that stays": (UPDATE, "limits", "set_oom_score", "SetOomScore", NOTHING),
    "a process that stays": (START, "container", "start_init", "StartInit", NOTHING),
}


@pytest.mark.parametrize(("operation", "module", "step", "kind", "undo"), PLANTED.values(), ids=PLANTED)
def test_a_step_with_a_broken_undo_fails_its_case(
    launcher: Launcher,
    operation: str,
    module: str,
    step: str,
    kind: str,
    undo: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if LACKING and kind == "LimitBandwidth":
        pytest.skip(LACKING)
    monkeypatch.setattr(truth, "SETTLING", 0.5)
    plant = f"import cri.steps.{module} as module\nasync def undo(self, host): {undo}\nmodule.{kind}.undo = undo"
    with serving(plant=plant, launcher=launcher) as daemon:
        for action in (FAIL, KILL):
            with pytest.raises(AssertionError, match=r"remains|said and not so|is refused"):
                run_case(daemon, Point(operation, f"{operation}/{step}:after"), action)
            raze(daemon)
