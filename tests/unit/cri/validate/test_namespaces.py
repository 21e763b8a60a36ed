"""Namespace modes of pods and containers."""

from __future__ import annotations

import msgspec
import pytest
from google.protobuf import text_format

from cri.plan.facts import HostFacts
from cri.plan.sandbox import SandboxPlan
from cri.state.records import ContainerState
from cri.validate.namespaces import check_container_namespaces, check_pod_namespaces, resolve_target
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, Fault, InvalidArgument
from runtime.spec import IdMapping

CONTAINERS = {"aa1": ContainerState.RUNNING, "aa2": ContainerState.CREATED, "aa": ContainerState.RUNNING}
ONE = "{ container_id: 0 host_id: 65536 length: 65536 }"
LAST = "{ host_id: 4294967294 length: 1 }"
OWN = f"userns_options {{ uids {ONE} gids {ONE} }}"


def options(text: str) -> api.NamespaceOption:
    return text_format.Parse(text, api.NamespaceOption())


@pytest.mark.parametrize(
    "text",
    ["", "network: NODE pid: NODE ipc: NODE", "pid: CONTAINER userns_options{mode: NODE}", OWN, f"network: NODE {OWN}"],
)
def test_a_pod_may_have_its_own_or_the_nodes(host: HostFacts, text: str) -> None:
    check_pod_namespaces(options(text), host, "o")


@pytest.mark.parametrize(
    ("text", "fault", "words"),
    [
        ("network: TARGET", InvalidArgument, "o.network: must be one of POD, NODE"),
        ("ipc: CONTAINER", InvalidArgument, "o.ipc"),
        ("pid: TARGET", InvalidArgument, "o.pid"),
        ("target_id: 'x'", InvalidArgument, "o.target_id"),
        ("userns_options { mode: TARGET }", InvalidArgument, "userns_options.mode"),
        (f"userns_options {{ mode: NODE gids {ONE} }}", InvalidArgument, "mode NODE"),
        (f"userns_options {{ uids {ONE} }}", InvalidArgument, "gids: must have one mapping, not 0"),
        (f"userns_options {{ uids {ONE} gids {{ length: 0 }} }}", InvalidArgument, "some length"),
        (f"userns_options {{ uids {ONE} gids {{ host_id: 9 length: 5 }} }}", InvalidArgument, "alike"),
        (
            f"userns_options {{ uids {ONE} uids {ONE} gids {ONE} }}",
            InvalidArgument,
            "uids: must have one mapping, not 2",
        ),
        (
            f"userns_options {{ uids {{ container_id: 1 length: 9 }} gids {ONE} }}",
            InvalidArgument,
            "the container's id 0",
        ),
        (f"userns_options {{ uids {{ length: 5 }} gids {ONE} }}", InvalidArgument, "must not map the host's root"),
        (
            f"userns_options {{ uids {{ host_id: 4294967290 length: 6 }} gids {ONE} }}",
            InvalidArgument,
            "ends beyond the last id, which is 4294967294",
        ),
        (f"pid: NODE {OWN}", InvalidArgument, "o.pid: is NODE, which a pod with a user namespace cannot have"),
        (f"ipc: NODE {OWN}", InvalidArgument, "o.ipc: is NODE, which a pod with a user namespace cannot have"),
    ],
)
def test_a_pod_is_refused_what_it_cannot_have(host: HostFacts, text: str, fault: type[Fault], words: str) -> None:
    with pytest.raises(Fault) as raised:
        check_pod_namespaces(options(text), host, "o")
    assert type(raised.value) is fault and words in str(raised.value)


def test_a_mapping_may_end_with_the_last_id(host: HostFacts) -> None:
    check_pod_namespaces(options(f"userns_options {{ uids {LAST} gids {LAST} }}"), host, "o")


def test_a_host_without_user_namespaces_says_why_it_has_none(host: HostFacts) -> None:
    without = msgspec.structs.replace(host, no_user_namespaces="/var/lib is an overlay")
    check_pod_namespaces(options("userns_options { mode: NODE }"), without, "o")
    with pytest.raises(FailedPrecondition, match=r"o.userns_options: user namespaces: /var/lib is an overlay"):
        check_pod_namespaces(options(OWN), without, "o")


@pytest.mark.parametrize(
    ("has", "text", "fine"),
    [
        (None, "", True),
        (None, "userns_options { mode: NODE }", True),
        (None, OWN, False),
        ({"host": 65536, "size": 65536}, OWN, True),
        ({"host": 65536, "size": 65536}, "", True),
        ({"host": 65536, "size": 65536}, "userns_options { mode: NODE }", False),
        ({"host": 131072, "size": 65536}, OWN, False),
        ({"host": 65536, "size": 65535}, OWN, False),
    ],
)
def test_a_container_has_the_user_namespace_of_its_pod(
    pod: SandboxPlan, has: IdMapping | None, text: str, fine: bool
) -> None:
    theirs = msgspec.structs.replace(pod, ids=has)
    if fine:
        check_container_namespaces(options(text), theirs, {}, "o")
        return
    with pytest.raises(InvalidArgument, match=r"o\.userns_options: is not what the pod has"):
        check_container_namespaces(options(text), theirs, {}, "o")


def test_a_containers_mapping_is_checked_as_a_pods(pod: SandboxPlan) -> None:
    with pytest.raises(InvalidArgument, match="must have one mapping, not 0"):
        check_container_namespaces(options("userns_options { mode: POD }"), pod, {}, "o")


@pytest.mark.parametrize("text", ["", "pid: CONTAINER", "pid: TARGET target_id: 'aa1'"])
def test_a_container_may_have_the_pods_its_own_or_a_targets(pod: SandboxPlan, text: str) -> None:
    check_container_namespaces(options(text), pod, CONTAINERS, "o")


@pytest.mark.parametrize("name", ["network", "ipc", "pid"])
def test_a_container_has_the_nodes_only_in_a_pod_that_has_it(pod: SandboxPlan, name: str) -> None:
    asked = options(f"{name}: NODE")
    with pytest.raises(InvalidArgument, match=f"o.{name}: is NODE, but the pod has"):
        check_container_namespaces(asked, pod, {}, "o")
    check_container_namespaces(asked, msgspec.structs.replace(pod, **{name: "node"}), {}, "o")


@pytest.mark.parametrize("text", ["network: CONTAINER", "ipc: TARGET", "pid: 9", "target_id: 'aa1'"])
def test_a_container_is_refused_other_modes(pod: SandboxPlan, text: str) -> None:
    with pytest.raises(InvalidArgument):
        check_container_namespaces(options(text), pod, CONTAINERS, "o")


def test_a_target_may_be_short_where_it_is_unique() -> None:
    assert resolve_target("aa1", CONTAINERS, "o") == "aa1"
    assert resolve_target("aa", CONTAINERS, "o") == "aa"
    assert resolve_target("b", {"bb": ContainerState.RUNNING}, "o") == "bb"


@pytest.mark.parametrize(
    ("target", "fault", "words"),
    [
        ("", InvalidArgument, "is empty"),
        ("a", InvalidArgument, "is ambiguous"),
        ("zz", InvalidArgument, "names no container of this pod"),
        ("aa2", FailedPrecondition, "is created, not running"),
    ],
)
def test_a_target_is_one_running_container_of_the_pod(target: str, fault: type[Fault], words: str) -> None:
    with pytest.raises(Fault) as raised:
        resolve_target(target, CONTAINERS, "o")
    assert type(raised.value) is fault and words in str(raised.value)
