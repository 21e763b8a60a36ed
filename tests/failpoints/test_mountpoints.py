"""A layer of mountpoints that is being made when somebody dies is nobody's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from cri.mountpoints import MAKE
from proto import api_pb2 as api
from tests.failpoints.serving import Daemon, serving, wait_for
from tests.failpoints.truth import monitors_of

pytestmark = pytest.mark.leaks("module")

AT_ONCE = "import cri.assembly, cri.mountpoints\ncri.assembly.TRASH_DELAY = cri.mountpoints.DELAY = 0.0"


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with serving(plant=AT_ONCE) as found:
        yield found


def layers(daemon: Daemon) -> list[str]:
    return [name for folder in (daemon.root / "mountpoints").iterdir() for name in os.listdir(folder)]


def start_container(daemon: Daemon) -> tuple[str, str]:
    """In a pod of its own, with a mount that no other container has: the pod and the container."""
    pod = daemon.pod()
    sandbox = daemon.run_pod(pod)
    name = pod.config.metadata.name
    mount = api.Mount(container_path=f"/{name}", host_path=str(daemon.folder))
    return sandbox, daemon.run(sandbox, pod, mounts=[mount])


@pytest.mark.parametrize("place", ["before", "mid"])
def test_a_killed_daemon_leaves_none_that_the_next_does_not_throw_away(daemon: Daemon, place: str) -> None:
    daemon.arm(f"{MAKE}:{place}", "hang")
    sandbox, container = start_container(daemon)
    wait_for(lambda: (point := daemon.points().get(f"{MAKE}:{place}")) and point.waiting, "the layer to be made")
    before = layers(daemon)
    assert [name for name in before if name.startswith(".")]
    daemon.restart()
    assert layers(daemon) == [name for name in before if not name.startswith(".")]
    assert daemon.status(container).state == api.CONTAINER_RUNNING and daemon.fsck() == []
    daemon.remove_pod(sandbox)


def test_a_monitor_that_dies_in_it_leaves_nothing_and_the_key_is_tried_again(daemon: Daemon) -> None:
    before = layers(daemon)
    daemon.arm(f"{MAKE}:before", "kill-monitors", 1)
    pod = daemon.pod()
    mount = api.Mount(container_path="/killed", host_path=str(daemon.folder))
    for attempt in range(2):
        pod.config.metadata.attempt = attempt
        sandbox = daemon.run_pod(pod)
        daemon.runtime.CreateContainer(daemon.container(sandbox, pod, mounts=[mount]))
        if attempt == 0:
            wait_for(lambda: daemon.hits(f"{MAKE}:before") and not monitors_of(daemon), "the monitor to die")
            wait_for(lambda: layers(daemon) == before, "what it has left to be removed")
        else:
            wait_for(lambda: len(layers(daemon)) == len(before) + 1, "the layer")
            wait_for(lambda: not [name for name in layers(daemon) if name.startswith(".")], "the rest to be removed")
        daemon.remove_pod(sandbox)
    assert daemon.fsck() == []


def test_layers_are_private_to_root(daemon: Daemon) -> None:
    for folder in (daemon.root / "mountpoints", *(daemon.root / "mountpoints").iterdir()):
        assert Path(folder).stat().st_mode & 0o777 == 0o700
