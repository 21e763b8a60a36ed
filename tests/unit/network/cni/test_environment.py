"""The environment of a plugin."""

from __future__ import annotations

import pytest

from network.cni.environment import plan_arguments, plan_environment
from network.provider import AttachRequest
from runtime.errors import InvalidArgument


def pod(**changes: str) -> AttachRequest:
    names = {"pod_name": "web-0", "pod_namespace": "shop", "pod_uid": "u-1"}
    return AttachRequest(sandbox_id="ab" * 32, netns_fd=-1, netlink_fd=-1, **{**names, **changes})  # type: ignore[arg-type]


def test_a_plugin_gets_what_kubernetes_plugins_expect_and_nothing_else() -> None:
    found = plan_environment("ADD", "/opt", container="ab" * 32, netns="/ns", arguments=plan_arguments(pod()))
    path = found.pop("PATH")
    assert "/usr/sbin" in path.split(":")
    assert found == {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": "ab" * 32,
        "CNI_NETNS": "/ns",
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;"
        f"K8S_POD_INFRA_CONTAINER_ID={'ab' * 32};K8S_POD_UID=u-1",
        "CNI_PATH": "/opt",
        "LC_ALL": "C",
    }


def test_what_is_of_no_pod_names_none() -> None:
    assert set(plan_environment("STATUS", "/opt")) == {"CNI_COMMAND", "CNI_PATH", "PATH", "LC_ALL"}


@pytest.mark.parametrize(
    ("field", "value"), [("pod_name", "a;K8S_POD_UID=x"), ("pod_namespace", "a=b"), ("pod_uid", "x\0y")]
)
def test_a_name_cannot_become_another_argument(field: str, value: str) -> None:
    with pytest.raises(InvalidArgument, match=f"{field}: has a semicolon or an equals sign"):
        plan_arguments(pod(**{field: value}))
