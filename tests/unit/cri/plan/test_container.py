"""The plan of a container."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import pytest
from google.protobuf import text_format

from cri.plan.container import (
    ContainerIds,
    ContainerPlan,
    check_mapped,
    plan_bounding,
    plan_container,
    plan_exec,
    plan_log_path,
    plan_pid_mode,
    rootfs,
    start_request,
)
from cri.plan.document import decode, encode
from cri.plan.facts import DeviceFacts, HostDevice, HostFacts
from cri.plan.sandbox import SandboxPlan
from cri.plan.security import Confinement
from cri.steps.container import plan_create_steps
from cri.steps.relabel import RelabelVolumes
from proto import api_pb2 as api
from runtime.cgroups.devices import ALL_DEVICES, DEFAULT_RULES
from runtime.errors import FailedPrecondition, InvalidArgument
from runtime.images.config import ImageConfig
from runtime.requests import CgroupDirs, ImageMount, ResolvedUser
from runtime.spec import IdMapping, Seccomp

ID = "c" * 64
USER = ResolvedUser(uid=0, gid=0, additionalGids=[], home="/root")
CONTEXT = "linux { security_context { %s } }"


class Planner:
    def __init__(self, pod: SandboxPlan, image: ImageConfig, host: HostFacts) -> None:
        self.pod, self.image, self.host = pod, image, host
        self.devices = DeviceFacts()

    def __call__(self, text: str = "", **ids: Any) -> ContainerPlan:
        config = text_format.Parse("metadata { name: 'app' }" + text, api.ContainerConfig())
        names = ContainerIds(ID, f"/lib/containers/{ID}", **ids)
        return plan_container(config, self.pod, self.image, USER, names, self.host, self.devices)


@pytest.fixture
def plan(pod: SandboxPlan, image: ImageConfig, host: HostFacts) -> Planner:
    return Planner(pod, image, host)


def kinds(made: ContainerPlan) -> dict[str, str | None]:
    return {entry["type"]: entry.get("path") for entry in made.spec["linux"]["namespaces"]}


def test_an_ordinary_container(plan: Planner) -> None:
    made = plan("log_path: 'app/0.log'")
    pod = plan.pod
    assert made.cgroup == made.spec["linux"]["cgroupsPath"] == f"/kubepods/pod1/{ID}"
    assert made.log_path == "/var/log/pods/x/app/0.log"
    assert made.spec["root"] == {"path": f"{pod.directory}/rootfs", "readonly": False}
    assert made.spec["hostname"] == "web"
    assert made.spec["process"]["args"] == ["/entry", "serve"]
    assert len(made.spec["process"]["capabilities"]["bounding"]) == 14
    assert made.spec["linux"]["maskedPaths"] == made.spec["linux"]["readonlyPaths"] == []
    assert made.spec["linux"]["sysctl"] == {}
    assert made.spec["linux"]["deviceRules"] == list(DEFAULT_RULES)
    assert made.resources.devices == DEFAULT_RULES
    assert made.resources.oom_score_adj == made.spec["process"]["oomScoreAdj"] == 0
    assert made.volumes == [{"destination": "/data", "source": f"/lib/containers/{ID}/volume-0"}]
    assert (made.seccomp, made.stop_signal, made.pid_mode, made.target) == (None, 3, "container", None)
    assert kinds(made) == {
        "network": f"{pod.directory}/ns/network",
        "ipc": f"{pod.directory}/ns/ipc",
        "uts": f"{pod.directory}/ns/uts",
        "pid": None,
        "mount": None,
        "cgroup": None,
    }


@pytest.mark.parametrize(
    ("pod_pid", "asked", "mode", "path"),
    [
        ("pod", "POD", "pod", "/ns/pid"),
        ("pod", "CONTAINER", "container", None),
        ("container", "POD", "container", None),
        ("container", "TARGET", "target", None),
        ("node", "POD", "node", "absent"),
        ("node", "NODE", "node", "absent"),
        ("node", "CONTAINER", "container", None),
    ],
)
def test_the_pid_namespace(plan: Planner, pod_pid: str, asked: str, mode: str, path: str | None) -> None:
    plan.pod = msgspec.structs.replace(plan.pod, pid=pod_pid)
    made = plan(CONTEXT % f"namespace_options {{ pid: {asked} target_id: 'ab' }}")
    assert made.pid_mode == mode == plan_pid_mode(api.NamespaceMode.Value(asked), plan.pod)
    expected = plan.pod.directory + path if path and path != "absent" else path
    assert kinds(made).get("pid", "absent") == expected
    assert made.target == ("ab" if mode == "target" else None)


def test_a_target_is_the_full_id(plan: Planner) -> None:
    made = plan(CONTEXT % "namespace_options { pid: TARGET target_id: 'ab' }", target="abcd")
    assert made.target == "abcd"


def test_the_nodes_namespaces_are_not_listed(plan: Planner) -> None:
    plan.pod = msgspec.structs.replace(plan.pod, namespaces=(), network="node", ipc="node")
    made = plan()
    assert set(kinds(made)) == {"pid", "mount", "cgroup"}
    assert made.spec["hostname"] == ""


def test_a_cgroup_namespace_hides_v2_from_the_unprivileged_only(plan: Planner, v1_host: HostFacts) -> None:
    assert "cgroup" in kinds(plan())
    assert "cgroup" not in kinds(plan(CONTEXT % "privileged: true"))
    plan.host = v1_host
    assert "cgroup" not in kinds(plan())


def test_a_privileged_container(plan: Planner) -> None:
    plan.devices = DeviceFacts({}, (HostDevice("/dev/kvm", "c", 10, 232),))
    made = plan(CONTEXT % "privileged: true seccomp {} masked_paths: '/proc/kcore' readonly_paths: '/proc/sys'")
    assert made.seccomp is None
    assert made.spec["process"]["capabilities"]["bounding"] == list(plan.host.bounding)
    assert made.spec["linux"]["maskedPaths"] == made.spec["linux"]["readonlyPaths"] == []
    assert made.spec["linux"]["devices"][-1]["path"] == "/dev/kvm"
    assert made.resources.devices == ALL_DEVICES


def test_no_node_is_made_in_a_dev_of_the_hosts(plan: Planner) -> None:
    made = plan("mounts { container_path: '/dev/' host_path: '/dev' }")
    assert made.spec["linux"]["devices"] == []
    assert made.missing_sources == ["/dev"]


def test_the_security_context_is_carried_over(plan: Planner) -> None:
    made = plan(
        CONTEXT % "seccomp {} readonly_rootfs: true no_new_privs: true masked_paths: '/proc/kcore' "
        "readonly_paths: '/proc/sys' capabilities { drop_capabilities: 'ALL' }"
    )
    assert made.seccomp == "runtime/default"
    assert made.spec["root"]["readonly"] and made.spec["process"]["noNewPrivileges"]
    assert made.spec["linux"]["maskedPaths"] == ["/proc/kcore"]
    assert made.spec["linux"]["readonlyPaths"] == ["/proc/sys"]
    assert made.spec["process"]["capabilities"]["effective"] == []


@pytest.mark.parametrize(
    ("log_path", "directory", "absolute"),
    [("a.log", "/l/", "/l/a.log"), ("", "/l", None), ("a.log", "", None)],
)
def test_a_log_needs_a_directory(log_path: str, directory: str, absolute: str | None) -> None:
    assert plan_log_path(log_path, directory) == absolute


def test_the_start_request_adds_what_is_known_at_the_start(plan: Planner) -> None:
    made = plan("tty: true stdin: true stdin_once: true")
    cgroup = CgroupDirs(v1=["/c/cpu"], v2=None)
    images = [ImageMount(destination="/i", lowerdirs=["/l/3"], sub_path="")]
    request = start_request(made, ["/l/2", "/l/1"], images, cgroup, "/p.bpf", "/c/memory.oom_control")
    assert request["rootfs"] == {
        "lowerdirs": ["/l/2", "/l/1"],
        "upperdir": f"/lib/containers/{ID}/upper",
        "workdir": f"/lib/containers/{ID}/work",
        "staging": f"{plan.pod.directory}/rootfs",
    }
    assert request["images"] == images
    assert (request["cgroup"], request["seccomp"], request["memory_events"]) == (
        cgroup,
        "/p.bpf",
        "/c/memory.oom_control",
    )
    assert (request["stdin"], request["stdin_once"], request["spec"]["process"]["terminal"]) == (True, True, True)


def test_an_exec_has_its_own_cgroup_below(plan: Planner) -> None:
    made = plan(CONTEXT % "seccomp {}")
    run = plan_exec(made, ["ls"], tty=False, n=4)
    assert run.cgroup == f"/kubepods/pod1/{ID}/exec-4"
    assert run.process["args"] == ["ls"]
    assert run.process["capabilities"] == made.spec["process"]["capabilities"]


def test_profiles_of_the_nodes_are_in_the_document(plan: Planner) -> None:
    profile = Seccomp(defaultAction="SCMP_ACT_ALLOW", architectures=["SCMP_ARCH_X86_64"], flags=[], syscalls=[])
    config = text_format.Parse(
        CONTEXT % "seccomp { profile_type: Localhost localhost_ref: '/p' }", api.ContainerConfig()
    )
    names = ContainerIds(ID, f"/lib/containers/{ID}")
    made = plan_container(
        config, plan.pod, plan.image, USER, names, plan.host, plan.devices, Confinement(profile, "mine")
    )
    assert made.seccomp == "localhost" and made.spec["linux"]["seccomp"] == profile
    assert made.spec["process"]["apparmorProfile"] == "mine"
    assert plan_exec(made, ["ls"], tty=False, n=1).process["apparmorProfile"] == "mine"
    assert decode(encode(made), ContainerPlan) == made
    assert start_request(made, [], [], CgroupDirs(v1=[], v2=None), "/p.bpf", None, 2)["seccomp_flags"] == 2


def test_on_a_host_that_enforces_selinux_processes_and_mounts_have_labels(plan: Planner) -> None:
    text = (
        "linux { security_context { selinux_options { level: 's0:c1,c2' } } } "
        "mounts { container_path: '/a' host_path: '/srv/a' selinux_relabel: true } "
        "mounts { container_path: '/b' host_path: '/srv/b' }"
    )
    accepted = plan(text)
    assert "selinuxLabel" not in accepted.spec["process"] and accepted.relabel == []
    plan.host = msgspec.structs.replace(plan.host, selinux=True)
    made = plan(text)
    file_label = "system_u:object_r:container_file_t:s0:c1,c2"
    assert made.spec["process"]["selinuxLabel"] == "system_u:system_r:container_t:s0:c1,c2"
    assert made.spec["linux"]["mountLabel"] == file_label and made.relabel == ["/srv/a"]
    assert rootfs(made, ["/l"]).get("label") == file_label
    options = {mount["destination"]: mount["options"] for mount in made.spec["mounts"]}
    assert options["/dev"][-1] == options["/dev/pts"][-1] == f"context={file_label}"
    assert not any("context" in option for option in options["/a"] + options["/proc"])
    assert plan_exec(made, ["ls"], tty=False, n=1).process.get("selinuxLabel") == made.spec["process"]["selinuxLabel"]
    assert RelabelVolumes(ID, ("/srv/a",), file_label) in plan_create_steps(made)


def test_the_bounding_set_is_known_before_the_plan(plan: Planner) -> None:
    context = api.LinuxContainerSecurityContext()
    assert plan_bounding(context, plan.host) == plan().spec["process"]["capabilities"]["bounding"]


def test_a_plan_survives_its_json(plan: Planner) -> None:
    plan.devices = DeviceFacts({"/dev/kvm": (HostDevice("/dev/kvm", "c", 10, 232),)})
    made = plan(
        """tty: true envs { key: "RAW" value: "\\377\\376" } log_path: "x"
        devices { host_path: "/dev/kvm" container_path: "/dev/kvm" permissions: "rw" }
        mounts { container_path: "/m" host_path: "/h" }
        linux { resources { memory_limit_in_bytes: 5 hugepage_limits { page_size: "2MB" limit: 1 }
          unified { key: "memory.high" value: "1" } } }"""
    )
    assert decode(encode(made), ContainerPlan) == made


def test_annotations_and_labels_change_nothing(plan: Planner) -> None:
    plain = plan()
    plan.image = replace(plan.image, labels={"io.kubernetes.cri.sandbox-id": "evil"})
    made = plan("annotations { key: 'org.systemd.property.X' value: 'y' } labels { key: 'a' value: 'b' }")
    assert made == plain
    assert made.spec["annotations"] == {
        "io.kubernetes.cri.container-type": "container",
        "io.kubernetes.cri.container-name": "app",
        "io.kubernetes.cri.sandbox-id": plan.pod.id,
    }


def test_no_command_is_a_bad_request(plan: Planner) -> None:
    plan.image = replace(plan.image, entrypoint=(), cmd=())
    with pytest.raises(InvalidArgument, match="no command specified"):
        plan()


def test_a_missing_device_fails_before_anything_is_made(plan: Planner) -> None:
    with pytest.raises(FailedPrecondition, match="/dev/none"):
        plan("devices { host_path: '/dev/none' container_path: '/dev/none' permissions: 'r' }")


IDS = {"host": 70000, "size": 1000}


def test_a_container_of_a_pod_with_a_user_namespace(plan: Planner) -> None:
    plan.pod = msgspec.structs.replace(plan.pod, ids=IDS, namespaces=("user", *plan.pod.namespaces))
    made = plan()
    assert kinds(made)["user"] == f"{plan.pod.directory}/ns/user"
    assert made.spec["linux"]["uidMappings"] == [{"containerID": 0, "hostID": 70000, "size": 1000}]
    assert made.spec["linux"]["gidMappings"] == made.spec["linux"]["uidMappings"]
    assert made.cgroup_owner is None
    assert decode(encode(made), ContainerPlan) == made


def test_its_cgroup_is_its_roots_to_divide_where_it_may_be_written(plan: Planner, v1_host: HostFacts) -> None:
    plan.pod = msgspec.structs.replace(plan.pod, ids=IDS)
    made = plan(CONTEXT % "privileged: true")
    assert made.cgroup_owner == 70000 and "cgroup" in kinds(made)
    plan.host = v1_host
    assert plan(CONTEXT % "privileged: true").cgroup_owner is None
    plan.pod = msgspec.structs.replace(plan.pod, ids=None)
    assert plan(CONTEXT % "privileged: true").cgroup_owner is None


@pytest.mark.parametrize("field", ["uid", "gid", "additionalGids"])
def test_whom_the_user_namespace_has_not_is_refused(field: str) -> None:
    user: Any = {**USER, field: [5, 1000] if field == "additionalGids" else 1000}
    with pytest.raises(FailedPrecondition, match="1000 is not among the 1000 ids of the pod's user namespace"):
        check_mapped(user, IdMapping(host=70000, size=1000))
    check_mapped(user, IdMapping(host=70000, size=1001))
