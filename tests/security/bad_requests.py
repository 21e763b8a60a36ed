"""Rows 19 to 45 of the table of bad inputs: requests.

``odd_requests`` has those that take more than one message. ``test_bad_pods``, ``test_bad_containers``,
``test_bad_ids`` and ``test_bad_calls`` have many more of each kind; here is what the table names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from proto import api_pb2 as api
from tests.security.attacks import Code
from tests.security.input_row import AE, FP, IA, NF, OK, RE, Ask, Row, Try, runtime
from tests.security.odd_requests import (
    adopted,
    answer_never_delivered,
    different,
    from_private_source,
    joined_names,
    log_through,
    made_as_directories,
    missing_host_path,
    same_name_otherwise,
    same_name_twice,
    target_of_another_pod,
)
from tests.security.place import Place

NOBODY = "f" * 64
SECCOMP = "linux { security_context { seccomp { profile_type: Localhost %s } } }"
USERNS = "linux { security_context { namespace_options { userns_options { mode: POD %s } } } }"


def pod(text: str) -> Ask:
    return runtime("RunPodSandbox", lambda place: api.RunPodSandboxRequest(config=place.pod_with(text)))


def container(text: str) -> Ask:
    return runtime(
        "CreateContainer",
        lambda place: api.CreateContainerRequest(pod_sandbox_id=place.pod, config=place.container_with(text)),
    )


def pods(code: Code, words: str, **texts: str) -> Mapping[str, Try]:
    return {f"pod: {name}": Try(pod(text), code, words) for name, text in texts.items()}


def containers(code: Code, words: str, **texts: str) -> Mapping[str, Try]:
    return {f"container: {name}": Try(container(text), code, words) for name, text in texts.items()}


def both(code: Code, words: str, **texts: str) -> Mapping[str, Try]:
    """The same in a pod's and in a container's configuration."""
    return {**pods(code, words, **texts), **containers(code, words, **texts)}


def of_container(method: str, id: str, **more: Any) -> Ask:
    """The RPC ``method`` for the container ``id``, an attribute of the place or an id."""
    kind = getattr(api, f"{method}Request")
    return runtime(method, lambda place: kind(container_id=getattr(place, id, id), **more))


def of_pod(method: str, id: str, **more: Any) -> Ask:
    """The same for a pod."""
    kind = getattr(api, f"{method}Request")
    return runtime(method, lambda place: kind(pod_sandbox_id=getattr(place, id, id), **more))


def too_large(size: int) -> Ask:
    def build(place: Place) -> api.CreateContainerRequest:
        config = place.crisp.attacker("true", envs=[api.KeyValue(key="A", value=b"x" * size)])
        return api.CreateContainerRequest(pod_sandbox_id=place.pod, config=config)

    return runtime("CreateContainer", build)


def mount(fields: str) -> str:
    return f"mounts {{ {fields} }}"


RESOURCES = "linux { resources { %s } }"
PORT = "port_mappings { container_port: %d host_port: %d }"
IDS = "uids { host_id: %d length: %d } gids { host_id: %d length: %d }"
LONG_HOST = "h" * 65

ROWS: Sequence[Row] = [
    Row(19, "nil metadata", {
        "pod": Try(runtime("RunPodSandbox", lambda place: api.RunPodSandboxRequest(
            config=api.PodSandboxConfig(hostname="x"))), IA, "metadata"),
        "container": Try(of_pod("CreateContainer", "pod", config=api.ContainerConfig(command=["x"])), IA, "metadata"),
        "pod config": Try(runtime("RunPodSandbox", lambda place: api.RunPodSandboxRequest()), IA, "config"),
        "container config": Try(of_pod("CreateContainer", "pod"), IA, "config"),
    }),
    Row(20, "empty name/namespace/uid", {
        **both(IA, "metadata.name", name="metadata { name: '' }"),
        **pods(IA, "metadata.namespace", namespace="metadata { namespace: '' }"),
        **pods(IA, "metadata.uid", uid="metadata { uid: '' }"),
    }),
    Row(21, "same name+uid+attempt", {
        "delivered": Try(same_name_twice, AE, "taken", prepares=True),
        "another request": Try(same_name_otherwise, AE, "taken", prepares=True),
        "never delivered": Try(answer_never_delivered, OK, check=adopted),
    }),
    Row(22, "names with `_` (ambiguous join), `/`, NUL", {
        "_": Try(joined_names, OK, check=different),
        **both(IA, "metadata.name", slash="metadata { name: 'a/b' }", nul="metadata { name: 'a\\000b' }"),
        **pods(IA, "metadata.uid", uid="metadata { uid: '../..' }"),
        **pods(IA, "metadata.namespace", namespace="metadata { namespace: 'a/b' }"),
    }),
    Row(23, "unknown runtime handler", {
        name: Try(runtime("RunPodSandbox", lambda place, name=name: api.RunPodSandboxRequest(  # type: ignore[misc]
            config=place.crisp.pod(), runtime_handler=name)), NF, "handler")
        for name in ("kata", "crisp ", "../crisp")
    }),
    Row(24, "unknown ID: Status/Start/Exec", {
        "pod status": Try(of_pod("PodSandboxStatus", NOBODY), NF, "sandbox"),
        "status": Try(of_container("ContainerStatus", NOBODY), NF, "container"),
        "start": Try(of_container("StartContainer", NOBODY), NF, "container"),
        "exec sync": Try(of_container("ExecSync", NOBODY, cmd=["true"]), NF, "container"),
        "exec": Try(of_container("Exec", NOBODY, cmd=["true"], stdout=True), NF, "container"),
        "attach": Try(of_container("Attach", NOBODY, stdout=True), NF, "container"),
        "port-forward": Try(of_pod("PortForward", NOBODY, port=[80]), NF, "sandbox"),
        "create": Try(runtime("CreateContainer", lambda place: api.CreateContainerRequest(
            pod_sandbox_id=NOBODY, config=place.crisp.attacker("true"))), NF, "sandbox"),
        "update": Try(of_container("UpdateContainerResources", NOBODY, linux={"cpu_shares": 2}), NF, "container"),
    }),
    Row(25, "unknown ID: Stop/Remove", {
        "stop pod": Try(of_pod("StopPodSandbox", NOBODY), OK),
        "remove pod": Try(of_pod("RemovePodSandbox", NOBODY), OK),
        "stop": Try(of_container("StopContainer", NOBODY), OK),
        "remove": Try(of_container("RemoveContainer", NOBODY), OK),
    }),
    Row(26, "Create in stopped sandbox", {
        "create": Try(runtime("CreateContainer", lambda place: api.CreateContainerRequest(
            pod_sandbox_id=place.stopped_pod, config=place.crisp.attacker("true"))), FP, "not ready"),
    }),
    Row(27, "Start twice", {"running": Try(of_container("StartContainer", "running"), FP, "start")}),
    Row(28, "seccomp Localhost empty/relative/missing", {
        **both(IA, "localhost_ref", empty=SECCOMP % "", relative=SECCOMP % "localhost_ref: 'a.json'",
               climbing=SECCOMP % "localhost_ref: '/a/../b'"),
        **both(NF, "/none.json", missing=SECCOMP % "localhost_ref: '/none.json'"),
    }),
    Row(29, "non-namespaced sysctl", pods(
        IA, "sysctls",
        kernel="linux { sysctls { key: 'kernel.core_pattern' value: '|/bin/sh' } }",
        vm="linux { sysctls { key: 'vm.swappiness' value: '1' } }",
        slashes="linux { sysctls { key: 'kernel/core_pattern' value: 'x' } }",
    )),
    Row(30, "shared propagation on private source", {
        name: from_private_source(name) for name in ("PROPAGATION_BIDIRECTIONAL", "PROPAGATION_HOST_TO_CONTAINER")
    }),
    Row(31, "recursive-RO without RO/private", containers(
        IA, "recursive_read_only",
        writable=mount("container_path: '/a' host_path: '/tmp' recursive_read_only: true"),
        propagated=mount("container_path: '/a' host_path: '/tmp' readonly: true recursive_read_only: true "
                         "propagation: PROPAGATION_HOST_TO_CONTAINER"),
    )),
    Row(32, "missing host path", {"made": Try(missing_host_path, OK, check=made_as_directories)}),
    Row(33, "container path empty, `..`, under /proc", containers(
        IA, "container_path",
        empty=mount("container_path: '' host_path: '/tmp'"),
        climbing=mount("container_path: '/a/../../b' host_path: '/tmp'"),
        proc=mount("container_path: '/proc' host_path: '/tmp'"),
        below=mount("container_path: '/proc/sys' host_path: '/tmp'"),
        spelled=mount("container_path: '//./proc//sys' host_path: '/tmp'"),
    )),
    Row(34, "log_path `../`, symlink", {
        **containers(IA, "log_path", climbing="log_path: '../x.log'", absolute="log_path: '/etc/passwd'"),
        "a link": log_through(parent=False),
        "below a link": log_through(parent=True),
    }),
    Row(35, "hostname >64/newline; DNS newline", {
        **pods(IA, "hostname", long=f"hostname: '{LONG_HOST}'", newline="hostname: 'a\\nb'"),
        **pods(IA, "dns|servers|searches|options", servers="dns_config { servers: '1.1.1.1\\nnameserver 6.6.6.6' }",
               searches="dns_config { searches: 'a\\nb' }", options="dns_config { options: 'a\\nb' }"),
    }),
    Row(36, "env key empty, `=`, NUL", containers(
        IA, "envs", empty="envs { key: '' value: 'x' }", equals="envs { key: 'A=B' value: 'x' }",
        nul="envs { key: 'A\\000B' value: 'x' }", value="envs { key: 'A' value: 'x\\000y' }",
    )),
    Row(37, "uid -1, 2³¹; gid without uid", {
        **both(IA, "run_as_user", minus="linux { security_context { run_as_user { value: -1 } } }",
               large="linux { security_context { run_as_user { value: 2147483648 } } }"),
        **both(IA, "run_as_group", group="linux { security_context { run_as_group { value: 1 } } }"),
    }),
    Row(38, "negative memory/shares, bad cpuset", {
        **both(IA, "memory", memory=RESOURCES % "memory_limit_in_bytes: -1"),
        **both(IA, "shares", shares=RESOURCES % "cpu_shares: -2"),
        **both(IA, "cpuset", open=RESOURCES % "cpuset_cpus: '0-'", line=RESOURCES % "cpuset_mems: '0\\n1'",
               backwards=RESOURCES % "cpuset_cpus: '3-1'"),
        "update": Try(of_container("UpdateContainerResources", "running", linux={"memory_limit_in_bytes": -5}), IA,
                      "memory"),
    }),
    Row(39, "unknown capability", containers(
        IA, "capabilit",
        add="linux { security_context { capabilities { add_capabilities: 'CAP_NONE' } } }",
        drop="linux { security_context { capabilities { drop_capabilities: 'NONE' } } }",
    )),
    Row(40, "privileged in unprivileged sandbox", containers(
        IA, "privileged", privileged="linux { security_context { privileged: true } }")),
    Row(41, "userns map mismatch; foreign TARGET pid", {
        **pods(IA, "uids|gids", differ=USERNS % (IDS % (65536, 65536, 131072, 65536)), none=USERNS % ""),
        "another pod's": target_of_another_pod(),
        **containers(IA, "target_id", nobody="linux { security_context { namespace_options { "
                     "pid: TARGET target_id: 'nosuch' } } }"),
    }),
    Row(42, "port 0, 70000, duplicate hostPort", {
        **pods(IA, "container_port", zero=PORT % (0, 80), large=PORT % (70000, 80)),
        **pods(IA, "host_port", host=PORT % (80, 70000)),
        **pods(IA, "twice", twice=PORT % (80, 80) + PORT % (81, 80)),
    }),
    Row(43, "Exec/Attach tty+stderr, no streams", {
        "exec tty+stderr": Try(of_container("Exec", "running", cmd=["x"], tty=True, stdout=True, stderr=True), IA,
                               "stderr"),
        "attach tty+stderr": Try(of_container("Attach", "running", tty=True, stdout=True, stderr=True), IA, "stderr"),
        "exec": Try(of_container("Exec", "running", cmd=["x"]), IA, "none is asked for"),
        "attach": Try(of_container("Attach", "running"), IA, "none is asked for"),
    }),
    Row(44, "empty exec command; PortForward 65536", {
        "exec": Try(of_container("Exec", "running", stdout=True), IA, "cmd"),
        "exec sync": Try(of_container("ExecSync", "running"), IA, "cmd"),
        "empty word": Try(of_container("ExecSync", "running", cmd=[""]), IA, "cmd"),
        "65536": Try(of_pod("PortForward", "pod", port=[65536]), IA, "port"),
        "0": Try(of_pod("PortForward", "pod", port=[0]), IA, "port"),
    }),
    Row(45, "request >16 MiB", {"env": Try(too_large(16 << 20), RE, "larger than max")}),
]  # fmt: skip
