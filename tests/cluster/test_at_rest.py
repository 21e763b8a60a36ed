"""What a node full of pods costs when nothing happens: kubelet lists everything three times a second."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import golang
from tests.cluster.kubelet import Kubelet, kubelet_of
from tests.cluster.manifests import container, forever, pod
from tests.failpoints.serving import Daemon, serving, wait_for

pytestmark = [
    pytest.mark.leaks("module"),
    pytest.mark.skipif(golang.is_missing(), reason="needs Go, which builds kubelet"),
    pytest.mark.timeout(600),
]

PODS = 50
SETTLE = 60
"""Seconds in which kubelet asks again and again for the status of what is new."""

SECONDS = 30
SHARE = 0.03
"""Of one core."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with serving(failpoints=None, pool=2) as found:
        yield found


@pytest.fixture(scope="module")
def kubelet(daemon: Daemon) -> Iterator[Kubelet]:
    with kubelet_of(daemon) as found:
        yield found


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def test_fifty_pods_at_rest_cost_the_daemon_three_percent_of_a_core(kubelet: Kubelet, daemon: Daemon) -> None:
    names = [kubelet.apply(pod(f"rest-{number}", container("main", forever()))) for number in range(PODS)]
    wait_for(lambda: all(map(kubelet.is_ready, names)), "the pods to be ready", 180)
    time.sleep(SETTLE)
    assert daemon.process is not None
    before = cpu_seconds(daemon.process.pid)
    time.sleep(SECONDS)
    share = (cpu_seconds(daemon.process.pid) - before) / SECONDS
    print(f"{share:.2%} of a core")
    assert share < SHARE, f"{share:.2%} of a core"
