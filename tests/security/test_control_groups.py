"""Nobody leaves its control group or changes one, and every process is in its own (R5, R8)."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path

import pytest

from proto import api_pb2 as api
from runtime.cgroups.layout import Kind
from tests.security.attacks import Attacked

pytestmark = [
    pytest.mark.asyncio(loop_scope="module"),
    pytest.mark.leaks("module"),
    pytest.mark.skipif(os.uname().machine != "x86_64", reason="the numbers of system calls are those of x86_64"),
]

MOUNT = 165


async def test_a_writable_hierarchy_gives_a_container_control_groups(crisp: Attacked) -> None:
    """CVE-2023-25809, CVE-2022-0492 as they were: where the hierarchies are writable, as for a privileged container,
    a cgroup is made and processes are moved into it."""
    config = crisp.pod()
    config.linux.security_context.privileged = True
    container = crisp.attacker("sleep", "1000")
    container.linux.security_context.privileged = True
    id = await crisp.run(await crisp.run_pod(config), container)
    place = "/sys/fs/cgroup" if crisp.host.layout.kind is Kind.V2 else "/sys/fs/cgroup/pids"
    script = "mkdir $0; sleep 100 & echo $! > $0/cgroup.procs; cat $0/cgroup.procs; kill $!; wait; rmdir $0"
    said = await crisp.say(id, "sh", "-c", script, f"{place}/x")
    assert said.isdigit(), said


async def test_a_child_that_nobody_places_is_in_the_cgroup_of_its_parent() -> None:
    """CVE-2025-47291 as it was: a process that is only forked counts to whoever forked it."""
    own = Path("/proc/self/cgroup").read_text()
    assert subprocess.run(["cat", "/proc/self/cgroup"], capture_output=True, text=True, check=True).stdout == own


async def test_control_groups_cannot_be_changed_from_inside(crisp: Attacked) -> None:
    """CVE-2023-25809, CVE-2022-0492: no cgroup is made, none is left, no release agent is set."""
    id = await crisp.run(await crisp.run_pod(), crisp.attacker("sleep", "1000"))
    places = [path for path in Path(f"/proc/{crisp.pid(id)}/root/sys/fs/cgroup").iterdir() if path.is_dir()]
    assert places
    for name in ("", *(place.name for place in places)):
        below = f"/sys/fs/cgroup/{name}"
        script = f"mkdir {below}/x; echo 0 > {below}/cgroup.procs; echo /x > {below}/notify_on_release"
        said = await crisp.say(id, "sh", "-c", script)
        assert said.count("Read-only file system") == 3, said
    for kind in ("cgroup", "cgroup2"):
        assert await crisp.call(id, MOUNT, "@none", "@/tmp", f"@{kind}", 0, 0) == -errno.EPERM


@pytest.mark.parametrize("mode", [api.POD, api.CONTAINER, api.NODE])
async def test_every_process_is_below_the_cgroup_of_its_pod(mode: api.NamespaceMode.ValueType, crisp: Attacked) -> None:
    """CVE-2025-47291: pause, init and a command, in every PID mode and every hierarchy that limits anything."""
    config = crisp.pod()
    config.linux.security_context.namespace_options.pid = mode
    pod = await crisp.run_pod(config)
    container = crisp.attacker("sleep", "1000")
    container.linux.security_context.namespace_options.pid = mode
    id = await crisp.run(pod, container)
    parent = f"/crisp-{crisp.host.instance}/{pod}"
    limiting = [set(tree.controllers) for tree in crisp.host.layout.v1] + [{""}] * (crisp.host.layout.v2 is not None)
    assert crisp.host.layout.v2_controllers or {"cpu", "memory", "pids", "devices"} <= set().union(*limiting)
    for pid, own in ((crisp.pid(id), id), (crisp.host.store.sandboxes.get(pod).pause_pid, pod)):
        lines = [line.split(":", 2) for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()]
        assert [line[2] for line in lines if set(line[1].split(",")) in limiting] == [f"{parent}/{own}"] * len(limiting)
    inside = await crisp.say(id, "cat", "/proc/self/cgroup")
    assert "exec-" in inside
