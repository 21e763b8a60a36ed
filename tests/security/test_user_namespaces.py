"""Root of a pod with a user namespace is nobody on the host, and cannot look at who joins it (R3, R8)."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from proto import api_pb2 as api
from tests.security.attacks import Attacked, status_of

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.leaks("module")]

HOST, SIZE = 500_000, 65_536
ALL = "ALL"


def mapped(options: api.NamespaceOption, host: int) -> None:
    for field in (options.userns_options.uids, options.userns_options.gids):
        field.append(api.IDMapping(host_id=host, length=SIZE))


Make = Callable[..., Awaitable[str]]


async def pod_of_its_own(crisp: Attacked, host: int = HOST) -> tuple[str, Make]:
    """A pod whose containers share its PID namespace, and what starts a container of it."""
    config = crisp.pod()
    config.linux.security_context.namespace_options.pid = api.POD
    mapped(config.linux.security_context.namespace_options, host)
    pod = await crisp.run_pod(config)

    async def start(*command: str, capability: str = "", **changes: Any) -> str:
        container = crisp.attacker(*command, **changes)
        options = container.linux.security_context.namespace_options
        options.pid = api.POD
        mapped(options, host)
        if capability:
            container.linux.security_context.capabilities.add_capabilities.append(capability)
        return await crisp.run(pod, container)

    return pod, start


def power(pid: int) -> int:
    return int(status_of(pid)["CapEff"], 16)


async def test_root_that_is_root_outside_as_well_may_do_everything(crisp: Attacked) -> None:
    """CVE-2025-47291's neighbours, the weak variant: without a user namespace, capabilities count on the host."""
    config = crisp.attacker("sleep", "1000")
    config.linux.security_context.capabilities.add_capabilities.append("SYS_ADMIN")
    id = await crisp.run(await crisp.run_pod(), config)
    assert status_of(crisp.pid(id))["Uid"].split()[0] == "0"
    assert os.readlink(f"/proc/{crisp.pid(id)}/ns/user") == os.readlink("/proc/self/ns/user")


async def test_a_process_that_joins_a_user_namespace_cannot_be_looked_into(crisp: Attacked) -> None:
    """CVE-2016-9962: pod's root has every capability in its user namespace, to trace among them; commands and starts
    join it all the time, and show neither the host's root nor a descriptor of it."""
    _, start = await pod_of_its_own(crisp)
    watcher, victim = await start("sleep", "1000", capability=ALL), await start("sleep", "1000")
    assert power(crisp.pid(watcher)) & 1 << 19  # CAP_SYS_PTRACE
    watching = asyncio.create_task(crisp.say(watcher, "probe", "watch", "4"))
    while not watching.done():
        await asyncio.gather(*(crisp.exec(victim, "true") for _ in range(5)))
        await start("true")
    seen = (await watching).splitlines()
    looks = next(int(line.split()[1]) for line in seen if line.startswith("looks"))
    assert looks > 100 and "exe /bin/sleep" in seen
    host = os.stat("/etc/passwd")
    assert f"passwd {host.st_dev}:{host.st_ino}" not in seen
    text = "\n".join(line for line in seen if not line.startswith("passwd"))
    for word in ("python", str(crisp.host.root), str(crisp.host.state), "CRISP", "launch", "monitor"):
        assert word not in text, word


ATTEMPTS = """
mkdir /tmp/m; mount -t proc none /tmp/m && echo core > /tmp/m/sys/kernel/core_pattern && echo got core_pattern
mount -t cgroup -o pids none /tmp/m && echo got cgroup
mount -t sysfs none /tmp/m && echo 1 > /tmp/m/kernel/profiling && echo got sysfs
mknod /tmp/disk b $0 $1 && head -c1 /tmp/disk && echo got disk
mount -t ext4 /tmp/disk /tmp/m && echo got ext4
mknod /tmp/kmsg c 1 11 && head -c1 /tmp/kmsg && echo got kmsg
chown 70000 /tmp/m && echo got another owner
echo 0 > /proc/sys/vm/swappiness && echo got swappiness
echo -1000 > /proc/1/oom_score_adj && echo got score
hostname hostile && echo got hostname
swapoff -a && date -s 2001-01-01 && echo got time
insmod /tmp/none; chroot /proc/1/root ls /secret-of-the-host && echo got root
:
"""


async def test_all_capabilities_are_of_the_pod_alone(crisp: Attacked, tmp_path: Path) -> None:
    """CVE-2022-0492 and its like: with every capability and no filter, nothing of the host is changed or read."""
    _, start = await pod_of_its_own(crisp)
    before = {name: Path(name).read_text() for name in ("/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness")}
    disk = os.stat("/").st_dev
    id = await start("sleep", "1000", capability=ALL)
    said = await crisp.say(id, "sh", "-c", ATTEMPTS, str(os.major(disk)), str(os.minor(disk)))
    assert [line for line in said.splitlines() if line.startswith("got")] in ([], ["got hostname"]), said
    assert {name: Path(name).read_text() for name in before} == before
    assert int(status_of(crisp.pid(id))["Uid"].split()[0]) == HOST


async def test_a_pod_reaches_no_file_of_another_pod_s_root(crisp: Attacked) -> None:
    """Two pods with mappings apart: what one root owns, the other may not touch, though both are 0 inside."""
    _, first = await pod_of_its_own(crisp)
    _, second = await pod_of_its_own(crisp, HOST + SIZE)
    ids = [await first("sleep", "1000"), await second("sleep", "1000", capability=ALL)]
    pids = [crisp.pid(id) for id in ids]
    assert [os.stat(f"/proc/{pid}").st_uid for pid in pids] == [HOST, HOST + SIZE]
    for id in ids:
        await crisp.say(id, "sh", "-c", "umask 077; echo secret > /tmp/mine")
    assert os.stat(f"/proc/{pids[0]}/root/tmp/mine").st_uid == HOST
    as_second = ("setpriv", f"--reuid={HOST + SIZE}", f"--regid={HOST + SIZE}", "--clear-groups")
    seen = subprocess.run([*as_second, "cat", f"/proc/{pids[0]}/environ"], capture_output=True, text=True)
    assert seen.returncode and "denied" in seen.stderr
