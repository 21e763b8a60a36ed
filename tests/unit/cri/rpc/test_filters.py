"""Filters of the List RPCs: every field narrows, an empty one does not."""

from __future__ import annotations

import pytest

from cri.rpc.filters import has_labels, select_containers, select_sandboxes
from cri.state.records import ContainerState, SandboxState
from proto import api_pb2 as api
from tests.unit.cri.rpc.conftest import MakeContainer, MakeSandbox

READY, NOTREADY = (
    api.PodSandboxStateValue(state=api.SANDBOX_READY),
    api.PodSandboxStateValue(state=api.SANDBOX_NOTREADY),
)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["aa1", "aa2", "b1"]),
        ({"id": "aa1"}, ["aa1"]),
        ({"id": "aa"}, ["aa1", "aa2"]),
        ({"id": "zz"}, []),
        ({"state": READY}, ["aa1"]),
        ({"state": NOTREADY}, ["aa2", "b1"]),
        ({"label_selector": {"app": "web"}}, ["aa1", "b1"]),
        ({"label_selector": {"app": "web", "tier": "front"}}, ["b1"]),
        ({"label_selector": {"app": ""}}, []),
        ({"id": "a", "state": NOTREADY, "label_selector": {"app": "db"}}, ["aa2"]),
        ({"id": "b", "state": READY}, []),
    ],
)
def test_sandboxes_are_chosen_by_every_field(
    wanted: dict[str, object], found: list[str], make_sandbox: MakeSandbox
) -> None:
    records = [
        make_sandbox("aa1", {"app": "web"}),
        make_sandbox("aa2", {"app": "db"}, state=SandboxState.NOTREADY),
        make_sandbox("b1", {"app": "web", "tier": "front"}, state=SandboxState.UNKNOWN),
    ]
    chosen = select_sandboxes(records, api.PodSandboxFilter(**wanted))  # type: ignore[arg-type]
    assert [record.id for record in chosen] == found


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        ({}, ["c1", "c2", "d1"]),
        ({"id": "c"}, ["c1", "c2"]),
        ({"pod_sandbox_id": "s1"}, ["c1", "c2"]),
        ({"pod_sandbox_id": "s"}, ["c1", "c2", "d1"]),
        ({"pod_sandbox_id": "s2", "id": "c"}, []),
        ({"state": api.ContainerStateValue(state=api.CONTAINER_CREATED)}, ["c1"]),
        ({"state": api.ContainerStateValue(state=api.CONTAINER_EXITED)}, ["d1"]),
        ({"label_selector": {"app": "web"}}, ["c1", "d1"]),
    ],
)
def test_containers_are_chosen_by_every_field(
    wanted: dict[str, object], found: list[str], make_container: MakeContainer
) -> None:
    records = [
        make_container("c1", "s1", {"app": "web"}, state=ContainerState.CREATED),
        make_container("c2", "s1", state=ContainerState.RUNNING),
        make_container("d1", "s2", {"app": "web"}, state=ContainerState.EXITED),
    ]
    chosen = select_containers(records, api.ContainerFilter(**wanted))  # type: ignore[arg-type]
    assert [record.id for record in chosen] == found
    if "state" not in wanted:
        stats = select_containers(records, api.ContainerStatsFilter(**wanted))  # type: ignore[arg-type]
        assert stats == chosen


def test_a_label_has_to_be_there_with_that_value() -> None:
    assert has_labels({"a": "1", "b": "2"}, {"a": "1"}) and has_labels({}, {})
    assert not has_labels({"a": "1"}, {"a": "2"}) and not has_labels({}, {"a": ""})
