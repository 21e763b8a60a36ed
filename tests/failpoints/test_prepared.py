"""What waits for a start is of use to the daemon that made it, and in nobody's way after its death."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from proto import api_pb2 as api
from runtime.program import LAUNCH
from tests.failpoints.cases import NEW
from tests.failpoints.points import UPDATE
from tests.failpoints.serving import PATIENCE, Daemon, serving, wait_for
from tests.failpoints.truth import check_nothing_remains, check_truth

pytestmark = pytest.mark.leaks("module")


@pytest.fixture(scope="module")
def shared() -> Iterator[Daemon]:
    with serving() as found:
        yield found


@pytest.fixture
def daemon(shared: Daemon) -> Iterator[Daemon]:
    yield shared
    shared.remove_pods()
    check_nothing_remains(shared)


def processes(id: str) -> set[int]:
    """Those in the cgroups of the container."""
    found = set()
    for file in Path("/proc").glob("[0-9]*/cgroup"):
        with contextlib.suppress(OSError):  # it has ended
            if id in file.read_text():
                found.add(int(file.parent.name))
    return found


def created(daemon: Daemon) -> tuple[str, int]:
    """A container, and the process that waits to be it."""
    request = daemon.pod()
    asked = daemon.container(daemon.run_pod(request), request)
    id = str(daemon.runtime.CreateContainer(asked).container_id)
    wait_for(lambda: processes(id), "a process that waits")
    (pid,) = processes(id)
    assert os.path.samefile(f"/proc/{pid}/exe", LAUNCH)
    return id, pid


def start(daemon: Daemon, id: str) -> None:
    daemon.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    assert daemon.status(id).state == api.CONTAINER_RUNNING
    assert len(processes(id)) == 1


def test_a_container_created_before_a_kill_is_started_after_it_by_another_process(daemon: Daemon) -> None:
    id, waited = created(daemon)
    daemon.restart()
    start(daemon, id)
    assert processes(id) != {waited}


def test_a_container_created_before_a_kill_is_removed_after_it_with_what_waits(daemon: Daemon) -> None:
    id, _ = created(daemon)
    daemon.restart()
    daemon.runtime.RemoveContainer(api.RemoveContainerRequest(container_id=id))
    assert not processes(id)


def test_a_pod_is_stopped_with_what_waits_in_it(daemon: Daemon) -> None:
    id, _ = created(daemon)
    daemon.stop_pod(pod_of(daemon, id))
    assert not processes(id)


@pytest.mark.parametrize("place", ["/set_container_limits:before", "/set_container_limits:mid", ":store", ":answer"])
def test_a_created_container_whose_update_was_killed_starts_with_what_is_told_of_it(daemon: Daemon, place: str) -> None:
    id, waited = created(daemon)
    daemon.arm(f"{UPDATE}{place}", "kill")
    request = api.UpdateContainerResourcesRequest(container_id=id, linux=NEW)
    with pytest.raises(grpc.RpcError):
        daemon.runtime.UpdateContainerResources(request, timeout=PATIENCE)
    daemon.reap()
    daemon.start()
    told = daemon.status(id).resources.linux
    assert told == (NEW if place == ":answer" else api.LinuxContainerResources())
    start(daemon, id)
    (pid,) = processes(id)
    assert pid != waited
    assert Path(f"/proc/{pid}/oom_score_adj").read_text() == f"{told.oom_score_adj}\n"
    check_truth(daemon)


def pod_of(daemon: Daemon, id: str) -> str:
    (found,) = [each.pod_sandbox_id for each in daemon.containers() if each.id == id]
    return str(found)
