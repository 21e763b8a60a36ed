"""What a container sees and may do: namespaces, capabilities, seccomp, masks, sysctls, a terminal."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from proto import api_pb2 as api
from tests.cri.harness import Crisp

DEFAULT_CAPABILITIES = 0xA80425FB
"""The fourteen of Docker and containerd."""

SECURITY = "grep -E '^(Cap|NoNewPrivs|Seccomp:)' /proc/self/status"


async def say(crisp: Crisp, sandbox: str, script: str, config: api.ContainerConfig | None = None) -> str:
    """What a shell script says as a container of the pod."""
    made = config or crisp.container(name=f"say-{len(crisp.host.store.containers)}")
    del made.command[:]
    made.command.extend(("sh", "-c", script))
    id = await crisp.run(sandbox, made)
    status = await crisp.wait_exit(id)
    assert status.exit_code == 0, crisp.log(id)
    return crisp.log(id)


def status_fields(text: str) -> dict[str, int]:
    """Lines of /proc/PID/status; masks are hexadecimal."""
    pairs = (line.split(":\t") for line in text.splitlines())
    return {name: int(value, 16) for name, value in pairs}


async def test_an_ordinary_container_has_the_default_rights_and_no_more(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    found = status_fields(await say(crisp, sandbox, SECURITY))
    held = DEFAULT_CAPABILITIES & bounding()
    assert (found["CapPrm"], found["CapEff"], found["CapBnd"]) == (held, held, held)
    assert found["CapInh"] == found["CapAmb"] == 0
    assert found["Seccomp"] == 2 and found["NoNewPrivs"] == 0


def bounding() -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line.split()[1] for line in lines if line.startswith("CapBnd")), 16)


async def test_rights_are_added_dropped_and_confined_as_asked(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    config = crisp.container()
    context = config.linux.security_context
    context.capabilities.drop_capabilities.append("ALL")
    context.capabilities.add_capabilities.append("NET_BIND_SERVICE")
    context.no_new_privs = True
    context.seccomp.profile_type = api.SecurityProfile.Unconfined
    found = status_fields(await say(crisp, sandbox, SECURITY, config))
    assert found["CapEff"] == found["CapBnd"] == 1 << 10
    assert (found["NoNewPrivs"], found["Seccomp"]) == (1, 0)


async def test_a_user_other_than_root_has_no_effective_rights(crisp: Crisp) -> None:
    config = crisp.container()
    config.linux.security_context.run_as_user.value = 1000
    found = status_fields(await say(crisp, await crisp.run_pod(), SECURITY, config))
    assert found["CapEff"] == found["CapPrm"] == 0 and found["CapBnd"] == DEFAULT_CAPABILITIES & bounding()


async def test_a_privileged_container_has_all_that_the_daemon_has(crisp: Crisp) -> None:
    pod, config = crisp.pod(), crisp.container()
    pod.linux.security_context.privileged = config.linux.security_context.privileged = True
    config.linux.security_context.seccomp.profile_type = api.SecurityProfile.Unconfined
    said = await say(crisp, await crisp.run_pod(pod), f"{SECURITY}; ls /dev/null /dev/zero >&2; test -w /sys", config)
    lines = [line for line in said.splitlines() if not line.startswith("/dev")]
    assert status_fields("\n".join(lines))["CapEff"] == bounding()


@pytest.mark.parametrize(
    ("mode", "first"),
    [(api.POD, "pause"), (api.CONTAINER, "sh"), (api.NODE, "the host's")],
)
async def test_process_one_is_who_the_mode_says(crisp: Crisp, mode: api.NamespaceMode.ValueType, first: str) -> None:
    pod, config = crisp.pod(), crisp.container()
    for context in (pod.linux.security_context, config.linux.security_context):
        context.namespace_options.pid = mode
    sandbox = await crisp.run_pod(pod)
    said = await say(crisp, sandbox, "readlink /proc/self/ns/pid; cat /proc/1/comm; echo $$", config)
    namespace, comm, own = said.splitlines()
    host = os.readlink("/proc/self/ns/pid")
    assert (namespace == host) == (mode == api.NODE)
    if mode == api.NODE:
        assert comm == Path("/proc/1/comm").read_text().strip() and int(own) > 1
    else:
        assert comm == first and (int(own) == 1) == (mode == api.CONTAINER)


async def test_a_target_shares_its_processes(crisp: Crisp) -> None:
    sandbox = await crisp.run_pod()
    target = await crisp.run(sandbox, crisp.container("sleep", "4711"))
    config = crisp.container(name="debug")
    options = config.linux.security_context.namespace_options
    options.pid, options.target_id = api.TARGET, target
    said = await say(crisp, sandbox, "tr '\\0' ' ' </proc/1/cmdline; echo $$", config)
    assert said.startswith("sleep 4711 ") and int(said.split()[-1]) > 1


@pytest.mark.parametrize("mode", [api.POD, api.NODE])
async def test_ipc_and_shared_memory_are_the_pods_or_the_nodes(crisp: Crisp, mode: api.NamespaceMode.ValueType) -> None:
    pod = crisp.pod()
    pod.linux.security_context.namespace_options.ipc = mode
    sandbox = await crisp.run_pod(pod)
    first, second = crisp.container(name="a"), crisp.container(name="b")
    for config in (first, second):
        config.linux.security_context.namespace_options.ipc = mode
    name = f"crisp-test-{os.getpid()}"
    script = f"readlink /proc/self/ns/ipc; echo shared >/dev/shm/{name}; df -k /dev/shm | tail -1"
    namespace, filesystem = (await say(crisp, sandbox, script, first)).splitlines()
    try:
        assert (namespace == os.readlink("/proc/self/ns/ipc")) == (mode == api.NODE)
        assert os.path.exists(f"/dev/shm/{name}") == (mode == api.NODE)
        if mode == api.POD:
            assert filesystem.split()[1] == "65536"
        assert await say(crisp, sandbox, f"cat /dev/shm/{name}", second) == "shared"
    finally:
        if mode == api.NODE:
            os.unlink(f"/dev/shm/{name}")


async def test_sysctls_are_set_in_the_pods_namespaces_alone(crisp: Crisp) -> None:
    pod = crisp.pod()
    pod.linux.sysctls.update({"kernel.shm_rmid_forced": "1", "net.ipv4.ip_local_port_range": "4000 5000"})
    files = "/proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range"
    before = [Path(file).read_text() for file in files.split()]
    said = await say(crisp, await crisp.run_pod(pod), f"cat {files} /proc/sys/net/ipv4/ip_unprivileged_port_start")
    assert said.split() == ["1", "4000", "5000", "0"]
    assert [Path(file).read_text() for file in files.split()] == before


async def test_paths_of_the_kernel_are_masked_and_read_only_as_asked(crisp: Crisp) -> None:
    config = crisp.container()
    config.linux.security_context.masked_paths.extend(["/proc/kcore", "/proc/timer_list", "/sys/firmware", "/nowhere"])
    config.linux.security_context.readonly_paths.extend(["/proc/sys", "/etc"])
    script = """
        wc -c </proc/timer_list; ls -A /sys/firmware | wc -l
        touch /etc/new 2>/dev/null || echo read-only
        tee /proc/sys/kernel/domainname </etc/hostname >/dev/null 2>&1 || echo read-only
        touch /tmp/fine && echo writable
    """
    said = await say(crisp, await crisp.run_pod(), script, config)
    assert said.split() == ["0", "0", "read-only", "read-only", "writable"]


async def test_a_read_only_root_still_has_its_own_places_to_write(crisp: Crisp) -> None:
    config = crisp.container()
    config.linux.security_context.readonly_rootfs = True
    script = "touch /x 2>/dev/null || echo refused; echo y >/dev/shm/y && cat /dev/shm/y; echo z >/dev/null && echo ok"
    assert (await say(crisp, await crisp.run_pod(), script, config)).split() == ["refused", "y", "ok"]


async def test_a_terminal_is_one_and_its_output_is_logged(crisp: Crisp) -> None:
    config = crisp.container(tty=True)
    said = await say(crisp, await crisp.run_pod(), "tty; test -t 0 && test -t 2 && echo $TERM; echo oops >&2", config)
    assert said.replace("\r", "").splitlines() == ["/dev/pts/0", "xterm", "oops"]


async def test_standard_input_is_empty_unless_asked_for(crisp: Crisp) -> None:
    assert await say(crisp, await crisp.run_pod(), "readlink /proc/self/fd/0; cat") == "/dev/null"


async def test_hosts_hostname_and_resolver_are_the_pods(crisp: Crisp) -> None:
    pod = crisp.pod(dns_config=api.DNSConfig(servers=["10.9.8.7"]))
    sandbox = await crisp.run_pod(pod)
    said = await say(crisp, sandbox, "hostname; cat /etc/hostname /etc/resolv.conf; grep -c $(hostname) /etc/hosts")
    assert said.splitlines() == [pod.hostname, pod.hostname, "nameserver 10.9.8.7", "1"]


async def test_pods_reach_each_other_and_the_host_reaches_them(crisp: Crisp) -> None:
    first, second = await crisp.run_pod(), await crisp.run_pod()
    address = crisp.host.store.sandboxes.get(first).addresses[0]
    await crisp.run(first, crisp.container("httpd", "-f", "-p", "80", "-h", "/etc"))
    asking = f"for i in $(seq 400); do wget -q -O - http://{address}/hostname 2>/dev/null && exit; sleep 0.05; done"
    assert await say(crisp, second, asking) == crisp.host.store.sandboxes.get(first).name
    _, writer = await asyncio.open_connection(address, 80)
    writer.close()
    await writer.wait_closed()
