"""Bad requests over real gRPC: each one gets exactly its code, and nothing was made.

The numbers are the rows of the table of bad inputs that the code was written against.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import pytest
from google.protobuf import text_format
from google.protobuf.message import Message

from proto import api_pb2 as api
from runtime.capability_names import NAMES
from tests.security.attacks import Code, refused
from tests.security.place import Place, expect

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

IA, NF, FP, AE = Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.FAILED_PRECONDITION, Code.ALREADY_EXISTS
RE, UN, OK = Code.RESOURCE_EXHAUSTED, Code.UNIMPLEMENTED, Code.OK
LONG = "x" * 300
IMAGE_MOUNT = "mounts { container_path: '/a' readonly: true image { image: 'not/here' } %s }"
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


CONTAINER_ROWS: list[tuple[int, grpc.StatusCode, str, str]] = [
    (14, IA, "image", "image { image: 'demo@sha256:../../etc' }"),  # CVE-2024-3727
    (14, IA, "image", "image { image: 'demo@sha256:abcd' }"),
    (14, IA, "image", "image { image: 'demo@md5:00000000000000000000000000000000' }"),
    (14, IA, "image", "image { image: 'UPPER/Case:tag' }"),
    (14, IA, "image", "image { image: '../../etc/passwd' }"),
    (14, NF, "not on this node", "image { image: 'nowhere.local/none:latest' }"),
    (20, IA, "metadata.name", "metadata { name: '' }"),
    (22, IA, "metadata.name", "metadata { name: 'a/b' }"),
    (22, IA, "metadata.name", "metadata { name: '..' }"),
    (28, NF, "/none.json", SECCOMP % "profile_type: Localhost localhost_ref: '/none.json'"),
    (28, FP, "is not valid", SECCOMP % "profile_type: Localhost localhost_ref: '/etc/passwd'"),
    (28, IA, "localhost_ref", SECCOMP % "profile_type: Localhost localhost_ref: 'a'"),
    (28, IA, "localhost_ref", SECCOMP % "profile_type: Localhost"),
    (28, FP, "AppArmor", "linux { security_context { apparmor { profile_type: Localhost localhost_ref: 'mine' } } }"),
    (31, IA, "recursive_read_only", "mounts { container_path: '/a' host_path: '/tmp' recursive_read_only: true }"),
    (31, IA, "recursive_read_only", "mounts { container_path: '/a' host_path: '/tmp' readonly: true "
     "recursive_read_only: true propagation: PROPAGATION_HOST_TO_CONTAINER }"),
    (33, IA, "container_path", "mounts { container_path: '' host_path: '/tmp' }"),
    (33, IA, "container_path", "mounts { container_path: 'a' host_path: '/tmp' }"),
    (33, IA, "container_path", "mounts { container_path: '/a/../../b' host_path: '/tmp' }"),
    (33, IA, "container_path", "mounts { container_path: '/' host_path: '/tmp' }"),
    (33, IA, "container_path", "mounts { container_path: '/proc' host_path: '/tmp' }"),
    (33, IA, "container_path", "mounts { container_path: '/proc/sys' host_path: '/tmp' }"),
    (33, IA, "container_path", "mounts { container_path: '/proc/cpuinfo/x' host_path: '/tmp' }"),
    (33, IA, "container_path", "mounts { container_path: '//proc//sys' host_path: '/tmp' }"),
    (33, IA, "container_path", "mounts { container_path: '/./proc/self' host_path: '/tmp' }"),
    (33, IA, "host_path", "mounts { container_path: '/a' host_path: 'relative' }"),
    (33, IA, "host_path", "mounts { container_path: '/a' host_path: '/a/../etc' }"),
    (33, IA, "propagation", "mounts { container_path: '/a' host_path: '/tmp' propagation: 7 }"),
    (33, IA, "mount_options", "mounts { container_path: '/a' host_path: '/tmp' mount_options: 'suid' }"),
    (33, IA, "readonly: must be set", "mounts { container_path: '/a' image { image: 'demo' } }"),
    (33, IA, "image_sub_path", IMAGE_MOUNT % "image_sub_path: '..'"),
    (33, NF, "image not/here", IMAGE_MOUNT % ""),
    (33, IA, "uidMappings", "mounts { container_path: '/a' host_path: '/tmp' uidMappings { length: 1 } }"),
    (34, IA, "log_path", "log_path: '../x.log'"),
    (34, IA, "log_path", "log_path: '/etc/passwd'"),
    (34, IA, "log_path", "log_path: 'a/'"),
    (36, IA, "key", "envs { key: '' value: 'x' }"),
    (36, IA, "key", "envs { key: 'A=B' value: 'x' }"),
    (36, IA, "value", "envs { key: 'A' value: 'x\\000y' }"),
    (36, IA, "command", "command: 'a\\000b'"),
    (36, IA, "args", "args: 'a\\000b'"),
    (36, IA, "key", "envs { key: 'A\\000B' value: 'x' }"),
    (36, IA, "working_dir", "working_dir: '/a\\000b'"),
    (33, IA, "container_path", "mounts { container_path: '/a\\000b' host_path: '/tmp' }"),
    (33, IA, "host_path", "mounts { container_path: '/a' host_path: '/tmp\\000b' }"),
    (34, IA, "log_path", "log_path: 'a\\000b'"),
    (46, IA, "container_path", "devices { container_path: '/dev/x\\000y' host_path: '/dev/null' }"),
    (46, IA, "host_path", "devices { container_path: '/dev/x' host_path: '/dev/null\\000y' }"),
    (46, IA, "masked_paths", "linux { security_context { masked_paths: '/a\\000b' } }"),
    (46, IA, "readonly_paths", "linux { security_context { readonly_paths: '/a\\000b' } }"),
    (37, IA, "run_as_user", "linux { security_context { run_as_user { value: 2147483648 } } }"),
    (37, IA, "run_as_user", "linux { security_context { run_as_user { value: -1 } } }"),
    (37, IA, "run_as_group", "linux { security_context { run_as_group { value: 1 } } }"),
    (37, IA, "run_as_username", "linux { security_context { run_as_username: '4294967296' } }"),
    (37, IA, "run_as_username", "linux { security_context { run_as_username: 'a:b' } }"),
    (37, IA, "run_as_username", "linux { security_context { run_as_username: '１' } }"),
    (37, IA, "both given", "linux { security_context { run_as_username: 'root' run_as_user { value: 1 } } }"),
    (38, IA, "memory_limit", "linux { resources { memory_limit_in_bytes: -1 } }"),
    (38, IA, "cpu_shares", "linux { resources { cpu_shares: -2 } }"),
    (38, IA, "cpu_quota", "linux { resources { cpu_quota: 10 } }"),
    (38, IA, "cpuset_cpus", "linux { resources { cpuset_cpus: '0-' } }"),
    (38, IA, "cpuset_cpus", "linux { resources { cpuset_cpus: '0\\n1' } }"),
    (38, IA, "cpuset_cpus", "linux { resources { cpuset_cpus: '3-1' } }"),
    (38, IA, "cpuset_cpus", "linux { resources { cpuset_cpus: '0-1000000000' } }"),
    (38, IA, "memory_swap_limit", "linux { resources { memory_limit_in_bytes: 100 memory_swap_limit_in_bytes: 50 } }"),
    (38, FP, "cpuset_cpus", "linux { resources { cpuset_cpus: '8000' } }"),
    (38, IA, "oom_score_adj", "linux { resources { oom_score_adj: 1001 } }"),
    (38, IA, "hugepage", "linux { resources { hugepage_limits { page_size: '../x' limit: 1 } } }"),
    (38, IA, "unified", "linux { resources { unified { key: 'cgroup.procs' value: '1' } } }"),
    (38, IA, "unified", "linux { resources { unified { key: '../memory.max' value: '1' } } }"),
    (39, IA, "capabilit", "linux { security_context { capabilities { add_capabilities: 'CAP_NONE' } } }"),
    (39, IA, "capabilit", "linux { security_context { capabilities { drop_capabilities: '' } } }"),
    (39, FP, "ambient", "linux { security_context { capabilities { add_ambient_capabilities: 'CHOWN' } } }"),
    (40, IA, "privileged", "linux { security_context { privileged: true } }"),
    (41, IA, "target_id", "linux { security_context { namespace_options { pid: TARGET } } }"),
    (41, IA, "target_id", "linux { security_context { namespace_options { pid: TARGET target_id: 'nosuch' } } }"),
    (41, IA, "network", "linux { security_context { namespace_options { network: NODE } } }"),
    (41, IA, "pid", "linux { security_context { namespace_options { pid: NODE } } }"),
    (41, IA, "is not what the pod has", "linux { security_context { namespace_options { userns_options { mode: POD "
     "uids { host_id: 65536 length: 65536 } gids { host_id: 65536 length: 65536 } } } } }"),
    (46, FP, "CDI", "CDI_devices { name: 'vendor.com/gpu=0' }"),
    (46, IA, "permissions", "devices { container_path: '/dev/x' host_path: '/dev/null' permissions: 'rwx' }"),
    (46, IA, "container_path", "devices { container_path: '/proc/x' host_path: '/dev/null' permissions: 'r' }"),
    (46, FP, "", "devices { container_path: '/dev/x' host_path: '/dev/nosuch' permissions: 'r' }"),
    (46, IA, "working_dir", "working_dir: 'relative'"),
    (46, IA, "working_dir", "working_dir: '/proc/self/fd/7'"),
    (46, IA, "stop_signal", "stop_signal: 999"),
    (46, IA, "masked_paths", "linux { security_context { masked_paths: 'proc/kcore' } }"),
]  # fmt: skip


@pytest.mark.parametrize(("row", "code", "words", "text"), CONTAINER_ROWS)
async def test_a_bad_container_is_refused(row: int, code: grpc.StatusCode, words: str, text: str, place: Place) -> None:
    """CVE-2024-3727, CVE-2023-2431, CVE-2024-21626 and all that a container can have wrong."""
    request = api.CreateContainerRequest(pod_sandbox_id=place.pod, config=place.container_with(text))
    await expect(place, code, words, place.crisp.runtime.CreateContainer, request)


async def test_a_container_that_is_no_container_is_refused(place: Place) -> None:
    """Rows 19, 21, 24 and 26; a capability that the daemon lacks; a command that nobody gives."""
    crisp, create = place.crisp, place.crisp.runtime.CreateContainer

    def ask(config: api.ContainerConfig | None, pod: str = place.pod) -> api.CreateContainerRequest:
        return api.CreateContainerRequest(pod_sandbox_id=pod, config=config)

    await expect(place, IA, "config", create, ask(None))
    await expect(place, IA, "metadata", create, ask(api.ContainerConfig(command=["x"])))
    await expect(place, NF, "sandbox", create, ask(crisp.attacker("x"), "f" * 64))
    await expect(place, IA, "sandbox", create, ask(crisp.attacker("x"), ""))
    await expect(place, FP, "not ready", create, ask(crisp.attacker("x"), place.stopped_pod))
    there = api.ContainerConfig.FromString(crisp.host.store.containers.get(place.created).config)
    there.args.append("other")
    await expect(place, AE, "", create, ask(there))
    nameless = crisp.attacker("x")
    nameless.image.image = ""
    await expect(place, IA, "image", create, ask(nameless))
    missing = next((name for name in NAMES if name not in crisp.host.facts.bounding), "")
    if missing:
        config = crisp.attacker("x")
        config.linux.security_context.capabilities.add_capabilities.append(missing)
        await expect(place, FP, missing, create, ask(config))


async def test_files_of_lxcfs_may_be_mounted_over_proc(place: Place, tmp_path: Path) -> None:
    """Row 33: the exception, and nothing but it."""
    (tmp_path / "meminfo").write_text("MemTotal: 1 kB\n")
    config = place.crisp.attacker("cat", "/proc/meminfo")
    config.mounts.append(api.Mount(container_path="/proc/meminfo", host_path=str(tmp_path / "meminfo")))
    assert await place.crisp.output(place.pod, config) == ["MemTotal: 1 kB"]


async def test_a_shared_mount_needs_a_shared_source(place: Place, tmp_path: Path) -> None:
    """Row 30: bidirectional propagation from a source that is private."""
    subprocess.run(["mount", "-t", "tmpfs", "none", tmp_path], check=True)
    subprocess.run(["mount", "--make-private", tmp_path], check=True)
    try:
        for propagation in (api.PROPAGATION_BIDIRECTIONAL, api.PROPAGATION_HOST_TO_CONTAINER):
            config = place.crisp.attacker("true")
            config.mounts.append(api.Mount(container_path="/a", host_path=str(tmp_path), propagation=propagation))
            request = api.CreateContainerRequest(pod_sandbox_id=place.pod, config=config)
            await expect(place, FP, "not on a shared", place.crisp.runtime.CreateContainer, request)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


async def test_ids_that_nothing_has_are_not_found_or_nothing_to_do(place: Place) -> None:
    """Rows 24 and 25."""
    runtime, none = place.crisp.runtime, "0" * 64
    rows: list[tuple[grpc.StatusCode, str, Message]] = [
        (NF, "PodSandboxStatus", api.PodSandboxStatusRequest(pod_sandbox_id=none)),
        (NF, "ContainerStatus", api.ContainerStatusRequest(container_id=none)),
        (NF, "StartContainer", api.StartContainerRequest(container_id=none)),
        (NF, "ExecSync", api.ExecSyncRequest(container_id=none, cmd=["true"])),
        (NF, "ContainerStats", api.ContainerStatsRequest(container_id=none)),
        (NF, "ReopenContainerLog", api.ReopenContainerLogRequest(container_id=none)),
        (
            NF,
            "UpdateContainerResources",
            api.UpdateContainerResourcesRequest(container_id=none, linux=api.LinuxContainerResources(cpu_shares=2)),
        ),
        (NF, "PodSandboxStats", api.PodSandboxStatsRequest(pod_sandbox_id=none)),
        (NF, "PodSandboxStats", api.PodSandboxStatsRequest()),  # kubelet's question whether the RPC is there
        (
            NF,
            "UpdatePodSandboxResources",
            api.UpdatePodSandboxResourcesRequest(
                pod_sandbox_id=none, resources=api.LinuxContainerResources(cpu_shares=2)
            ),
        ),
        (OK, "ListPodSandboxStats", api.ListPodSandboxStatsRequest(filter=api.PodSandboxStatsFilter(id=none))),
        (OK, "ListContainerStats", api.ListContainerStatsRequest(filter=api.ContainerStatsFilter(id="../%"))),
        (OK, "StopPodSandbox", api.StopPodSandboxRequest(pod_sandbox_id=none)),
        (OK, "RemovePodSandbox", api.RemovePodSandboxRequest(pod_sandbox_id=none)),
        (OK, "StopContainer", api.StopContainerRequest(container_id=none)),
        (OK, "RemoveContainer", api.RemoveContainerRequest(container_id=none)),
    ]
    for code, name, request in rows:
        await expect(place, code, "", getattr(runtime, name), request)


async def test_an_id_that_is_none_is_refused(place: Place) -> None:
    """An empty id and one that is a path or a pattern; nothing is stopped by mistake."""
    runtime = place.crisp.runtime
    rows: list[tuple[str, Message]] = [
        ("PodSandboxStatus", api.PodSandboxStatusRequest()),
        ("ContainerStatus", api.ContainerStatusRequest()),
        ("StopPodSandbox", api.StopPodSandboxRequest()),
        ("RemovePodSandbox", api.RemovePodSandboxRequest()),
        ("StopContainer", api.StopContainerRequest()),
        ("RemoveContainer", api.RemoveContainerRequest()),
        ("ExecSync", api.ExecSyncRequest(cmd=["true"])),
        ("ContainerStats", api.ContainerStatsRequest()),
        (
            "UpdatePodSandboxResources",
            api.UpdatePodSandboxResourcesRequest(resources=api.LinuxContainerResources(cpu_shares=2)),
        ),
    ]
    for name, request in rows:
        await expect(place, IA, "empty", getattr(runtime, name), request)
    for path in ("../../etc", "*", "%", "_" * 64):
        await expect(place, OK, "", runtime.RemovePodSandbox, api.RemovePodSandboxRequest(pod_sandbox_id=path))
        await expect(place, NF, "", runtime.ContainerStatus, api.ContainerStatusRequest(container_id=path))


async def test_an_ambiguous_short_id_is_refused(place: Place) -> None:
    """Containers until two share a first digit: at most 17."""
    seen: dict[str, str] = {}
    while True:
        id = await place.crisp.create(place.pod, place.crisp.attacker("true"))
        if id[0] in seen:
            break
        seen[id[0]] = id
    request = api.StopContainerRequest(container_id=id[0])
    await expect(place, IA, "ambiguous", place.crisp.runtime.StopContainer, request)
    await expect(place, OK, "", place.crisp.runtime.ContainerStatus, api.ContainerStatusRequest(container_id=id[:20]))


async def test_states_do_not_allow_everything(place: Place) -> None:
    """Rows 26 and 27: starting twice, commands where nothing runs."""
    runtime, crisp = place.crisp.runtime, place.crisp
    await expect(place, FP, "", runtime.StartContainer, api.StartContainerRequest(container_id=place.running))
    asked = api.ExecSyncRequest(container_id=place.created, cmd=["true"])
    await expect(place, FP, "", runtime.ExecSync, asked)
    ended = await crisp.run(place.pod, crisp.attacker("true"))
    await crisp.wait_exit(ended)
    await expect(place, FP, "", runtime.StartContainer, api.StartContainerRequest(container_id=ended))
    asked = api.ExecSyncRequest(container_id=ended, cmd=["true"])
    await expect(place, FP, "", runtime.ExecSync, asked)
    config = crisp.attacker("true")
    config.linux.security_context.namespace_options.pid = api.TARGET
    config.linux.security_context.namespace_options.target_id = ended
    request = api.CreateContainerRequest(pod_sandbox_id=place.pod, config=config)
    await expect(place, FP, "running|does not run", runtime.CreateContainer, request)


async def test_the_smaller_requests_are_checked_too(place: Place) -> None:
    """Rows 38, 43 and 44, and image requests of row 14 (CVE-2024-3727)."""
    crisp, id = place.crisp, place.running
    runtime, images = crisp.runtime, crisp.images
    update = api.UpdateContainerResourcesRequest
    secret = api.AuthConfig(username="a", password="b")
    rows: list[tuple[grpc.StatusCode, str, Callable[[Any], Any], Message]] = [
        (IA, "cmd", runtime.ExecSync, api.ExecSyncRequest(container_id=id)),
        (IA, "cmd", runtime.ExecSync, api.ExecSyncRequest(container_id=id, cmd=[""])),
        (IA, "cmd", runtime.ExecSync, api.ExecSyncRequest(container_id=id, cmd=["a\0b"])),
        (IA, "timeout", runtime.ExecSync, api.ExecSyncRequest(container_id=id, cmd=["true"], timeout=-1)),
        (IA, "timeout", runtime.StopContainer, api.StopContainerRequest(container_id=id, timeout=-1)),
        (IA, "linux", runtime.UpdateContainerResources, update(container_id=id)),
        (
            IA,
            "memory",
            runtime.UpdateContainerResources,
            update(container_id=id, linux=api.LinuxContainerResources(memory_limit_in_bytes=-5)),
        ),
        (
            FP,
            "cpus",
            runtime.UpdateContainerResources,
            update(container_id=id, linux=api.LinuxContainerResources(cpuset_cpus="8000")),
        ),
        *(
            (code, words, runtime.UpdatePodSandboxResources, resize(place.pod, text))
            for code, words, text in (
                (IA, "missing", ""),
                (IA, "memory", "resources { memory_limit_in_bytes: -5 }"),
                (IA, "memory", "overhead { memory_limit_in_bytes: -5 }"),
                (IA, "shares", "resources { cpu_shares: -1 }"),
                (IA, "period", "resources { cpu_period: 999 }"),
                (IA, "cpus", 'resources { cpuset_cpus: "0-" }'),
                (FP, "cpus", 'resources { cpuset_cpus: "8000" }'),
                (IA, "unified", 'resources { unified { key: "../x" value: "1" } }'),
                (IA, "hugepage", 'resources { hugepage_limits { page_size: "2 MB" limit: 1 } }'),
            )
        ),
        (IA, "pod_cidr", runtime.UpdateRuntimeConfig, config_of("10.0.0.0/8,10.1.0.0/16")),
        (IA, "pod_cidr", runtime.UpdateRuntimeConfig, config_of("10.0.0.1/99")),
        (IA, "image", images.ImageStatus, api.ImageStatusRequest()),
        (IA, "image", images.PullImage, api.PullImageRequest()),
        (IA, "", images.PullImage, api.PullImageRequest(image=api.ImageSpec(image="x@sha256:../x"))),
        (IA, "", images.PullImage, api.PullImageRequest(image=api.ImageSpec(image="x@md5:" + "0" * 32))),
        (IA, "", images.PullImage, api.PullImageRequest(image=api.ImageSpec(image="localhost:99999/x"))),
        (FP, "authentication", images.PullImage, api.PullImageRequest(image=api.ImageSpec(image="x"), auth=secret)),
        (IA, "", images.RemoveImage, api.RemoveImageRequest(image=api.ImageSpec(image="../../x"))),
        (OK, "", images.RemoveImage, api.RemoveImageRequest(image=api.ImageSpec(image="nowhere.local/none:1"))),
    ]
    for code, words, method, request in rows:
        await expect(place, code, words, method, request)


def exec_of(id: str, **changes: Any) -> api.ExecRequest:
    return api.ExecRequest(**{"container_id": id, "cmd": ["true"], "stdout": True, **changes})


def attach_of(id: str, **changes: Any) -> api.AttachRequest:
    return api.AttachRequest(**{"container_id": id, "stdout": True, **changes})


def forward_of(id: str, *ports: int) -> api.PortForwardRequest:
    return api.PortForwardRequest(pod_sandbox_id=id, port=ports)


async def test_streaming_requests_are_refused_before_there_is_a_url(place: Place) -> None:
    """Rows 24, 43 and 44, and what does not run."""
    runtime, id, nobody = place.crisp.runtime, place.running, "f" * 64
    rows: list[tuple[grpc.StatusCode, str, Callable[[Any], Any], Message]] = [
        (NF, "", runtime.Exec, exec_of(nobody)),
        (NF, "", runtime.Attach, attach_of(nobody)),
        (NF, "", runtime.PortForward, forward_of(nobody, 80)),
        (IA, "stderr: a terminal", runtime.Exec, exec_of(id, tty=True, stderr=True)),
        (IA, "stderr: a terminal", runtime.Attach, attach_of(id, tty=True, stderr=True)),
        (IA, "none is asked for", runtime.Exec, exec_of(id, stdout=False)),
        (IA, "none is asked for", runtime.Exec, exec_of(id, stdout=False, tty=True)),
        (IA, "none is asked for", runtime.Attach, attach_of(id, stdout=False)),
        (IA, "cmd: is empty", runtime.Exec, exec_of(id, cmd=[])),
        (IA, r"cmd\[0\]: is empty", runtime.Exec, exec_of(id, cmd=["", "x"])),
        (IA, "cmd: has a NUL", runtime.Exec, exec_of(id, cmd=["a", "b\0c"])),
        (IA, r"port\[1\]: must be between", runtime.PortForward, forward_of(place.pod, 80, 65536)),
        (IA, r"port\[0\]: must be between", runtime.PortForward, forward_of(place.pod, 0)),
        (IA, r"port\[0\]: must be between", runtime.PortForward, forward_of(place.pod, -1)),
        (FP, "only a running container can be the target of an exec", runtime.Exec, exec_of(place.created)),
        (FP, "only a running container can be attached to", runtime.Attach, attach_of(place.created)),
        (FP, "only a ready pod can be forwarded to", runtime.PortForward, forward_of(place.stopped_pod, 80)),
    ]
    for code, words, method, request in rows:
        await expect(place, code, words, method, request)


def resize(pod: str, text: str) -> api.UpdatePodSandboxResourcesRequest:
    return text_format.Parse(text, api.UpdatePodSandboxResourcesRequest(pod_sandbox_id=pod))


def config_of(pod_cidr: str) -> api.UpdateRuntimeConfigRequest:
    network = api.NetworkConfig(pod_cidr=pod_cidr)
    return api.UpdateRuntimeConfigRequest(runtime_config=api.RuntimeConfig(network_config=network))


async def test_a_request_above_16_mib_is_too_large(place: Place) -> None:
    """Row 45."""
    config = place.crisp.attacker("true")
    config.envs.append(api.KeyValue(key="A", value=b"x" * (16 << 20)))
    request = api.CreateContainerRequest(pod_sandbox_id=place.pod, config=config)
    await expect(place, RE, "larger than max", place.crisp.runtime.CreateContainer, request)


async def test_what_is_below_the_limit_but_too_much_for_execve_is_refused(place: Place) -> None:
    """Row 36: a megabyte of environment is for the kernel to judge; the container is at fault, not the host."""
    config = place.crisp.attacker("true")
    config.envs.append(api.KeyValue(key="A", value=b"x" * (8 << 20)))
    id = await place.crisp.create(place.pod, config)
    start = place.crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    await refused(start, FP, "argument list too long")


async def test_an_rpc_that_is_not_there_says_so(place: Place) -> None:
    """CVE-2024-8676, CVE-2026-53489: checkpoints."""
    runtime = place.crisp.runtime
    rows: list[tuple[str, Message]] = [
        ("CheckpointContainer", api.CheckpointContainerRequest(container_id=place.running, location="/tmp/x.tar")),
        ("CheckpointPod", api.CheckpointPodRequest(pod_sandbox_id=place.pod, output_path="/tmp/x.tar")),
        ("RestorePod", api.RestorePodRequest(checkpoint_path="/tmp/x.tar")),
    ]
    for name, request in rows:
        await expect(place, UN, f"does not have {name} yet", getattr(runtime, name), request)
