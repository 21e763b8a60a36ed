"""Bad containers over real gRPC: each one gets exactly its code, and nothing was made.

The numbers are the rows of the table of bad inputs that the code was written against.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

import grpc
import grpc.aio
import pytest

from proto import api_pb2 as api
from runtime.capability_names import NAMES
from tests.security.attacks import refused
from tests.security.input_row import AE, FP, IA, NF
from tests.security.place import Place, expect

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

IMAGE_MOUNT = "mounts { container_path: '/a' readonly: true image { image: 'not/here' } %s }"
SECCOMP = "linux { security_context { seccomp { %s } } }"


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


async def test_what_is_below_the_limit_but_too_much_for_execve_is_refused(place: Place) -> None:
    """Row 36: a megabyte of environment is for the kernel to judge; the container is at fault, not the host."""
    config = place.crisp.attacker("true")
    config.envs.append(api.KeyValue(key="A", value=b"x" * (8 << 20)))
    id = await place.crisp.create(place.pod, config)
    start = place.crisp.runtime.StartContainer(api.StartContainerRequest(container_id=id))
    await refused(start, FP, "argument list too long")
