"""Bad pods over real gRPC: each one gets exactly its code, and nothing was made.

The numbers are the rows of the table of bad inputs that the code was written against.
"""

from __future__ import annotations

import grpc
import grpc.aio
import pytest
from google.protobuf import text_format

from proto import api_pb2 as api
from tests.security.input_row import AE, FP, IA, NF
from tests.security.place import Place, expect

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

LONG = "x" * 300
SECCOMP = "linux { security_context { seccomp { %s } } }"


POD_ROWS: list[tuple[int, grpc.StatusCode, str, str]] = [
    (20, IA, "metadata.name", "metadata { name: '' }"),
    (20, IA, "metadata.namespace", "metadata { namespace: '' }"),
    (20, IA, "metadata.uid", "metadata { uid: '' }"),
    (22, IA, "metadata.name", "metadata { name: 'a/b' }"),
    (22, IA, "metadata.name", "metadata { name: 'a\\000b' }"),
    (22, IA, "metadata.uid", "metadata { uid: '../..' }"),  # CVE-2025-0750
    (22, IA, "metadata.uid", "metadata { uid: '..' }"),
    (22, IA, "metadata.namespace", "metadata { namespace: 'a\\nb' }"),
    (22, IA, "metadata.name", f"metadata {{ name: '{LONG}' }}"),
    (28, IA, "localhost_ref", SECCOMP % "profile_type: Localhost"),
    (28, IA, "localhost_ref", SECCOMP % "profile_type: Localhost localhost_ref: 'a.json'"),
    (28, IA, "localhost_ref", SECCOMP % "profile_type: Localhost localhost_ref: '/a/../b'"),
    (28, NF, "/none.json", SECCOMP % "profile_type: Localhost localhost_ref: '/none.json'"),
    (28, FP, "is not valid", SECCOMP % "profile_type: Localhost localhost_ref: '/etc/passwd'"),
    (28, IA, "localhost_ref", SECCOMP % "profile_type: Localhost localhost_ref: '/none\\n.json'"),
    (28, IA, "localhost_ref", SECCOMP % "profile_type: RuntimeDefault localhost_ref: '/x'"),
    (28, IA, "profile_type", SECCOMP % "profile_type: 7"),
    (28, FP, "AppArmor", "linux { security_context { apparmor { profile_type: Localhost localhost_ref: 'mine' } } }"),
    (28, IA, "names no profile", "linux { security_context { apparmor { profile_type: Localhost } } }"),
    (29, IA, "sysctls", "linux { sysctls { key: 'kernel.core_pattern' value: '|/bin/sh' } }"),
    (29, IA, "sysctls", "linux { sysctls { key: 'vm.swappiness' value: '1' } }"),
    (29, IA, "sysctls", "linux { sysctls { key: 'net.ipv4.ip_forward' value: '1\\n2' } }"),
    (29, IA, "one value", "linux { sysctls { key: 'net.ipv4.ip_forward' value: '1+kernel.core_pattern=x' } }"),
    (29, IA, "twice", "linux { sysctls { key: 'net.ipv4.ip_forward' value: '1' } "
     "sysctls { key: 'net/ipv4/ip_forward' value: '0' } }"),
    (29, IA, "write", "linux { sysctls { key: 'net.ipv4.ip_forward' value: 'many' } }"),
    (29, FP, "no such file", "linux { sysctls { key: 'net.ipv4.no_such_thing' value: '1' } }"),
    (29, IA, "sysctls", "linux { sysctls { key: 'net/../kernel/core_pattern' value: '1' } }"),
    (29, IA, "sysctls", "linux { sysctls { key: '/net.ipv4.ip_forward' value: '1' } }"),
    (29, IA, "node's", "hostname: 'a' linux { security_context { namespace_options { ipc: NODE } } "
     "sysctls { key: 'kernel.msgmax' value: '1' } }"),
    (34, IA, "log_directory", "log_directory: 'relative'"),
    (34, IA, "log_directory", "log_directory: '/var/../../etc'"),
    (34, IA, "log_directory", "log_directory: '/a\\000b'"),
    (38, IA, "cgroup_parent", "linux { cgroup_parent: '/a\\000b' }"),
    (35, IA, "hostname", f"hostname: '{'h' * 65}'"),
    (35, IA, "hostname", "hostname: 'a\\nb'"),
    (35, IA, "hostname", "hostname: '-a'"),
    (35, IA, "servers", "dns_config { servers: '1.1.1.1\\nnameserver 6.6.6.6' }"),
    (35, IA, "searches", "dns_config { searches: 'a b' }"),
    (35, IA, "options", "dns_config { options: '' }"),
    (37, IA, "run_as_user", "linux { security_context { run_as_user { value: -1 } } }"),
    (37, IA, "run_as_user", "linux { security_context { run_as_user { value: 2147483648 } } }"),
    (37, IA, "run_as_group", "linux { security_context { run_as_group { value: 1 } } }"),
    (37, IA, "supplemental_groups", "linux { security_context { supplemental_groups: 4294967295 } }"),
    (38, IA, "memory_limit", "linux { resources { memory_limit_in_bytes: -1 } }"),
    (38, IA, "cpuset_cpus", "linux { overhead { cpuset_cpus: '0-x' } }"),
    (38, IA, "cgroup_parent", "linux { cgroup_parent: '/a/../../b' }"),
    (38, IA, "cgroup_parent", "linux { cgroup_parent: '/' }"),
    (38, FP, "systemd", "linux { cgroup_parent: '/kubepods.slice' }"),
    (41, IA, "uids", "linux { security_context { namespace_options { userns_options { mode: POD } } } }"),
    (41, IA, "alike", "linux { security_context { namespace_options { userns_options { mode: POD "
     "uids { host_id: 65536 length: 65536 } gids { host_id: 131072 length: 65536 } } } } }"),
    (41, IA, "one mapping", "linux { security_context { namespace_options { userns_options { mode: POD "
     "uids { host_id: 65536 length: 9 } uids { host_id: 99 length: 9 } gids { host_id: 65536 length: 9 } } } } }"),
    (41, IA, "host's root", "linux { security_context { namespace_options { userns_options { mode: POD "
     "uids { host_id: 0 length: 65536 } gids { host_id: 0 length: 65536 } } } } }"),
    (41, IA, "last id", "linux { security_context { namespace_options { userns_options { mode: POD "
     "uids { host_id: 4294967295 length: 1 } gids { host_id: 4294967295 length: 1 } } } } }"),
    (41, IA, "pid", "linux { security_context { namespace_options { pid: NODE userns_options { mode: POD "
     "uids { host_id: 65536 length: 65536 } gids { host_id: 65536 length: 65536 } } } } }"),
    (41, IA, "target_id", "linux { security_context { namespace_options { target_id: 'x' } } }"),
    (41, IA, "pid", "linux { security_context { namespace_options { pid: TARGET } } }"),
    (41, IA, "network", "linux { security_context { namespace_options { network: CONTAINER } } }"),
    (42, IA, "container_port", "port_mappings { container_port: 0 host_port: 80 }"),
    (42, IA, "container_port", "port_mappings { container_port: 70000 }"),
    (42, IA, "host_port", "port_mappings { container_port: 80 host_port: 70000 }"),
    (42, IA, "twice", "port_mappings { container_port: 80 host_port: 80 } "
     "port_mappings { container_port: 81 host_port: 80 }"),
    (42, IA, "container_port", "port_mappings { container_port: -1 }"),
    (42, IA, "host_port", "port_mappings { container_port: 80 host_port: -1 }"),
    (42, IA, "twice", "port_mappings { container_port: 80 host_port: 80 host_ip: '0.0.0.0' } "
     "port_mappings { container_port: 81 host_port: 80 }"),
    (42, IA, "twice", "port_mappings { container_port: 80 host_port: 80 } "
     "port_mappings { container_port: 81 host_port: 80 host_ip: '0:0::' }"),
    (42, IA, "protocol", "port_mappings { container_port: 80 protocol: 9 }"),
    (42, IA, "host_ip", "port_mappings { container_port: 80 host_ip: 'localhost' }"),
    (42, FP, "no IPv6 address", "port_mappings { container_port: 80 host_port: 80 host_ip: '::' }"),
    (46, FP, "Windows", "windows { }"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "code", "words", "text"), POD_ROWS)
async def test_a_bad_pod_is_refused(row: int, code: grpc.StatusCode, words: str, text: str, place: Place) -> None:
    """CVE-2022-0811, CVE-2022-0532, CVE-2025-0750, CVE-2023-2431 and all that a pod can have wrong."""
    request = api.RunPodSandboxRequest(config=place.pod_with(text))
    await expect(place, code, words, place.crisp.runtime.RunPodSandbox, request)


async def test_a_pod_that_is_no_pod_is_refused(place: Place) -> None:
    """Rows 19, 21 and 23."""
    crisp = place.crisp
    run = crisp.runtime.RunPodSandbox
    await expect(place, IA, "config", run, api.RunPodSandboxRequest())
    await expect(place, IA, "metadata", run, api.RunPodSandboxRequest(config=api.PodSandboxConfig(hostname="x")))
    await expect(place, NF, "handler", run, api.RunPodSandboxRequest(config=crisp.pod(), runtime_handler="kata"))
    there = api.PodSandboxConfig.FromString(crisp.host.store.sandboxes.get(place.pod).config)
    await expect(place, AE, "", run, api.RunPodSandboxRequest(config=there))
    there.labels["other"] = "value"
    await expect(place, AE, "", run, api.RunPodSandboxRequest(config=there))


async def test_what_only_looks_odd_is_a_pod(place: Place) -> None:
    """Row 22: names that are one and the same when they are joined; row 42: host_port 0 means none."""
    before, ids = place.made(), set()
    for text in (
        "metadata { name: 'a_b' namespace: 'c' uid: 'u' }",
        "metadata { name: 'a' namespace: 'b_c' uid: 'u' }",
        "port_mappings { container_port: 80 }",
        "port_mappings { container_port: 80 host_port: 0 host_ip: '127.0.0.1' }",
    ):
        config = place.crisp.pod()
        text_format.Merge(text, config)
        ids.add(await place.crisp.run_pod(config))
    assert len(ids) == 4
    for id in ids:
        await place.crisp.runtime.RemovePodSandbox(api.RemovePodSandboxRequest(pod_sandbox_id=id))
    await place.crisp.until(lambda: place.made() == before)  # a link goes with its namespace, a moment later
