"""What a node full of pods costs when nothing happens: kubelet lists everything three times a second."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import golang
from tests.cluster.kubelet import PATIENCE, Kubelet, kubelet_of
from tests.cluster.manifests import container, forever, pod
from tests.failpoints.serving import Daemon, serving, wait_for

pytestmark = [
    pytest.mark.leaks("module"),
    pytest.mark.skipif(golang.is_missing(), reason="needs Go, which builds kubelet"),
    pytest.mark.timeout(600),
]

PODS = 50
AT_REST = {"list_containers", "list_podsandbox", "list_images", "status", "version"}
"""What kubelet asks of its runtime when nothing happens, by its names for these calls."""
QUIET = 5.0
"""Seconds without another question: it asks again and again for the status of what is new."""

SECONDS, WINDOWS = 30, 3
SHARE = 0.03
"""Of one core, in one of that many windows of so many seconds: what else the machine does makes work slower, never
quicker."""


@pytest.fixture(scope="module")
def daemon() -> Iterator[Daemon]:
    with serving(failpoints=None, pool=2) as found:
        yield found


@pytest.fixture(scope="module")
def kubelet(daemon: Daemon) -> Iterator[Kubelet]:
    with kubelet_of(daemon) as found:
        yield found
        found.leave_all()


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_rest(kubelet: Kubelet) -> None:
    def asked() -> dict[str, int]:
        return {name: count for name, count in kubelet.asked_of_runtime().items() if name not in AT_REST}

    before, since, until = asked(), time.monotonic(), time.monotonic() + PATIENCE
    while time.monotonic() < since + QUIET:
        time.sleep(0.5)
        if (now := asked()) != before:
            before, since = now, time.monotonic()
        assert time.monotonic() < until, f"kubelet does not come to rest: {now}"


def share_of(pid: int) -> float:
    """Of one core, in the next seconds."""
    before, began = cpu_seconds(pid), time.monotonic()
    time.sleep(SECONDS)
    return (cpu_seconds(pid) - before) / (time.monotonic() - began)


def test_fifty_pods_at_rest_cost_the_daemon_three_percent_of_a_core(kubelet: Kubelet, daemon: Daemon) -> None:
    names = [kubelet.apply(pod(f"rest-{number}", container("main", forever()))) for number in range(PODS)]
    wait_for(lambda: all(map(kubelet.is_ready, names)), "the pods to be ready", 180)
    wait_rest(kubelet)
    assert daemon.process is not None
    shares: list[float] = []
    while not shares or (shares[-1] >= SHARE and len(shares) < WINDOWS):
        shares.append(share_of(daemon.process.pid))
    words = f"{', '.join(f'{share:.2%}' for share in shares)} of a core"
    print(words)
    assert shares[-1] < SHARE, words
