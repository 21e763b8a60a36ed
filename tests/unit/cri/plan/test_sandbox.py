"""The plan of a pod."""

from __future__ import annotations

import msgspec
import pytest
from google.protobuf import text_format

from cri.plan.document import decode, encode
from cri.plan.facts import HostFacts
from cri.plan.sandbox import BRIDGE, CNI, SandboxIds, SandboxPlan, cgroup_parent, plan_sandbox, sandbox_request
from cri.plan.security import NOT_CONFINED, Confinement
from cri.settings import Settings
from network.bandwidth import EGRESS, INGRESS, Bandwidth
from proto import api_pb2 as api
from runtime.cgroups.resources import Resources
from runtime.errors import FailedPrecondition
from runtime.requests import CgroupDirs
from runtime.spec import Seccomp

ID = "5" * 64
IDS = SandboxIds(ID, "0a1b2c3d")
OPTIONS = "linux { security_context { namespace_options { %s } } }"


def plan(
    host: HostFacts, text: str = "", *, parent_exists: bool = True, confinement: Confinement = NOT_CONFINED
) -> SandboxPlan:
    config = text_format.Parse(text, api.PodSandboxConfig())
    return plan_sandbox(
        config, IDS, Settings(state="/run/c"), host, parent_exists=parent_exists, confinement=confinement
    )


def test_an_empty_configuration_is_a_pod_with_everything_of_its_own(host: HostFacts) -> None:
    made = plan(host)
    assert made.namespaces == ("network", "ipc", "uts", "pid")
    assert (made.network, made.ipc, made.pid) == ("pod", "pod", "pod")
    assert made.hostname == "node-1"
    assert made.directory == f"/run/c/pods/{ID}"
    assert made.directories[0] == made.directory
    assert set(made.directories[1:]) == {
        f"{made.directory}/{name}" for name in ("ns", "shm", "files", "exits", "rootfs")
    }
    assert (made.shm, made.shm_size) == (f"{made.directory}/shm", 64 << 20)
    assert made.log_directory == ""
    assert made.pause.oom_score_adj == -998
    assert made.sysctls == {
        "net.ipv4.ip_unprivileged_port_start": "0",
        "net.ipv4.ping_group_range": "0 2147483647",
    }
    assert made.namespace_path("network") == f"{made.directory}/ns/network"
    assert made.file_path("hosts") == f"{made.directory}/files/hosts"


def test_an_empty_parent_is_the_instances_own(host: HostFacts) -> None:
    made = plan(host)
    assert made.cgroup_parent == f"/crisp-0a1b2c3d/{ID}"
    assert made.pause_cgroup == f"/crisp-0a1b2c3d/{ID}/{ID}"
    assert made.cgroup_owned


LIMITS = "resources { memory_limit_in_bytes: 4096 } overhead { memory_limit_in_bytes: 8192 }"


def test_only_a_cgroup_of_our_own_gets_the_limits_of_the_pod_and_only_where_some_are_given(host: HostFacts) -> None:
    assert plan(host, f"linux {{ {LIMITS} }}").limits == Resources(memory_limit=12288)
    assert plan(host, "linux { resources {} }").limits is None and plan(host).limits is None
    given = f'linux {{ cgroup_parent: "/pods/a" {LIMITS} }}'
    assert plan(host, given).limits is None and plan(host, given).own_cgroup is None
    made = plan(host, given, parent_exists=False)
    assert (made.limits, made.own_cgroup) == (Resources(memory_limit=12288), "/pods/a")


def test_limits_that_the_host_cannot_give_are_refused_or_noted(host: HostFacts) -> None:
    with pytest.raises(FailedPrecondition, match="7MB"):
        plan(host, 'linux { resources { hugepage_limits { page_size: "7MB" limit: 1 } } }')
    assert plan(host, 'linux { resources { hugepage_limits { page_size: "7MB" limit: 0 } } }').limits is not None


@pytest.mark.parametrize("parent", ["/kubepods/burstable/pod1", "kubepods/burstable//pod1/"])
def test_kubelets_parent_is_kept_and_pause_is_its_child(host: HostFacts, parent: str) -> None:
    text = f'linux {{ cgroup_parent: "{parent}" }}'
    made = plan(host, text)
    assert made.cgroup_parent == "/kubepods/burstable/pod1"
    assert made.pause_cgroup == f"/kubepods/burstable/pod1/{ID}"
    assert not made.cgroup_owned
    assert plan(host, text, parent_exists=False).cgroup_owned
    assert cgroup_parent(text_format.Parse(text, api.PodSandboxConfig()), IDS, host) == made.cgroup_parent


def test_under_systemd_a_pod_is_a_slice_and_pause_in_a_scope_of_it(host: HostFacts) -> None:
    systemd = msgspec.structs.replace(host, systemd=True)
    made = plan(systemd, 'linux { cgroup_parent: "kubepods-pod1.slice" }')
    assert made.cgroup_parent == "/kubepods.slice/kubepods-pod1.slice"
    assert made.pause_cgroup == f"{made.cgroup_parent}/crisp-{IDS.instance}-{ID}.scope/container"
    assert (made.scopes, made.own_cgroup, made.own_slice) == (IDS.instance, None, "")
    own = plan(systemd)
    assert own.own_slice == own.cgroup_parent == f"/system.slice/system-crisp_{IDS.instance}_{ID}.slice"
    assert (plan(host).scopes, plan(host).own_slice) == ("", "")


@pytest.mark.parametrize(
    ("options", "namespaces"),
    [
        ("pid: CONTAINER", ("network", "ipc", "uts")),
        ("pid: NODE", ("network", "ipc", "uts")),
        ("network: NODE pid: CONTAINER", ("ipc",)),
        ("network: NODE ipc: NODE pid: NODE", ()),
        ("ipc: NODE", ("network", "uts", "pid")),
    ],
)
def test_the_nodes_namespaces_are_not_made(host: HostFacts, options: str, namespaces: tuple[str, ...]) -> None:
    assert plan(host, OPTIONS % options).namespaces == namespaces


def test_the_bridges_pods_are_kept_to_their_rates_and_those_of_plugins_are_theirs(host: HostFacts) -> None:
    annotations = {INGRESS: "10M", EGRESS: "1k", "other": "x"}
    config = api.PodSandboxConfig(annotations=annotations)
    plans = {
        provider: plan_sandbox(config, IDS, Settings(), host, parent_exists=True, provider=provider)
        for provider in (BRIDGE, CNI)
    }
    assert plans[BRIDGE].bandwidth == Bandwidth(10_000_000, 1000) and plans[CNI].bandwidth is None
    assert decode(encode(plans[BRIDGE]), SandboxPlan) == plans[BRIDGE]
    assert plan(host).bandwidth is None


def test_a_host_network_pod_has_the_nodes_files_and_sysctls(host: HostFacts) -> None:
    made = plan(host, OPTIONS % "network: NODE")
    assert made.sysctls == {}
    assert made.files == {"hostname": "node-1\n", "hosts": None, "resolv.conf": None}


def test_a_host_network_pod_with_a_hostname_has_its_own_uts(host: HostFacts) -> None:
    made = plan(host, "hostname: 'other'" + OPTIONS % "network: NODE")
    assert "uts" in made.namespaces and made.hostname == "other"


def test_host_ipc_means_the_nodes_shm(host: HostFacts) -> None:
    made = plan(host, OPTIONS % "ipc: NODE")
    assert (made.shm, made.shm_size) == ("/dev/shm", None)


def test_the_request_to_the_monitor_carries_the_security_context(host: HostFacts) -> None:
    text = """
    hostname: "web" linux { sysctls { key: "kernel/sem" value: "1 2 3 4" } security_context {
      run_as_user { value: 7 } run_as_group { value: 8 } supplemental_groups: 9 seccomp {}
    } }"""
    made = plan(host, text)
    assert made.pause.seccomp == "runtime/default"
    cgroup = CgroupDirs(v1=[], v2="/sys/fs/cgroup/x")
    assert sandbox_request(made, cgroup, "/cache/p.bpf", 4) == {
        "namespaces": ["network", "ipc", "uts", "pid"],
        "hostname": "web",
        "sysctls": made.sysctls,
        "cgroup": cgroup,
        "user": {"uid": 7, "gid": 8, "additionalGids": [9]},
        "no_new_privileges": True,
        "apparmor": "",
        "selinux": "",
        "seccomp": "/cache/p.bpf",
        "seccomp_flags": 4,
        "oom_score_adj": -998,
    }
    assert made.sysctls["kernel.sem"] == "1 2 3 4"


def test_on_a_host_that_enforces_selinux_pause_and_the_pods_files_have_labels(host: HostFacts) -> None:
    text = "linux { security_context { selinux_options { level: 's0:c1' } } }"
    made = plan(msgspec.structs.replace(host, selinux=True), text)
    assert made.pause.selinux == "system_u:system_r:container_t:s0:c1"
    assert made.mount_label == "system_u:object_r:container_file_t:s0:c1"
    assert sandbox_request(made, CgroupDirs(v1=[], v2=None), None).get("selinux") == made.pause.selinux
    assert plan(host, text).mount_label == ""


def test_profiles_of_the_nodes_are_kept_with_pause(host: HostFacts) -> None:
    profile = Seccomp(defaultAction="SCMP_ACT_ALLOW", architectures=["SCMP_ARCH_X86_64"], flags=[], syscalls=[])
    text = "linux { security_context { seccomp { profile_type: Localhost localhost_ref: '/p' } } }"
    made = plan(host, text, confinement=Confinement(profile, "mine"))
    assert (made.pause.seccomp, made.pause.profile, made.pause.apparmor) == ("localhost", profile, "mine")
    assert sandbox_request(made, CgroupDirs(v1=[], v2=None), None)["apparmor"] == "mine"


def test_without_its_own_uts_no_hostname_is_set(host: HostFacts) -> None:
    made = plan(host, OPTIONS % "network: NODE")
    assert sandbox_request(made, CgroupDirs(v1=[], v2=None), None)["hostname"] == ""


def test_a_plan_survives_its_json(host: HostFacts) -> None:
    made = plan(host, "hostname: 'web' dns_config { servers: '1.1.1.1' } linux { security_context { seccomp {} } }")
    assert decode(encode(made), SandboxPlan) == made


def test_annotations_change_nothing(host: HostFacts) -> None:
    annotated = "annotations { key: 'org.systemd.property.X' value: 'y' }"
    assert plan(host, annotated) == plan(host)


USER = "userns_options { uids { host_id: 70000 length: 65536 } gids { host_id: 70000 length: 65536 } }"


def test_a_user_namespace_comes_before_all_others_and_with_its_mapping(host: HostFacts) -> None:
    made = plan(host, f"linux {{ security_context {{ namespace_options {{ pid: POD {USER} }} }} }}")
    assert made.namespaces == ("user", "network", "ipc", "uts", "pid")
    assert (made.ids, made.owner) == ({"host": 70000, "size": 65536}, 70000)
    request = sandbox_request(made, CgroupDirs(v1=[], v2=None), None)
    assert request["ids"] == made.ids and request["namespaces"][0] == "user"
    assert decode(encode(made), SandboxPlan) == made


@pytest.mark.parametrize("text", ["", "userns_options { mode: NODE }"])
def test_without_one_the_pods_root_is_the_hosts(host: HostFacts, text: str) -> None:
    made = plan(host, f"linux {{ security_context {{ namespace_options {{ {text} }} }} }}")
    assert (made.ids, made.owner) == (None, 0) and "user" not in made.namespaces
    assert "ids" not in sandbox_request(made, CgroupDirs(v1=[], v2=None), None)
