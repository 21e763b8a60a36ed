"""Routes to other nodes' pods, made by a daemon that is killed.

The daemon is a process of its own in a network namespace that plays the node.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.failpoints.serving import Daemon, in_folder
from tests.kernel.network.conftest import Netns

ROUTE = '[[network.routes]]\nto = "10.213.250.0/24"\nvia = "192.0.2.8"\n'


@pytest.fixture
def daemon(daemons_on_node: None) -> Iterator[Daemon]:
    with in_folder(cni=ROUTE) as found:
        yield found


def routes(node: Netns) -> list[str]:
    return node.ip("route", "show", "proto", "133").split()


def test_the_routes_of_a_killed_daemon_stay_with_its_pods_and_go_with_the_last_one(daemon: Daemon, node: Netns) -> None:
    daemon.start()
    pod = daemon.run_pod()
    there = ["10.213.250.0/24", "via", "192.0.2.8", "dev", "up0"]
    assert routes(node)[:5] == there
    daemon.stop()
    assert routes(node)[:5] == there
    daemon.start()
    daemon.remove_pod(pod)
    daemon.kill()
    assert routes(node)[:5] == there
    daemon.start()
    daemon.stop()
    assert routes(node) == [] and "crf" not in node.ip("link")


def test_a_daemon_whose_route_is_somebody_elses_does_not_start_and_names_it(daemon: Daemon, node: Netns) -> None:
    node.ip("route", "add", "10.213.250.0/24", "via", "192.0.2.9")
    daemon.launch()
    assert daemon.reap() == 1
    assert "the route 10.213.250.0/24 via 192.0.2.9 dev up0 exists already" in daemon.log_tail()
    node.ip("route", "delete", "10.213.250.0/24")
