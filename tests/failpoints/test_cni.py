"""Fail, kill and cancel around the attaching of a pod by CNI plugins: no address stays leased.

The plugins are ours (``tests.fake_cni``): what they leased and did not free is a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from proto import api_pb2 as api
from tests.failpoints.cases import ACTIONS, attempt, run_case
from tests.failpoints.launcher import Launcher
from tests.failpoints.points import RUN, Point, all_points
from tests.failpoints.razing import raze
from tests.failpoints.serving import Daemon, in_folder, launching, wait_for
from tests.failpoints.truth import check_nothing_remains
from tests.fake_cni import FakePlugins

pytestmark = pytest.mark.leaks("module")

POINTS = [point for point in all_points() if "attach_network" in point.name or point.name.startswith(f"{RUN}:")]


@pytest.fixture(scope="module")
def launcher() -> Iterator[Launcher]:
    with launching() as found:
        yield found


@pytest.fixture(scope="module")
def daemon(launcher: Launcher) -> Iterator[Daemon]:
    with in_folder(launcher=launcher, cni='bin_dir = "%s/plugins"\n') as found:
        FakePlugins(found.folder / "plugins", found.folder / "cni").configure()
        found.start()
        found.import_demo_image()
        yield found


def leases(daemon: Daemon) -> list[str]:
    return sorted(path.name for path in (daemon.folder / "plugins" / "leases").iterdir())


def calls(daemon: Daemon) -> str:
    path = daemon.folder / "plugins" / "calls"
    return path.read_text() if path.exists() else ""


def check_nothing_is_leased(daemon: Daemon) -> None:
    wait_for(lambda: not leases(daemon), "the plugins to free all that was leased")
    wait_for(lambda: not list((daemon.root / "cni").glob("*")), "the daemon to forget all that was attached")


@pytest.mark.parametrize("action", ACTIONS)
@pytest.mark.parametrize("point", POINTS, ids=str)
def test_the_identical_request_succeeds_and_nothing_stays_leased(daemon: Daemon, point: Point, action: str) -> None:
    try:
        run_case(daemon, point, action)
        check_nothing_is_leased(daemon)
    except BaseException:
        print(daemon.log_tail())
        raze(daemon)
        raise


def test_a_daemon_that_is_killed_within_add_leaves_no_plugin_and_no_lease(daemon: Daemon) -> None:
    plugins = Path(daemon.folder / "plugins")
    for slow in ("first", "second"):
        (plugins / "behaviour.json").write_text(f'{{"{slow} ADD": "hang once it is leased"}}')
        request = daemon.pod()
        call = daemon.runtime.RunPodSandbox.future(request)
        wait_for(lambda: (plugins / "behaved.json").exists(), "ADD to have leased an address")
        assert leases(daemon) != []
        daemon.kill()
        assert call.exception() is not None
        (plugins / "behaved.json").unlink()
        daemon.start()
        check_nothing_is_leased(daemon)
        check_nothing_remains(daemon)
        assert attempt(daemon, RUN, request) is None
        daemon.remove_pods()


def test_del_that_fails_while_the_daemon_starts_is_tried_again(daemon: Daemon) -> None:
    plugins = Path(daemon.folder / "plugins")
    (plugins / "behaviour.json").write_text('{"first DEL": "error"}')
    before = calls(daemon).count('"DEL"')
    daemon.arm("RunPodSandbox/attach_network:after", "kill", 1)
    assert attempt(daemon, RUN, daemon.pod()) is not None
    daemon.reap()
    daemon.start()
    wait_for(lambda: calls(daemon).count('"DEL"') >= before + 4, "DEL to have been tried twice, of both plugins")
    assert leases(daemon) != []
    (plugins / "behaviour.json").unlink()
    check_nothing_is_leased(daemon)
    check_nothing_remains(daemon)


def test_a_plugin_that_hangs_does_not_keep_the_daemon_from_serving(daemon: Daemon) -> None:
    """Its pod is removed as soon as it does not hang any more."""
    plugins = Path(daemon.folder / "plugins")
    pod = daemon.run_pod()
    (plugins / "behaviour.json").write_text('{"second DEL": "hang"}')
    stop = daemon.runtime.StopPodSandbox.future(api.StopPodSandboxRequest(pod_sandbox_id=pod))
    wait_for(lambda: '"DEL"' in calls(daemon).splitlines()[-1], "DEL to hang")
    daemon.kill()
    assert stop.exception() is not None
    daemon.start()
    assert [each.state for each in daemon.pods()] == [api.SANDBOX_NOTREADY]
    (plugins / "behaviour.json").unlink()
    daemon.remove_pod(pod)
    check_nothing_is_leased(daemon)
