"""RunPodSandbox requests, row by row."""

from __future__ import annotations

import contextlib

import msgspec
import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st

from cri.plan.facts import HostFacts
from cri.validate.sandbox import check_hostname, validate_run_pod_sandbox
from proto import api_pb2 as api
from runtime.errors import FailedPrecondition, Fault, InvalidArgument, NotFound
from tests.fields import with_a_nul

VALID = """
config {
  metadata { name: "web_1" namespace: "default" uid: "u-1" }
  hostname: "web.default"
  log_directory: "/var/log/pods/x"
  dns_config { servers: "10.0.0.10" searches: "svc.local" options: "ndots:5" }
  labels { key: "a" value: "line\\nbreak" }
  linux {
    cgroup_parent: "/kubepods/pod1"
    sysctls { key: "net.core.somaxconn" value: "1024" }
    sysctls { key: "kernel/shm_rmid_forced" value: "1" }
    security_context {
      namespace_options { pid: CONTAINER }
      run_as_user { value: 1000 }
      run_as_group { value: 1000 }
      supplemental_groups: 2000
      seccomp { profile_type: RuntimeDefault }
    }
    resources { cpu_shares: 2 memory_limit_in_bytes: 1048576 }
  }
}
"""

META = "config { metadata { %s } }"
LINUX = "config { linux { %s } }"
CONTEXT = "config { linux { security_context { %s } } }"
NAMESPACES = "config { linux { security_context { namespace_options { %s } } } }"
ANNOTATION = 'config { annotations { key: "kubernetes.io/%s-bandwidth" value: "%s" } }'
PORT_AT = "config { port_mappings { container_port: 80 host_port: 80 host_ip: '%s' } }"
MAPPING = "{ container_id: 0 host_id: 100000 length: 65536 }"

PASSING = [
    'runtime_handler: "crisp"',
    'config { hostname: "crictl_host" }',
    'config { hostname: "%s" }' % ("h" * 64),
    "config { port_mappings { container_port: 80 } }",
    "config { port_mappings { container_port: 80 } port_mappings { container_port: 80 protocol: UDP } }",
    NAMESPACES % "pid: NODE ipc: POD",
    NAMESPACES % "userns_options { mode: NODE }",
    NAMESPACES % f"userns_options {{ uids {MAPPING} gids {MAPPING} }}",
    NAMESPACES % "network: NODE" + "config { linux { sysctls { key: 'net.core.somaxconn' value: '' } } }",
    CONTEXT % 'apparmor {} selinux_options { type: "container_t" level: "s0:c1,c2" }',
    CONTEXT % "seccomp { profile_type: Localhost localhost_ref: '/p.json' }",
    CONTEXT % "privileged: true seccomp { profile_type: Localhost localhost_ref: '/p.json' }",
    LINUX % 'cgroup_parent: "kubepods/pod1"',
    LINUX % 'cgroup_parent: "/kubelet.slice/pod1"',
    LINUX % "overhead { cpu_quota: -1 }",
    ANNOTATION % ("ingress", "10M") + ANNOTATION % ("egress", "1.5Gi"),
    ANNOTATION % ("any", "much"),
]

# (row of the table of bad inputs or the field, the change, the fault, words of its message)
REFUSED: list[tuple[str, str, type[Fault], str]] = [
    ("20", META % 'name: ""', InvalidArgument, "config.metadata.name: is empty"),
    ("20", META % 'namespace: ""', InvalidArgument, "config.metadata.namespace: is empty"),
    ("20", META % 'uid: ""', InvalidArgument, "config.metadata.uid: is empty"),
    ("22", META % 'name: "a/b"', InvalidArgument, "slash"),
    ("22", META % 'name: "a\\0"', InvalidArgument, "control character"),
    ("22", META % 'uid: "../.."', InvalidArgument, "slash"),
    ("22", META % 'uid: ".."', InvalidArgument, "slash or be a dot"),
    ("22", META % 'namespace: "a\\nb"', InvalidArgument, "control character"),
    ("22", META % f'name: "{"n" * 254}"', InvalidArgument, "longer than 253"),
    ("23", 'runtime_handler: "runc"', NotFound, "no such runtime handler: 'runc'"),
    ("28", CONTEXT % "seccomp { profile_type: Localhost }", InvalidArgument, "localhost_ref: is empty"),
    (
        "28",
        CONTEXT % "seccomp { profile_type: Localhost localhost_ref: 'p.json' }",
        InvalidArgument,
        "must be an absolute path",
    ),
    ("29", LINUX % 'sysctls { key: "vm.swappiness" value: "1" }', InvalidArgument, "does not belong to a namespace"),
    ("29", LINUX % 'sysctls { key: "kernel.core_pattern" value: "x" }', InvalidArgument, "does not belong"),
    (
        "sysctl",
        LINUX % 'sysctls { key: "net.ipv4.ip_forward" value: "1+kernel.core_pattern=x\\n" }',
        InvalidArgument,
        "one line",
    ),
    (
        "sysctl",
        NAMESPACES % "network: NODE" + "config{linux{sysctls{key:'net.core.somaxconn' value:'1'}}}",
        InvalidArgument,
        "network namespace, which is the node's",
    ),
    ("sysctl", NAMESPACES % "ipc: NODE", InvalidArgument, "ipc namespace, which is the node's"),
    ("35", 'config { hostname: "%s" }' % ("h" * 65), InvalidArgument, "longer than 64"),
    ("35", 'config { hostname: "a\\nb" }', InvalidArgument, "is no hostname"),
    ("35", 'config { hostname: "-a" }', InvalidArgument, "is no hostname"),
    ("35", 'config { dns_config { servers: "1.1.1.1\\nnameserver 6.6.6.6" } }', InvalidArgument, "control character"),
    ("35", 'config { dns_config { searches: "a b" } }', InvalidArgument, "has a blank"),
    ("35", 'config { dns_config { options: "" } }', InvalidArgument, "is empty"),
    ("dns", "config { dns_config {%s} }" % ("servers: '1.1.1.1'" * 64), InvalidArgument, "more than 64"),
    ("37", CONTEXT % "run_as_user { value: -1 }", InvalidArgument, "between 0 and 2147483647, not -1"),
    ("37", CONTEXT % "run_as_user { value: 2147483648 }", InvalidArgument, "not 2147483648"),
    ("37", CONTEXT % "run_as_group { value: -1 }", InvalidArgument, "run_as_group"),
    ("37", CONTEXT % "supplemental_groups: 4294967296", InvalidArgument, "supplemental_groups"),
    ("policy", CONTEXT % "supplemental_groups_policy: 7", InvalidArgument, "one of Merge, Strict"),
    ("38", LINUX % "resources { cpu_shares: -1 }", InvalidArgument, "config.linux.resources.cpu_shares"),
    ("38", LINUX % "overhead { memory_limit_in_bytes: -5 }", InvalidArgument, "overhead"),
    ("41", NAMESPACES % "userns_options { mode: CONTAINER }", InvalidArgument, "one of POD, NODE"),
    ("41", NAMESPACES % "userns_options { mode: POD }", InvalidArgument, "one mapping, not 0"),
    (
        "41",
        NAMESPACES % f"userns_options {{ mode: NODE uids {MAPPING} }}",
        InvalidArgument,
        "has mappings, but mode NODE",
    ),
    (
        "41",
        NAMESPACES % f"userns_options {{ uids {MAPPING} uids {MAPPING} gids {MAPPING} }}",
        InvalidArgument,
        "one mapping, not 2",
    ),
    (
        "41",
        NAMESPACES % f"userns_options {{ uids {MAPPING} gids {{ host_id: 1 length: 65536 }} }}",
        InvalidArgument,
        "alike",
    ),
    (
        "41",
        NAMESPACES % f"userns_options {{ uids {{ container_id: 5 length: 9 }} gids {MAPPING} }}",
        InvalidArgument,
        "id 0",
    ),
    (
        "userns",
        "config { linux { security_context { run_as_user { value: 65536 } namespace_options { userns_options "
        f"{{ uids {MAPPING} gids {MAPPING} }} }} }} }} }}",
        InvalidArgument,
        "run_as_user: must be between 0 and 65535, not 65536",
    ),
    ("42", "config { port_mappings { container_port: 0 } }", InvalidArgument, "container_port: must be between 1"),
    ("42", "config { port_mappings { container_port: 70000 } }", InvalidArgument, "70000"),
    ("42", "config { port_mappings { container_port: 80 host_port: -1 } }", InvalidArgument, "host_port"),
    ("42", "config { port_mappings { container_port: 80 host_port: 70000 } }", InvalidArgument, "70000"),
    (
        "42",
        "config { port_mappings { container_port: 80 host_port: 8080 } "
        "port_mappings { container_port: 81 host_port: 8080 } }",
        InvalidArgument,
        "given twice: 8080",
    ),
    ("bandwidth", ANNOTATION % ("ingress", "10MB"), InvalidArgument, "ingress-bandwidth: is no bandwidth"),
    ("bandwidth", ANNOTATION % ("egress", ""), InvalidArgument, "egress-bandwidth: is no bandwidth"),
    ("bandwidth", ANNOTATION % ("egress", "999"), InvalidArgument, "must be between 1k and 1P, not '999'"),
    ("bandwidth", ANNOTATION % ("ingress", "1001T"), InvalidArgument, "must be between 1k and 1P"),
    ("port", "config { port_mappings { container_port: 80 protocol: 9 } }", InvalidArgument, "no such protocol"),
    ("port", "config { port_mappings { container_port: 80 host_ip: 'x' } }", InvalidArgument, "is no address: 'x'"),
    ("port", PORT_AT % "fe80::1%eth0", InvalidArgument, "is no address that a host port can have: 'fe80::1%eth0'"),
    ("port", PORT_AT % "::ffff:192.0.2.7", InvalidArgument, "is no address that a host port can have"),
    ("modes", NAMESPACES % "network: CONTAINER", InvalidArgument, "one of POD, NODE"),
    ("modes", NAMESPACES % "ipc: TARGET", InvalidArgument, "one of POD, NODE"),
    ("modes", NAMESPACES % "pid: TARGET", InvalidArgument, "one of POD, NODE, CONTAINER"),
    ("modes", NAMESPACES % "pid: 9", InvalidArgument, "not 9"),
    ("modes", NAMESPACES % 'target_id: "x"', InvalidArgument, "target_id"),
    ("log", 'config { log_directory: "logs" }', InvalidArgument, "absolute path"),
    ("log", 'config { log_directory: "/var/../etc" }', InvalidArgument, "'..'"),
    ("cgroup", LINUX % 'cgroup_parent: "/a/../b"', InvalidArgument, "'..'"),
    ("cgroup", LINUX % f'cgroup_parent: "{"/a" * 65}"', InvalidArgument, "65 levels"),
    ("cgroup", LINUX % 'cgroup_parent: "//"', InvalidArgument, "root cgroup"),
    ("cgroup", LINUX % 'cgroup_parent: "kubepods-pod1.slice"', FailedPrecondition, 'driver = "systemd"'),
    ("labels", "config { labels { key: 'k' value: '%s' } }" % ("v" * (1 << 20)), InvalidArgument, "more than 1048576"),
    ("annotations", "config { annotations { key: '%s' } }" % ("v" * (1 << 21)), InvalidArgument, "config.annotations"),
    ("windows", "config { windows {} }", FailedPrecondition, "Windows pods"),
    ("seccomp", CONTEXT % "seccomp { profile_type: 9 }", InvalidArgument, "one of RuntimeDefault"),
]


def make_request(change: str) -> api.RunPodSandboxRequest:
    request = text_format.Parse(VALID, api.RunPodSandboxRequest())
    return text_format.Merge(change, request)


def test_an_ordinary_request_passes(host: HostFacts) -> None:
    validate_run_pod_sandbox(make_request(""), host)


def test_the_smallest_request_passes(host: HostFacts) -> None:
    request = api.RunPodSandboxRequest()
    text_format.Parse(META % "name: 'n' namespace: 'ns' uid: 'u'", request)
    validate_run_pod_sandbox(request, host)


@pytest.mark.parametrize("change", PASSING)
def test_a_good_request_passes(host: HostFacts, change: str) -> None:
    request = make_request(change)
    if "network: NODE" in change:
        del request.config.linux.sysctls["net.core.somaxconn"]
    validate_run_pod_sandbox(request, host)


@pytest.mark.parametrize(("row", "change", "fault", "words"), REFUSED)
def test_a_bad_request_is_refused(host: HostFacts, row: str, change: str, fault: type[Fault], words: str) -> None:
    with pytest.raises(Fault) as raised:
        validate_run_pod_sandbox(make_request(change), host)
    assert type(raised.value) is fault
    assert words in str(raised.value)


@pytest.mark.parametrize(
    ("parent", "fault", "words"),
    [
        ("", None, ""),
        ("kubepods-burstable-pod1_2.slice", None, ""),
        ("/kubepods.slice/kubepods-pod1.slice", None, ""),
        ("/kubepods/pod1", FailedPrecondition, "cgroup_parent: is no slice such as"),
        ("/other.slice/kubepods-pod1.slice", InvalidArgument, "which is /kubepods.slice/kubepods-pod1.slice"),
        ("-.slice", InvalidArgument, "no name of a slice"),
        ("a b.slice", InvalidArgument, "no name of a slice"),
    ],
)
def test_the_systemd_driver_takes_slices_alone(
    host: HostFacts, parent: str, fault: type[Fault] | None, words: str
) -> None:
    systemd, request = msgspec.structs.replace(host, systemd=True), make_request("")
    request.config.linux.cgroup_parent = parent
    with contextlib.nullcontext() if fault is None else pytest.raises(fault, match=words):
        validate_run_pod_sandbox(request, systemd)


def test_a_nul_is_refused_wherever_a_text_is_more_than_stored(host: HostFacts) -> None:
    accepted, valid = set(), make_request("")
    valid.config.linux.security_context.ClearField("seccomp")  # beside it the superseded path is not looked at
    for field, request in with_a_nul(valid, "labels", "annotations"):
        with contextlib.suppress(Fault):
            validate_run_pod_sandbox(request, host)
            accepted.add(field)
    assert accepted == set()


@pytest.mark.parametrize(
    ("direction", "value", "fault", "words"),
    [
        ("ingress", "1M", FailedPrecondition, "ingress-bandwidth: a pod in the node's network has no link to limit"),
        ("egress", "1M", FailedPrecondition, "egress-bandwidth: a pod in the node's network has no link to limit"),
        ("egress", "x", InvalidArgument, "is no bandwidth"),
    ],
)
def test_a_pod_in_the_nodes_network_cannot_be_limited(
    host: HostFacts, direction: str, value: str, fault: type[Fault], words: str
) -> None:
    request = make_request(NAMESPACES % "network: NODE" + ANNOTATION % (direction, value))
    del request.config.linux.sysctls["net.core.somaxconn"]
    with pytest.raises(Fault) as raised:
        validate_run_pod_sandbox(request, host)
    assert type(raised.value) is fault
    assert words in str(raised.value)


@pytest.mark.parametrize("field", ["config", "metadata"])
def test_a_missing_message_is_refused(host: HostFacts, field: str) -> None:
    request = make_request("")
    if field == "config":
        request.ClearField("config")
    else:
        request.config.ClearField("metadata")
    with pytest.raises(InvalidArgument, match=f"{field}: is missing"):
        validate_run_pod_sandbox(request, host)


def test_a_group_needs_a_user(host: HostFacts) -> None:
    request = make_request("")
    request.config.linux.security_context.ClearField("run_as_user")
    with pytest.raises(InvalidArgument, match="run_as_group: needs run_as_user"):
        validate_run_pod_sandbox(request, host)


def test_apparmor_by_name_needs_a_host_that_has_it(host: HostFacts) -> None:
    request = make_request(CONTEXT % "apparmor { profile_type: Localhost localhost_ref: 'p' }")
    validate_run_pod_sandbox(request, msgspec.structs.replace(host, apparmor=True))
    with pytest.raises(FailedPrecondition, match="no AppArmor"):
        validate_run_pod_sandbox(request, host)


@pytest.mark.parametrize("protocol", ["TCP", "UDP", "SCTP"])
def test_host_ports_are_fine_on_one_address_or_on_all(host: HostFacts, protocol: str) -> None:
    for address in ("", "0.0.0.0", "192.0.2.1", "::1"):
        port = f"container_port: 80 host_port: 8080 protocol: {protocol} host_ip: '{address}'"
        validate_run_pod_sandbox(make_request(f"config {{ port_mappings {{ {port} }} }}"), host)


def test_host_ports_of_a_host_network_pod_are_the_nodes_own(host: HostFacts) -> None:
    request = make_request(NAMESPACES % "network: NODE" + "config{port_mappings{container_port:80 host_port:80}}")
    del request.config.linux.sysctls["net.core.somaxconn"]
    validate_run_pod_sandbox(request, host)


@given(st.text(max_size=70))
def test_a_hostname_that_passes_is_one_safe_line(hostname: str) -> None:
    try:
        check_hostname(hostname, "hostname")
    except InvalidArgument:
        return
    assert hostname.isascii() and len(hostname) <= 64
    assert not any(char.isspace() or char in "/:\0" for char in hostname)
