"""Fail, kill and cancel at every stage of a pull, an import and a removal; then ask again, and look what is left.

The list of cases is that of ``runtime.images.stages``; ``images`` says what a case is.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing

import pytest

from runtime.images.stages import DELETE, IMPORT, PULL, REMOVE, points
from tests.failpoints import truth
from tests.failpoints.cases import CANCEL, FAIL, KILL, KILL_MONITORS
from tests.failpoints.images import (
    OPERATIONS,
    Source,
    actions_at,
    all_points,
    check_nothing_remains,
    find_half_done,
    listed,
    offering,
    run_case,
)
from tests.failpoints.launcher import Launcher
from tests.failpoints.points import Point
from tests.failpoints.serving import Daemon, in_folder, launching, wait_for

pytestmark = pytest.mark.leaks("module")

POINTS = all_points()
CASES = [(point, action) for point in POINTS for action in actions_at(point)]


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with launching() as found:
        yield found


@pytest.fixture(scope="module")
def daemon(launcher: Launcher) -> Iterator[Daemon]:
    with in_folder(launcher=launcher) as found:
        found.start()
        yield found


@pytest.fixture(scope="module")
def source() -> Iterator[Source]:
    with offering() as found:
        yield found


def raze(daemon: Daemon) -> None:
    """Clear away by force what a failed case left; the next one is judged by itself."""
    if daemon.process is not None:
        daemon.process.kill()
        daemon.reap()
    shutil.rmtree(daemon.root / "layers")
    with closing(sqlite3.connect(daemon.root / "state.db")) as connection, connection:
        connection.execute("DELETE FROM images")
    daemon.start()


@pytest.mark.parametrize(
    ("point", "action"), CASES, ids=lambda each: f"{each.operation} {each}" if each in POINTS else each
)
def test_the_identical_request_succeeds_and_nothing_is_left(
    daemon: Daemon, source: Source, point: Point, action: str
) -> None:
    try:
        run_case(daemon, source, point, action)
    except BaseException:
        print(daemon.log_tail())
        raze(daemon)
        raise


@pytest.mark.parametrize("action", [FAIL, KILL, KILL_MONITORS])
@pytest.mark.parametrize("name", points(DELETE))
def test_what_is_not_deleted_at_once_is_deleted_later(daemon: Daemon, source: Source, name: str, action: str) -> None:
    """It happens after the answer."""
    try:
        assert not source.attempt(daemon, PULL)
        wait_for(lambda: not find_half_done(daemon), "the pull to have tidied up")
        passed = daemon.hits(name)
        daemon.arm(name, action, 1)
        source.attempt(daemon, REMOVE)
        if action == KILL:
            daemon.reap()
            daemon.start()
        else:
            wait_for(lambda: daemon.hits(name) > passed, f"{name} to be passed")
        check_nothing_remains(daemon)
    except BaseException:
        print(daemon.log_tail())
        raze(daemon)
        raise


# ---------------------------------------------------------------------------- tests of the loop itself


def test_the_list_has_exactly_the_points_that_are_passed(daemon: Daemon, source: Source) -> None:
    daemon.restart()
    for operation in (PULL, REMOVE, IMPORT, REMOVE):
        assert not source.attempt(daemon, operation)
    check_nothing_remains(daemon)
    wanted = {*points(DELETE), *(point.name for point in POINTS)}
    assert {name for name, point in daemon.points().items() if point.hits} == wanted


def test_a_point_that_is_never_passed_fails_its_case(daemon: Daemon, source: Source) -> None:
    for operation in OPERATIONS:
        for action in (FAIL, KILL, KILL_MONITORS, CANCEL):
            with pytest.raises(AssertionError, match="was not passed"):
                run_case(daemon, source, Point(operation, "images/no_such_stage:mid"), action)
            daemon.disarm()
            assert not source.attempt(daemon, REMOVE)


PLANTED = {
    "a directory that stays": (
        PULL,
        "images/unpack_layer:after",
        "from runtime.images.trash import Trash\nTrash.rename = Trash.throw_now = lambda self, path: None",
    ),
    "an image that stays": (
        REMOVE,
        "images/unlist_image:after",
        "from runtime.images.index import ImageIndex\nImageIndex.drop = lambda self, id: None",
    ),
    "a layer that nobody knows": (
        PULL,
        "images/commit_layer:after",
        "from runtime.images import layers\nasync def finish(work, *args, then=None): return work(*args)\n"
        "layers.finish = finish",
    ),
}


@pytest.mark.parametrize(("operation", "name", "plant"), PLANTED.values(), ids=PLANTED)
def test_a_stage_that_leaves_something_fails_its_case(
    launcher: Launcher, source: Source, operation: str, name: str, plant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(truth, "SETTLING", 0.5)
    with in_folder(plant=plant, launcher=launcher) as daemon:
        daemon.start()
        with pytest.raises(AssertionError, match=r"remains|is refused"):
            run_case(daemon, source, Point(operation, name), FAIL)


def test_whole_layers_of_a_pull_that_failed_are_for_the_next_try(daemon: Daemon, source: Source) -> None:
    """Until they are collected, at the latest when an image or a container is removed."""
    daemon.arm("images/list_image:before", FAIL, 1)
    assert source.attempt(daemon, PULL)
    assert len(os.listdir(daemon.root / "layers")) == 1 + 3 and not listed(daemon)
    unpacked = daemon.hits("images/unpack_layer:before")
    assert not source.attempt(daemon, PULL)
    assert daemon.hits("images/unpack_layer:before") == unpacked
    assert not source.attempt(daemon, REMOVE)
    check_nothing_remains(daemon)
