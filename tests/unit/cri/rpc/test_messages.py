"""Records as the API shows them."""

from __future__ import annotations

import pytest

from cri.plan.container import ContainerPlan
from cri.rpc.messages import container, container_attributes, container_status, pod_sandbox, pod_sandbox_status
from cri.state.records import ContainerState, SandboxState
from proto import api_pb2 as api
from tests.unit.cri.rpc.conftest import MakeContainer, MakeSandbox


def test_a_sandbox_is_listed_with_what_its_request_said(make_sandbox: MakeSandbox) -> None:
    shown = pod_sandbox(make_sandbox("s1", {"app": "web"}, runtime_handler="crisp", created_at=7))
    assert (shown.id, shown.created_at, shown.runtime_handler) == ("s1", 7, "crisp")
    assert (shown.metadata.name, shown.metadata.attempt) == ("s1", 3)
    assert dict(shown.labels) == {"app": "web"} and dict(shown.annotations) == {"note": "\u00fcber"}


@pytest.mark.parametrize(
    ("state", "shown", "ip", "more"),
    [
        (SandboxState.READY, api.SANDBOX_READY, "10.0.0.2", ["fd00::2"]),
        (SandboxState.NOTREADY, api.SANDBOX_NOTREADY, "", []),
        (SandboxState.UNKNOWN, api.SANDBOX_NOTREADY, "", []),
    ],
)
def test_only_a_ready_sandbox_has_addresses(
    state: SandboxState, shown: int, ip: str, more: list[str], make_sandbox: MakeSandbox
) -> None:
    status = pod_sandbox_status(make_sandbox("s1", state=state, addresses=("10.0.0.2", "fd00::2")))
    assert status.state == shown and status.network.ip == ip
    assert [each.ip for each in status.network.additional_ips] == more


@pytest.mark.parametrize("state", ContainerState)
def test_every_state_of_a_container_has_a_name(state: ContainerState, make_container: MakeContainer) -> None:
    shown = container(make_container("c1", labels={"a": "b"}, state=state, image_id="sha256:1"))
    assert api.ContainerState.Name(shown.state) == f"CONTAINER_{state.name}"
    assert (shown.id, shown.pod_sandbox_id, shown.metadata.attempt) == ("c1", "s1", 1)
    assert (shown.image.image, shown.image_id, dict(shown.labels)) == ("busybox", "sha256:1", {"a": "b"})


def test_a_containers_status_tells_its_mounts_user_limits_and_end(
    make_container: MakeContainer, plan: ContainerPlan
) -> None:
    limits = api.LinuxContainerResources(cpu_shares=512, memory_limit_in_bytes=1 << 20)
    record = make_container(
        "c1",
        state=ContainerState.EXITED,
        started_at=5,
        finished_at=9,
        exit_code=137,
        reason="OOMKilled",
        message="m",
        resources=limits.SerializeToString(),
    )
    status = container_status(record, plan)
    assert [(each.host_path, each.container_path, each.readonly) for each in status.mounts] == [("/srv", "/data", True)]
    user = status.user.linux
    assert (user.uid, user.gid, list(user.supplemental_groups)) == (1000, 1001, [5, 6])
    assert status.resources.linux == limits and status.stop_signal == api.SIGNAL_SIGUSR1
    assert (status.started_at, status.finished_at, status.exit_code) == (5, 9, 137)
    assert (status.reason, status.message) == ("OOMKilled", "m")
    assert status.log_path == "/var/log/pods/x/main/0.log"


def test_statistics_carry_who_they_are_of(make_container: MakeContainer) -> None:
    attributes = container_attributes(make_container("c1", labels={"a": "b"}))
    assert (attributes.id, attributes.metadata.name, dict(attributes.labels)) == ("c1", "c1", {"a": "b"})
