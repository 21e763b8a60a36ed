"""CreateContainer requests, row by row."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from google.protobuf import text_format

from cri.plan.facts import HostFacts
from cri.plan.sandbox import SandboxPlan
from cri.state.records import ContainerState, SandboxState
from cri.validate.container import PodFacts, validate_create_container
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, Fault, InvalidArgument, NotFound
from tests.fields import with_a_nul

VALID = """
pod_sandbox_id: "s"
config {
  metadata { name: "app" }
  image { image: "registry/app:1" }
  command: "/bin/app"
  args: ""
  working_dir: "/srv"
  envs { key: "A" value: "\\377" }
  mounts { container_path: "/data" host_path: "/srv/data" readonly: true recursive_read_only: true }
  mounts { container_path: "/proc/meminfo" host_path: "/var/lib/lxcfs/proc/meminfo" mount_options: "nosuid" }
  devices { container_path: "/dev/x" host_path: "/dev/null" permissions: "rw" }
  log_path: "app/0.log"
  stop_signal: SIGNAL_SIGRTMINPLUS3
  linux {
    resources { cpu_shares: 512 cpu_period: 100000 cpu_quota: 50000 cpuset_cpus: "0-1,3"
                memory_limit_in_bytes: 104857600 }
    security_context {
      run_as_user { value: 1000 }
      capabilities { add_capabilities: "NET_ADMIN" drop_capabilities: "cap_chown" }
      masked_paths: "/proc/kcore"
      readonly_paths: "/proc/sys"
    }
  }
}
"""

RUNNING, EXITED = "c" + "1" * 63, "c" + "2" * 63

CONFIG = "config { %s }"
MOUNT = "config { mounts { host_path: '/h' container_path: '/c' %s } }"
LINUX = "config { linux { resources { %s } } }"
CONTEXT = "config { linux { security_context { %s } } }"
OPTIONS = "config { linux { security_context { namespace_options { %s } } } }"
LOCALHOST = "profile_type: Localhost"

PASSING = [
    CONFIG % 'image { runtime_handler: "crisp" }',
    CONFIG % 'envs { key: "HOME" value: "/root" } envs { key: "HOME" value: "/r" }',
    MOUNT % "propagation: PROPAGATION_BIDIRECTIONAL selinux_relabel: true",
    MOUNT % "mount_options: 'noexec' mount_options: 'nodev'",
    CONTEXT % "capabilities { add_capabilities: 'ALL' drop_capabilities: 'sys_admin' }",
    CONTEXT % "capabilities { add_capabilities: 'SYS_RESOURCE' drop_capabilities: 'SYS_RESOURCE' }",
    CONTEXT % "apparmor { profile_type: RuntimeDefault }",
    CONTEXT % "apparmor_profile: 'runtime/default' seccomp_profile_path: 'unconfined'",
    CONTEXT % "seccomp_profile_path: 'docker/default'",
    CONTEXT % "seccomp_profile_path: 'localhost//a'",
    CONTEXT % f"seccomp {{ {LOCALHOST} localhost_ref: '/a' }}",
    OPTIONS % f"pid: TARGET target_id: '{RUNNING}'",
    OPTIONS % "pid: TARGET target_id: 'c1'",
    LINUX % "memory_swap_limit_in_bytes: -1 oom_score_adj: -997",
    LINUX % "hugepage_limits { page_size: '2MB' limit: 4194304 } hugepage_limits { page_size: '1GB' }",
    LINUX % "unified { key: 'memory.high' value: 'max' }",
]

REFUSED: list[tuple[str, str, type[Fault], str]] = [
    ("20", CONFIG % "metadata { name: '' }", InvalidArgument, "config.metadata.name: is empty"),
    ("22", CONFIG % "metadata { name: 'a/b' }", InvalidArgument, "slash"),
    ("23", CONFIG % "image { runtime_handler: 'kata' }", NotFound, "no such runtime handler"),
    ("image", CONFIG % "image { image: '' }", InvalidArgument, "config.image.image: is empty"),
    ("image", CONFIG % "image { image: 'a\\nb' }", InvalidArgument, "control character"),
    ("28", CONTEXT % f"seccomp {{ {LOCALHOST} }}", InvalidArgument, "is empty"),
    ("28", CONTEXT % f"seccomp {{ {LOCALHOST} localhost_ref: 'a' }}", InvalidArgument, "absolute path"),
    ("28", CONTEXT % f"seccomp {{ {LOCALHOST} localhost_ref: '/a/../b' }}", InvalidArgument, "'..'"),
    ("28", CONTEXT % "seccomp_profile_path: 'localhost/'", InvalidArgument, "is empty"),
    ("28", CONTEXT % "seccomp_profile_path: 'localhost/a'", InvalidArgument, "absolute path"),
    ("28", CONTEXT % "seccomp_profile_path: 'mine'", InvalidArgument, "must be unconfined"),
    ("28", CONTEXT % "seccomp { localhost_ref: '/a' }", InvalidArgument, "profile_type Localhost only"),
    ("apparmor", CONTEXT % f"apparmor {{ {LOCALHOST} localhost_ref: 'p' }}", FailedPrecondition, "AppArmor"),
    ("apparmor", CONTEXT % f"apparmor {{ {LOCALHOST} }}", InvalidArgument, "names no profile"),
    ("apparmor", CONTEXT % "apparmor_profile: 'localhost/p'", FailedPrecondition, "AppArmor"),
    ("apparmor", CONTEXT % "apparmor_profile: 'localhost/'", InvalidArgument, "names no profile"),
    ("apparmor", CONTEXT % "apparmor_profile: 'p'", InvalidArgument, "must be unconfined"),
    ("selinux", CONTEXT % "selinux_options { type: 'a b' }", InvalidArgument, "blank"),
    ("31", MOUNT % "recursive_read_only: true", InvalidArgument, "needs readonly"),
    (
        "31",
        MOUNT % "recursive_read_only: true readonly: true propagation: PROPAGATION_HOST_TO_CONTAINER",
        InvalidArgument,
        "needs private propagation",
    ),
    ("33", CONFIG % "mounts { host_path: '/h' }", InvalidArgument, "container_path: is empty"),
    ("33", CONFIG % "mounts { host_path: '/h' container_path: 'c' }", InvalidArgument, "absolute path"),
    ("33", CONFIG % "mounts { host_path: '/h' container_path: '/a/../b' }", InvalidArgument, "'..'"),
    ("33", CONFIG % "mounts { host_path: '/h' container_path: '//.' }", InvalidArgument, "must not be the root"),
    ("33", CONFIG % "mounts { host_path: '/h' container_path: '/proc' }", InvalidArgument, "in /proc"),
    ("33", CONFIG % "mounts { host_path: '/h' container_path: '//proc//sys' }", InvalidArgument, "in /proc"),
    ("33", CONFIG % "mounts { host_path: '/h' container_path: '/proc/./1' }", InvalidArgument, "in /proc"),
    ("mount", CONFIG % "mounts { container_path: '/c' }", InvalidArgument, "mounts[2].host_path: is empty"),
    ("mount", CONFIG % "mounts { container_path: '/c' host_path: 'h' }", InvalidArgument, "absolute path"),
    ("mount", MOUNT % "propagation: 9", InvalidArgument, "no such mode"),
    ("mount", MOUNT % "mount_options: 'suid'", InvalidArgument, "must be of nodev, noexec, nosuid"),
    ("mount", MOUNT % "image_sub_path: 'a'", InvalidArgument, "image_sub_path"),
    ("mount", MOUNT % "image { image: 'a' }", InvalidArgument, "must be empty with an image"),
    ("mount", CONFIG % "mounts { container_path: '/c' image {} }", InvalidArgument, "names no image"),
    ("mount", CONFIG % "mounts { container_path: '/c' image { image: 'a' } }", InvalidArgument, "must be set with"),
    ("mount", MOUNT % "uidMappings { length: 1 }", InvalidArgument, "is for a pod with a user namespace"),
    ("device", CONFIG % "devices { container_path: '/dev/x' host_path: '/dev/x' }", InvalidArgument, "some of r, w"),
    (
        "device",
        CONFIG % "devices { container_path: '/dev/x' host_path: '/dev/x' permissions: 'rx' }",
        InvalidArgument,
        "permissions",
    ),
    (
        "device",
        CONFIG % "devices { container_path: '/proc/x' host_path: '/dev/x' permissions: 'r' }",
        InvalidArgument,
        "in /proc",
    ),
    ("device", CONFIG % "devices { container_path: 'x' host_path: '/dev/x' }", InvalidArgument, "absolute path"),
    ("cdi", CONFIG % "CDI_devices { name: 'v/c=d' }", FailedPrecondition, "CDI devices"),
    ("34", CONFIG % "log_path: '../x'", InvalidArgument, "'..'"),
    ("34", CONFIG % "log_path: '/x'", InvalidArgument, "relative path"),
    ("34", CONFIG % "log_path: 'x/'", InvalidArgument, "names no file"),
    ("36", CONFIG % "envs { value: 'x' }", InvalidArgument, "is empty or has an equals sign"),
    ("36", CONFIG % "envs { key: 'A=B' }", InvalidArgument, "equals sign"),
    ("36", CONFIG % "envs { key: 'A\\0' }", InvalidArgument, "NUL"),
    ("36", CONFIG % "envs { key: 'A' value: 'x\\0' }", InvalidArgument, "has a NUL"),
    ("36", CONFIG % "envs { key: 'HOME' value: '/x\\nroot::0' }", InvalidArgument, "of HOME"),
    ("words", CONFIG % "command: 'a\\0'", InvalidArgument, "config.command: has a NUL"),
    ("words", CONFIG % "args: 'a\\0'", InvalidArgument, "config.args: has a NUL"),
    ("cwd", CONFIG % "working_dir: 'srv'", InvalidArgument, "absolute path"),
    ("cwd", CONFIG % "working_dir: '/proc//self/fd/7'", InvalidArgument, "open file of a process"),
    ("cwd", CONFIG % "working_dir: '/%s'" % ("d" * 4096), InvalidArgument, "too long"),
    ("signal", CONFIG % "stop_signal: 99", InvalidArgument, "no such signal"),
    ("37", CONTEXT % "run_as_user { value: -1 }", InvalidArgument, "run_as_user"),
    ("37", CONTEXT % "run_as_user { value: 2147483648 }", InvalidArgument, "run_as_user"),
    ("37", CONTEXT % "run_as_username: 'app'", InvalidArgument, "both given"),
    ("37", CONTEXT % "supplemental_groups: -1", InvalidArgument, "supplemental_groups"),
    ("38", LINUX % "memory_limit_in_bytes: -1", InvalidArgument, "memory_limit_in_bytes"),
    ("38", LINUX % "cpu_shares: -2", InvalidArgument, "cpu_shares"),
    ("38", LINUX % "cpuset_cpus: '0-'", InvalidArgument, "is no list such as"),
    ("38", LINUX % "cpuset_cpus: '3-1'", InvalidArgument, "reversed"),
    ("38", LINUX % "cpuset_mems: '0,٣'", InvalidArgument, "is no list such as"),
    ("resources", LINUX % "cpuset_cpus: '0-4'", FailedPrecondition, "has 4, the host has 0-3"),
    ("resources", LINUX % "cpu_period: 10", InvalidArgument, "cpu_period"),
    ("resources", LINUX % "cpu_quota: -2", InvalidArgument, "cpu_quota"),
    ("resources", LINUX % "oom_score_adj: 1001", InvalidArgument, "oom_score_adj"),
    ("resources", LINUX % "memory_swap_limit_in_bytes: 5", InvalidArgument, "includes memory"),
    (
        "resources",
        LINUX % "hugepage_limits { page_size: '1GB' limit: 5 }",
        FailedPrecondition,
        "cannot limit huge pages of 1GB",
    ),
    ("resources", LINUX % "hugepage_limits { page_size: '2 MB' }", InvalidArgument, "is no page size"),
    (
        "resources",
        LINUX % "hugepage_limits { page_size: '2MB' } hugepage_limits { page_size: '2MB' }",
        InvalidArgument,
        "given twice",
    ),
    ("resources", LINUX % "unified { key: 'cgroup.procs' value: '1' }", InvalidArgument, "cgroup v2 controller"),
    ("resources", LINUX % "unified { key: '../memory.max' value: '1' }", InvalidArgument, "cgroup v2 controller"),
    ("resources", LINUX % "unified { key: 'memory.max' value: '' }", InvalidArgument, "is empty"),
    ("resources", LINUX % "unified { key: 'rdma.max' value: 'x' }", FailedPrecondition, "controller rdma"),
    ("39", CONTEXT % "capabilities { add_capabilities: 'FLY' }", InvalidArgument, "no such capability: 'FLY'"),
    ("39", CONTEXT % "capabilities { drop_capabilities: 'CAP_CAP_CHOWN' }", InvalidArgument, "no such capability"),
    (
        "capability",
        CONTEXT % "capabilities { add_capabilities: 'SYS_RESOURCE' }",
        FailedPrecondition,
        "CAP_SYS_RESOURCE: crisp itself does not have it",
    ),
    ("capability", CONTEXT % "capabilities { add_ambient_capabilities: 'CHOWN' }", FailedPrecondition, "ambient"),
    ("40", CONTEXT % "privileged: true", InvalidArgument, "pod that is not privileged"),
    ("41", OPTIONS % "pid: TARGET", InvalidArgument, "is empty, but pid is TARGET"),
    ("41", OPTIONS % "pid: TARGET target_id: 'foreign'", InvalidArgument, "names no container of this pod"),
    ("41", OPTIONS % "pid: TARGET target_id: 'c'", InvalidArgument, "is ambiguous"),
    ("41", OPTIONS % f"pid: TARGET target_id: '{EXITED}'", FailedPrecondition, "is exited, not running"),
    ("41", OPTIONS % "target_id: 'c1'", InvalidArgument, "pid TARGET only"),
    ("modes", OPTIONS % "network: NODE", InvalidArgument, "network: is NODE, but the pod has POD"),
    ("modes", OPTIONS % "ipc: NODE", InvalidArgument, "ipc: is NODE"),
    ("modes", OPTIONS % "pid: NODE", InvalidArgument, "pid: is NODE, but the pod has CONTAINER"),
    ("modes", OPTIONS % "ipc: CONTAINER", InvalidArgument, "one of POD, NODE"),
    ("paths", CONTEXT % "masked_paths: 'proc'", InvalidArgument, "masked_paths"),
    ("paths", CONTEXT % "readonly_paths: '/a/../b'", InvalidArgument, "readonly_paths"),
    ("windows", CONFIG % "windows {}", FailedPrecondition, "Windows containers"),
    ("labels", CONFIG % ("annotations { key: 'k' value: '%s' }" % ("v" * (1 << 20))), InvalidArgument, "annotations"),
]


@pytest.fixture
def facts(pod: SandboxPlan) -> PodFacts:
    containers = {RUNNING: ContainerState.RUNNING, EXITED: ContainerState.EXITED}
    return PodFacts(pod, SandboxState.READY, containers)


def make_request(change: str = "") -> api.CreateContainerRequest:
    request = text_format.Parse(VALID, api.CreateContainerRequest())
    return text_format.Merge(change, request)


def test_an_ordinary_request_passes(facts: PodFacts, host: HostFacts) -> None:
    validate_create_container(make_request(), facts, host)


@pytest.mark.parametrize("change", PASSING)
def test_a_good_request_passes(facts: PodFacts, host: HostFacts, change: str) -> None:
    validate_create_container(make_request(change), facts, host)


@pytest.mark.parametrize(("row", "change", "fault", "words"), REFUSED)
def test_a_bad_request_is_refused(
    facts: PodFacts, host: HostFacts, row: str, change: str, fault: type[Fault], words: str
) -> None:
    with pytest.raises(Fault) as raised:
        validate_create_container(make_request(change), facts, host)
    assert type(raised.value) is fault
    assert words in str(raised.value)


def test_a_nul_is_refused_wherever_a_text_is_more_than_stored(facts: PodFacts, host: HostFacts) -> None:
    accepted = set()
    stored = ("labels", "annotations", "image_ref", "user_specified_image", "pod_sandbox_id", "sandbox_config")
    for field, request in with_a_nul(make_request(), *stored):
        with contextlib.suppress(Fault):
            validate_create_container(request, facts, host)
            accepted.add(field)
    assert accepted == set()


@pytest.mark.parametrize("name", ["1_0", "+1", "１", " 1", "a:b", "4294967296", "-1", "a\nb"])
def test_a_user_that_is_almost_a_number_is_refused(facts: PodFacts, host: HostFacts, name: str) -> None:
    request = make_request()
    context = request.config.linux.security_context
    context.ClearField("run_as_user")
    context.run_as_username = name
    with pytest.raises(InvalidArgument, match="run_as_username"):
        validate_create_container(request, facts, host)


@pytest.mark.parametrize("missing", ["config", "metadata"])
def test_a_missing_message_is_refused(facts: PodFacts, host: HostFacts, missing: str) -> None:
    request = make_request()
    if missing == "config":
        request.ClearField("config")
    else:
        request.config.ClearField("metadata")
    with pytest.raises(InvalidArgument, match=f"{missing}: is missing"):
        validate_create_container(request, facts, host)


def test_a_group_needs_a_user(facts: PodFacts, host: HostFacts) -> None:
    request = make_request(CONTEXT % "run_as_group { value: 1 }")
    request.config.linux.security_context.ClearField("run_as_user")
    with pytest.raises(InvalidArgument, match="run_as_group: needs"):
        validate_create_container(request, facts, host)


@pytest.mark.parametrize("state", [SandboxState.NOTREADY, SandboxState.UNKNOWN])
def test_row_26_a_stopped_pod_takes_no_container(pod: SandboxPlan, host: HostFacts, state: SandboxState) -> None:
    with pytest.raises(FailedPrecondition, match="not ready"):
        validate_create_container(make_request(), PodFacts(pod, state), host)


def test_a_bad_request_to_a_stopped_pod_is_a_bad_request(pod: SandboxPlan, host: HostFacts) -> None:
    with pytest.raises(InvalidArgument):
        validate_create_container(make_request(CONFIG % "log_path: '../x'"), PodFacts(pod, SandboxState.NOTREADY), host)


def test_a_privileged_container_of_a_privileged_pod_has_no_profiles(pod: SandboxPlan, host: HostFacts) -> None:
    profiles = f"seccomp {{ {LOCALHOST} localhost_ref: '/p' }} apparmor {{ {LOCALHOST} localhost_ref: 'p' }}"
    request = make_request(CONTEXT % f"privileged: true {profiles}")
    privileged = PodFacts(msgspec.structs.replace(pod, privileged=True), SandboxState.READY)
    validate_create_container(request, privileged, host)


@pytest.mark.parametrize(
    ("lacking", "change", "words"),
    [
        ({"seccomp": False}, CONTEXT % "seccomp {}", "no seccomp filters"),
        ({"apparmor": False}, CONTEXT % "apparmor_profile: 'localhost/p'", "no AppArmor"),
        ({"recursive_read_only": False}, "", "recursive read-only"),
    ],
)
def test_what_the_host_cannot_give_is_refused(
    facts: PodFacts, host: HostFacts, lacking: dict[str, bool], change: str, words: str
) -> None:
    with pytest.raises(FailedPrecondition, match=words):
        validate_create_container(make_request(change), facts, msgspec.structs.replace(host, **lacking))


def test_a_swap_limit_needs_a_memory_limit(facts: PodFacts, host: HostFacts) -> None:
    request = make_request(LINUX % "memory_swap_limit_in_bytes: 5")
    request.config.linux.resources.memory_limit_in_bytes = 0
    with pytest.raises(InvalidArgument, match="needs memory_limit_in_bytes"):
        validate_create_container(request, facts, host)
