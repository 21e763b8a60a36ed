"""What a monitor's parts share is there from the start, and is one pod's alone."""

from __future__ import annotations

from typing import Any

import pytest

from runtime.children import Children
from runtime.errors import FailedPrecondition
from runtime.loop import Loop
from runtime.pod import Pod


def make(said: list[Any]) -> Pod:
    loop = Loop(said.append)
    return Pod(loop, Children(loop, lambda: None), 5, announce=said.append, note=said.append)


def test_a_new_pod_holds_nothing() -> None:
    pod = make([])
    assert (pod.launch, pod.exits, pod.namespaces, pod.containers, pod.execs) == (5, -1, {}, {}, {})


def test_two_pods_share_nothing_that_changes() -> None:
    one, other = make([]), make([])
    one.namespaces["network"] = 5
    assert other.namespaces == {}
    assert one.containers is not other.containers
    assert one.execs is not other.execs


def test_the_namespaces_that_it_has_are_found_in_the_order_asked_for() -> None:
    pod = make([])
    pod.namespaces.update({"network": 7, "uts": 8})
    assert pod.held(["uts", "network"]) == [8, 7]
    with pytest.raises(FailedPrecondition, match="no ipc namespace of its own"):
        pod.held(["uts", "ipc"])


def test_events_and_notes_go_where_the_monitor_says() -> None:
    said: list[Any] = []
    pod = make(said)
    pod.announce({"event": "exit"})
    pod.note("a line")
    assert said == [{"event": "exit"}, "a line"]
